"""The application of the hostile suite, imported by its worker and by its own process."""

from __future__ import annotations

import os
from typing import Any

from dexpy import Concurrency, Operation, Retry

WITHOUT_VALIDATOR = "HOSTILE_WITHOUT_VALIDATOR"
"""The variable that disables the validator, for the control."""


class Canary(Operation, name="hostile.canary"):
    """A small run that hostile messages must not delay."""

    number: int

    def perform(self) -> int:
        return self.number


class StoredRun(Operation, name="hostile.kept"):
    """A run whose row is changed."""

    number: int
    retry_on = (Retry(ConnectionError, attempts=3, wait=0),)

    def perform(self) -> int:
        return self.number


class Limited(Operation, name="hostile.limited_kept"):
    """A run with a concurrency limit whose row is changed."""

    number: int
    concurrency = Concurrency(1)

    def perform(self) -> int:
        return self.number


class Plain(Operation, name="hostile.plain"):
    """A run without a record."""

    record = False

    def perform(self) -> None:
        pass


def _take_validator_out() -> None:
    import dramatiq

    from dexpy.brokers.message_validation import MessageValidator

    def read(self: MessageValidator, data: bytes, queue: str, *, moves: bool = False) -> Any:
        message: Any = dramatiq.Message
        return message.decode(data)

    MessageValidator.read = read  # type: ignore[method-assign]


if os.environ.get(WITHOUT_VALIDATOR):
    _take_validator_out()
