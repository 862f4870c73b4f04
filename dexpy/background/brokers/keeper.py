"""The keeper of the SQL broker's leases: a process that lives keeps its messages, however long they run."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Keeper(threading.Thread):
    """Renews the leases of a process, whatever its jobs are doing."""

    def __init__(self, renew: Callable[[], bool], interval_s: float) -> None:
        super().__init__(name="dexpy-leases", daemon=True)
        self._renew = renew
        self._interval_s = interval_s
        self._over = threading.Event()

    def run(self) -> None:
        """Renew until the end, sooner again after a renewal that failed."""
        pause_s = self._interval_s
        while not self._over.wait(pause_s):
            pause_s = self._interval_s if self._renew() else self._interval_s / 10

    def end(self) -> None:
        """Stop, and wait for a renewal that is under way, so that the database can be closed afterwards."""
        self._over.set()
        self.join()
