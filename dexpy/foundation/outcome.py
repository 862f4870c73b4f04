"""`Ok` and `Err`: what a run came to, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

R_co = TypeVar("R_co", covariant=True)


@attrs.frozen
class Ok(Generic[R_co]):
    """The run is done, with this value.

    Example:
        >>> match Ok(3):
        ...     case Ok(value):
        ...         print(value)
        3
    """

    value: R_co


@attrs.frozen
class Err:
    """The run ended in a business error or was refused by a guard.

    Attributes:
        code: The declared code.
        message: For people.
        details: A JSON object with facts.
        operation: Name of the operation that raised it, where it was a nested one.

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
    """True when a guard refused the run before `perform`."""


Outcome: TypeAlias = Ok[Any] | Err
