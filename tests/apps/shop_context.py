"""The application of the tests of ambient values and traces across workers: imported by them and by the workers."""

from __future__ import annotations

import asyncio
import os

from apps.shop import ShopOperation, create_tables
from dexpy import Operation, Retry, current_context, prop
from dexpy.foundation.failpoints import failpoint

__all__ = ["Ask", "Direct", "Flaky", "Gather", "Link", "create_tables"]


class Ask(Operation):
    """Tells what is around it."""

    locale: str = prop(context=True, default="en")

    def perform(self) -> list[str]:
        return [self.locale, ",".join(sorted(current_context())), str(os.getpid())]


class Link(ShopOperation):
    """One of a chain: each asks, and sends the next one from inside."""

    left: int

    def perform(self) -> list[str]:
        self.note(f"link {self.left}")
        self.session.flush()
        failpoint("in_perform")
        if self.left:
            Link(left=self.left - 1).async_().call()
        return Ask().call()


class Direct(Link):
    """The first one of a chain, without a record that could keep anything."""

    record = False


class Gather(Operation):
    """Asks three times side by side."""

    async def perform(self) -> list[list[str]]:
        return await asyncio.gather(*(Ask().acall() for _ in range(3)))


class Flaky(Link):
    """Fails the first time."""

    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)

    def perform(self) -> list[str]:
        answer = super().perform()
        if not os.path.exists("failed"):
            open("failed", "w").close()
            raise ConnectionError
        return answer
