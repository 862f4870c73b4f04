"""What a worker process has claimed of the SQL broker's table: the row, and the message as Dramatiq handles it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import dramatiq

if TYPE_CHECKING:
    from dexpy.background.brokers.consumer import Consumer
    from dexpy.background.brokers.leases import Leases


@attrs.define(eq=False)
class Claim:
    """One row that this process holds."""

    id: int
    queue: str
    priority: int
    payload: str
    consumer: Consumer | None
    settled: bool = False


class ClaimedMessage(dramatiq.MessageProxy):
    """A message that this process holds, to be acknowledged or refused."""

    def __init__(self, message: dramatiq.Message[Any], claim: Claim, leases: Leases) -> None:
        super().__init__(message)  # pyright: ignore[reportUnknownMemberType]
        self.claim = claim
        self.priority = claim.priority
        self.content = message
        self._leases = leases

    def ack(self) -> None:
        """The message is done: delete it, unless its lease was lost to another process."""
        self._leases.ack(self.claim)

    def nack(self) -> None:
        """The message is refused for good: keep it as dead."""
        self._leases.nack(self.claim)

    def give_back(self) -> None:
        """The message was not run: free it."""
        self._leases.give_back([self.claim])
