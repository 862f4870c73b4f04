"""The sender: what the store asks of whatever carries messages to the workers."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy.engine import Connection, Row


class Sender(Protocol):
    """Sees to it that a pending row gets its message."""

    @property
    def transactional(self) -> bool:
        """Whether a message is part of the transaction that stores its record."""
        ...

    def send(self, connection: Connection, row: Row[Any]) -> None:
        """Send the message of a row with the connection's commit, or leave it to the relay."""

    def ring(self) -> None:
        """Wake the workers of this process after a commit."""
