"""The plan of one enqueue: where and when it goes, and what is done before and after the commit."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import attrs

from dexpy.background.carriers import seconds_until
from dexpy.declaration.contract import Contract
from dexpy.declaration.policies import AsyncOptions, check_queue, seconds_of
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import OptionsError

DEFAULT_QUEUE = "default"


@attrs.frozen
class Plan:
    """Where and when one operation goes, with every option resolved.

    Attributes:
        queue: The queue's name.
        priority: Higher runs sooner.
        wait_s: Seconds from now on; None without a delay.
        at: The moment; None without one.
        expires_in_s: Seconds from now on, after which it is not begun any more; None for never.
    """

    queue: str
    priority: int
    wait_s: float | None
    at: datetime | None
    expires_in_s: float | None

    @classmethod
    def of(cls, operation: Any, contract: Contract, given: AsyncOptions) -> Plan:
        """The options of a call over those of its class.

        Raises:
            OptionsError: The queue function gave no queue name, or it would expire before it is due.
        """
        options = given.over(contract.options)
        queue = options.queue if options.queue is not None else DEFAULT_QUEUE
        if callable(queue):
            queue = check_queue(queue(operation), f"{contract.cls.__qualname__}.async_ (its queue function)")
        wait_s = None if options.in_ is None else seconds_of(options.in_, "in_", contract.cls.__qualname__)
        where = contract.cls.__qualname__
        expires_in_s = None if options.expires_in is None else seconds_of(options.expires_in, "expires_in", where)
        plan = cls(queue, options.priority or 0, wait_s, options.at, expires_in_s)
        if expires_in_s is not None and expires_in_s <= plan.delay_s:
            raise OptionsError(
                f"{where}.async_: it expires in {expires_in_s:g} s and is due only in {plan.delay_s:g} s, so that it "
                "could never run. Let expires_in be longer than the delay."
            )
        return plan

    @property
    def due_at(self) -> datetime | None:
        """The moment it is due by this process's clock, None for at once."""
        return self.at if self.wait_s is None else clock.now() + timedelta(seconds=self.wait_s)

    @property
    def delay_s(self) -> float:
        """Seconds until it is due, 0 for now."""
        return self.wait_s if self.wait_s is not None else seconds_until(self.at)
