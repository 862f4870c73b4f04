"""`Fair`: the runs of a queue start in turn by a key, such as the tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from dexpy.foundation.errors import DeclarationError
from dexpy.policies.keys import KeyRule, check_group


@attrs.frozen(init=False)
class Fair:
    """Start the waiting runs of a queue in turn by their keys, so that a key with many runs does not delay the others.

    Each worker process takes the next run from the next key that has one: with waiting runs of K keys, a key's first
    run starts at the latest when the process has started one run of each of the other keys.
    Within a key the runs start in the order of their due times. A higher priority comes before every turn.
    The turns are those of starts, not of time: a key with long runs occupies threads for longer.

    Args:
        by: The parts of the key, beside the class: names of props, or one function of the operation.
        template: Text with props in braces, ``"tenant:{tenant}"``, instead of *by*.
        group: A name that replaces the class in the key: classes with the same group have one turn for each key.

    Raises:
        DeclarationError: An argument is invalid.

    Example:
        >>> from dexpy import Operation
        >>> class Export(Operation):
        ...     tenant: int
        ...     fair = Fair("tenant")
        ...     def perform(self) -> None: ...
    """

    rule: KeyRule
    group: str | None

    def __init__(
        self,
        *by: str | Callable[[Any], object],
        template: str | None = None,
        group: str | None = None,
    ) -> None:
        if not by and template is None:
            raise DeclarationError(
                "Fair(): expected names of props, one function of the operation or template=, got none. "
                "Write Fair('tenant')."
            )
        group = check_group(group, "Fair")
        instance: Any = self
        instance.__attrs_init__(KeyRule.of(by, "Fair", template), group)
