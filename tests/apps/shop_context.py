"""Operations of the shop for the tests of propagated context and traces across workers."""

from __future__ import annotations

import asyncio
import os

from apps.shop import ShopOperation, create_tables
from dexpy import Operation, Retry, current_context, prop
from dexpy.foundation.failpoints import failpoint

__all__ = ["ChainedRun", "Direct", "Flaky", "Gather", "ReadContext", "create_tables"]


class ReadContext(Operation):
    """Returns the current context."""

    locale: str = prop(context=True, default="en")

    def perform(self) -> list[str]:
        return [self.locale, ",".join(sorted(current_context())), str(os.getpid())]


class ChainedRun(ShopOperation):
    """Reads the context and enqueues the next run of a chain."""

    remaining: int

    def perform(self) -> list[str]:
        self.note(f"link {self.remaining}")
        self.session.flush()
        failpoint("in_perform")
        if self.remaining:
            ChainedRun(remaining=self.remaining - 1).async_().call()
        return ReadContext().call()


class Direct(ChainedRun):
    """The first run of a chain, as a direct job without a record."""

    record = False


class Gather(Operation):
    """Reads the context three times concurrently."""

    async def perform(self) -> list[list[str]]:
        return await asyncio.gather(*(ReadContext().acall() for _ in range(3)))


class Flaky(ChainedRun):
    """Fails in its first attempt."""

    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)

    def perform(self) -> list[str]:
        answer = super().perform()
        if not os.path.exists("failed"):
            open("failed", "w").close()
            raise ConnectionError
        return answer
