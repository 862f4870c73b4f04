"""The first of two applications that share a queue; it sends mail."""

import os
from pathlib import Path

from dexpy import Operation, deferrable


def _note(text: str) -> None:
    with Path(os.environ["SENT_FILE"]).open("a") as file:
        file.write(f"{text}\n")


class SendMail(Operation):
    """Send a mail."""

    n: int

    def perform(self) -> int:
        return self.n


class SendDirectly(Operation):
    """Send a mail without a record."""

    record = False
    n: int

    def perform(self) -> None:
        _note(f"direct {self.n}")


@deferrable
def send_later(n: int) -> None:
    """Send a mail as a deferred call."""
    _note(f"deferred {n}")
