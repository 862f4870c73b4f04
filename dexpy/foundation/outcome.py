"""`Ok` and `Err`: the outcome of a run, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

R_co = TypeVar("R_co", covariant=True)


@attrs.frozen
class Ok(Generic[R_co]):
    """The outcome of a run that is done, with its result.

    Example:
        >>> match Ok(3):
        ...     case Ok(value):
        ...         print(value)
        3
    """

    value: R_co


@attrs.frozen
class Err:
    """The outcome of a run that ended with a business error or was refused by a guard.

    Attributes:
        code: The declared code.
        message: A message for people.
        details: Facts as a JSON object.
        operation: Name of the operation that raised it, if it was a nested one.

    Example:
        >>> match Err("no_balance", "Nothing to send"):
        ...     case Err("no_balance", message):
        ...         print(message)
        Nothing to send
    """

    code: str
    message: str
    details: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    operation: str | None = attrs.field(default=None, kw_only=True, repr=False)
    rejected: bool = attrs.field(default=False, kw_only=True, repr=False)
    """Whether a guard refused the run before `perform`."""


Outcome: TypeAlias = Ok[Any] | Err
