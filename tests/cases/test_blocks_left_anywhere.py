"""Blocks of `context`, `trace`, `session` and `isolated` that are left in another task, thread or order."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import dexpy
from dexpy import Operation
from dexpy.database.current_transaction import current_transaction
from dexpy.foundation.context import current_context
from dexpy.foundation.trace import current_frame
from dexpy.runtime import current_runtime, install
from dexpy.testing import isolated

ENGINE = sa.create_engine("sqlite://")


def _context(name: str) -> AbstractContextManager[Any]:
    return dexpy.context(tenant=name)


def _trace(name: str) -> AbstractContextManager[Any]:
    return dexpy.trace(trace_id=name)


_sessions: dict[str, Session] = {}


def _session(name: str) -> AbstractContextManager[Any]:
    return dexpy.session(_sessions.setdefault(name, Session(ENGINE)))


def _context_in_force() -> str | None:
    return current_context().get("tenant")


def _trace_in_force() -> str | None:
    trace_id = current_frame().trace_id
    return None if trace_id.startswith("tr_") else trace_id


def _session_in_force() -> str | None:
    place = current_transaction()
    return None if place is None else next(name for name, one in _sessions.items() if one is place.session())


Make = Callable[[str], AbstractContextManager[Any]]
Look = Callable[[], "str | None"]
KINDS = [(_context, _context_in_force), (_trace, _trace_in_force), (_session, _session_in_force)]
kinds = pytest.mark.parametrize(("make", "observe"), KINDS, ids=["context", "trace", "session"])


@kinds
def test_l7_a_generator_may_be_closed_in_another_task(make: Make, observe: Look) -> None:
    async def stream() -> AsyncGenerator[int]:
        with make("acme"):
            yield 1

    async def main() -> list[str | None]:
        generator = stream()
        await asyncio.create_task(generator.__anext__())  # type: ignore[arg-type]
        with make("here"):
            await asyncio.create_task(generator.aclose())  # type: ignore[arg-type]
            observed = [observe()]
        return [*observed, observe()]

    assert asyncio.run(main()) == ["here", None]


@kinds
def test_l7_an_error_of_the_body_is_raised_unchanged(make: Make, observe: Look) -> None:
    async def stream() -> AsyncGenerator[int]:
        with make("acme"):
            yield 1
            raise RuntimeError("of the body")

    async def main() -> None:
        generator = stream()
        await asyncio.create_task(generator.__anext__())  # type: ignore[arg-type]
        await asyncio.create_task(generator.__anext__())  # type: ignore[arg-type]

    with pytest.raises(RuntimeError, match="of the body"):
        asyncio.run(main())
    assert observe() is None


@kinds
def test_l7_a_generator_may_be_closed_in_another_thread(make: Make, observe: Look) -> None:
    def fixture() -> Generator[int]:
        with make("acme"):
            yield 1

    generator = fixture()
    contextvars.copy_context().run(next, generator)
    failed: list[BaseException] = []
    observed: list[str | None] = []

    def close() -> None:
        with make("there"):
            try:
                generator.close()
            except BaseException as error:
                failed.append(error)
            observed.append(observe())

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert (failed, observed, observe()) == ([], ["there"], None)


@kinds
def test_l7_a_generator_may_be_garbage_collected_in_any_thread(
    make: Make, observe: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)

    def fixture() -> Generator[int]:
        with make("acme"):
            yield 1

    generator: Any = fixture()
    contextvars.copy_context().run(next, generator)
    with make("here"):
        del generator
        gc.collect()
        assert observe() == "here"
    assert (observe(), unraisable) == (None, [])


@kinds
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_l7_blocks_may_be_left_in_any_order(make: Make, observe: Look, order: tuple[int, ...]) -> None:
    with make("around"):
        blocks = [make(f"b{number}") for number in range(3)]
        for block in blocks:
            block.__enter__()
        closed: set[int] = set()
        for number in order:
            blocks[number].__exit__(None, None, None)
            closed.add(number)
            open_ones = [f"b{one}" for one in range(3) if one not in closed]
            # The innermost block stays current until it is left; then the innermost open block is current.
            expected = "b2" if 2 not in closed else open_ones[-1] if open_ones else "around"
            assert observe() == expected
    assert observe() is None


@kinds
def test_l7_context_that_a_task_has_copied_stays_in_force_in_the_task(make: Make, observe: Look) -> None:
    async def main() -> list[str | None]:
        go_on = asyncio.Event()

        async def later() -> str | None:
            await go_on.wait()
            return observe()

        with make("acme"):
            task = asyncio.create_task(later())
            await asyncio.sleep(0)
        go_on.set()
        return [observe(), await task]

    assert asyncio.run(main()) == [None, "acme"]


class Told(Operation):
    def perform(self) -> str | None:
        return current_context().get("tenant")


def test_l7_runs_see_the_context_that_remains_after_blocks_were_left_out_of_order() -> None:
    with isolated():
        first, second = dexpy.context(tenant="first"), dexpy.context(tenant="second")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert Told().call() == "second"
        second.__exit__(None, None, None)
        assert Told().call() is None


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_l7_isolated_blocks_may_be_left_in_any_order(order: tuple[int, ...]) -> None:
    before = install(None)
    blocks = [isolated(), isolated()]
    runtimes = [block.__enter__().runtime for block in blocks]
    assert current_runtime() is runtimes[1]
    blocks[order[0]].__exit__(None, None, None)
    assert current_runtime() is runtimes[order[1]]
    assert Told().call() is None
    blocks[order[1]].__exit__(None, None, None)
    assert install(before) is None


def test_l7_an_isolated_block_may_be_left_in_another_thread() -> None:
    before = install(None)
    block = isolated()
    block.__enter__()
    thread = threading.Thread(target=lambda: block.__exit__(None, None, None))
    thread.start()
    thread.join()
    assert install(before) is None
