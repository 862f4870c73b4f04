"""The vigil of a process that calls operations with a key in place: it lives, and looks for those that do not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs

from dexpy.background.heart import Heart
from dexpy.background.rescue import LOCK_WAIT_S, Rescue
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording import lock_waits


@attrs.frozen
class Vigil:
    """See `dexpy.recording.once.Vigil`.

    Attributes:
        heart: Of this process.
        rescue: Takes from dead processes what they held.
    """

    heart: Heart
    rescue: Rescue

    def begin(self) -> str:
        """Give signs of life from now on; returns the process's name."""
        self.heart.worker_id  # noqa: B018 - begins to beat, so that there is something to be sound
        self.heart.await_soundness()
        self.heart.end_at_exit()
        return self.heart.worker_id

    def look(self) -> None:
        """Take from dead processes what they held, where there may be no relay that does."""
        try:
            with lock_waits.at_most(LOCK_WAIT_S):
                self.rescue.run_once()
        except Exception as error:  # noqa: BLE001 - whoever waits goes on waiting
            line(logging.DEBUG, "vigil.failed", error=class_path(error))

    def see_to(self, action: Callable[[], None]) -> None:
        """Do something that cannot be done now with one of the next beats."""
        self.heart.see_to(action)
