"""The commit of an AsyncSession: the publishing after it does not block the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dramatiq.brokers.stub import StubBroker

import dexpy
from dexpy import Operation, records

pytest.importorskip("greenlet")
pytest.importorskip("aiosqlite")

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

SLOW_S = 0.6


class Brief(Operation):
    def perform(self) -> str:
        return "brief"


class SlowBroker(StubBroker):
    """Accepts a message after a delay, and records the thread that published it."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.started = threading.Event()
        self.is_down = False

    def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
        self.started.set()
        time.sleep(SLOW_S)
        self.threads.append(threading.get_ident())
        if self.is_down:
            raise ConnectionError("the broker is down")
        return super().enqueue(message, delay=delay)


@pytest.fixture
def broker(tmp_path: Path) -> Generator[SlowBroker]:
    slow_broker = SlowBroker()
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'app.db'}", broker=slow_broker)
    # Create the tables, and do the checks that a process does once.
    Brief().async_().call()
    slow_broker.threads.clear()
    slow_broker.started.clear()
    yield slow_broker
    runtime.close()


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[AsyncSession]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'app.db'}")
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


async def longest_pause_s(work: asyncio.Task[Any]) -> float:
    """Return the longest time for which the loop was blocked until a task ended, in seconds."""
    longest_s, last = 0.0, time.monotonic()
    while not work.done():
        await asyncio.sleep(0.01)
        now = time.monotonic()
        longest_s, last = max(longest_s, now - last), now
    return longest_s


async def wait_until_started(broker: SlowBroker) -> None:
    while not broker.started.is_set():
        await asyncio.sleep(0.01)


def test_a_slow_broker_does_not_stop_the_loop(broker: SlowBroker, tmp_path: Path) -> None:
    async def main() -> float:
        async with opened(tmp_path) as session:
            ticket = await Brief().async_(session=session).acall()
            commit = asyncio.create_task(session.commit())
            longest_s = await longest_pause_s(commit)
            await commit
            assert len(broker.threads) == 1, "the commit ends after the message is published"
            assert ticket.reload().pending
            return longest_s

    assert asyncio.run(main()) < SLOW_S
    assert threading.get_ident() not in broker.threads


def test_a_refused_publish_after_an_awaited_commit_leaves_the_row_for_the_relay(
    broker: SlowBroker, tmp_path: Path
) -> None:
    broker.is_down = True

    async def main() -> str:
        async with opened(tmp_path) as session:
            ticket = await Brief().async_(session=session).acall()
            await session.commit()
            return ticket.id

    id = asyncio.run(main())

    assert unpublished_ids() == [id]


def unpublished_ids() -> list[str]:
    """Return the ids of the rows that the relay has to publish."""
    import sqlalchemy as sa

    from dexpy.database.tables import records as table

    store = dexpy.current_runtime().store
    return [row.id for row in store.rows(sa.select(table.c.id).where(table.c.enqueued_at.is_(None)))]


def test_a_commit_that_is_cancelled_while_it_publishes_publishes_all_messages_before_it_is_cancelled(
    broker: SlowBroker, tmp_path: Path
) -> None:
    after: list[str] = []

    async def send(session: AsyncSession) -> None:
        for _ in range(3):
            await Brief().async_(session=session).acall()
        await session.commit()
        await asyncio.sleep(0)
        after.append("the next step ran")

    async def main() -> None:
        async with opened(tmp_path) as session:
            task = asyncio.create_task(send(session))
            await wait_until_started(broker)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())

    assert len(broker.threads) == 3
    assert after == []
    assert unpublished_ids() == []
    assert records.pending().count() == 4


def test_an_asyncio_timeout_around_a_commit_raises_a_timeout_error(broker: SlowBroker, tmp_path: Path) -> None:
    async def run_out(limit: asyncio.Timeout) -> None:
        await wait_until_started(broker)
        limit.reschedule(asyncio.get_running_loop().time())

    async def main() -> None:
        async with opened(tmp_path) as session:
            await Brief().async_(session=session).acall()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    # The timeout expires during the publishing, not during the commit before it.
                    running_out = asyncio.create_task(run_out(limit))
                    await session.commit()
                    await asyncio.sleep(0)
            await running_out

    asyncio.run(main())

    assert len(broker.threads) == 1


def test_a_plain_session_on_the_loop_publishes_after_its_commit(broker: SlowBroker, tmp_path: Path) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    async def main() -> None:
        engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
        with Session(engine) as session, dexpy.session(session):
            Brief().async_().call()
            session.commit()
        engine.dispose()

    asyncio.run(main())

    assert broker.threads == [threading.get_ident()]
