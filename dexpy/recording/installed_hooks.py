"""The hooks of the current runtime, by name, so that the ends of runs cost nothing without them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import attrs

ON_FAILURE: Final = "on_failure"
ON_FINISH: Final = "on_finish"
SUCCESS: Final = "succeed"
ENDS: Final = frozenset((
    "succeed", "refuse", "reject", "crash", "lose", "cancel_running", "expire", "cancel", "discard", "park",
))  # fmt: skip
"""The events of the state machine that end a run."""


@attrs.define
class InstalledHooks:
    """The names of the hooks of the current runtime."""

    names: tuple[str, ...] = ()

    def called_for(self, event: str) -> Collection[str]:
        """Return the hooks that are called for an event of the state machine."""
        if not self.names or event not in ENDS:
            return ()
        return [name for name in self.names if name == ON_FINISH or event != SUCCESS]


installed_hooks = InstalledHooks()
