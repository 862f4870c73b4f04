"""Exceptions that pass between the thread of a run and an event loop: they are raised, and keep no objects alive."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from typing import Any

import pytest
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from dexpy import Error, Operation, TimedOut, after, before, guard, records
from dexpy.errors import Interrupted, NotRunning
from dexpy.execution.async_bridge import ThreadBridge
from dexpy.foundation.futures import settle_with_error
from dexpy.testing import Isolated
from dexpy.transactions.async_commits import run_off_loop

WAIT_S = 10.0


def stop_iteration() -> int:
    return next(iter([]))


class Unsettling(Exception):
    """An exception that refuses attributes and has no text."""

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError("nothing is set here")

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Leaves(BaseException):
    """A BaseException of the application."""


class First(Operation):
    def perform(self) -> int:
        return stop_iteration()


class FirstAsync(Operation):
    async def perform(self) -> int:
        return stop_iteration()


class FirstInSession(Operation):
    async def perform(self) -> int:
        return await self.in_session(lambda _session: stop_iteration())


class FirstInside(Operation):
    async def perform(self) -> int:
        return await First().acall()


class FirstBefore(Operation):
    @before
    def observe(self) -> None:
        stop_iteration()

    def perform(self) -> int:
        return 1


class FirstAfter(Operation):
    @after
    def observe(self) -> None:
        stop_iteration()

    def perform(self) -> int:
        return 1


class FirstGuarded(Operation):
    @guard("nothing is there")
    def nothing_there(self) -> bool:
        return bool(stop_iteration())

    def perform(self) -> int:
        return 1


class FirstInTransaction(Operation):
    transaction = False

    def perform(self) -> int:
        with self.transaction():
            return stop_iteration()


async def ended(awaitable: Awaitable[Any]) -> BaseException:
    """Return the exception of an awaitable; fail if it does not end in time."""
    task = asyncio.ensure_future(awaitable)
    done, _ = await asyncio.wait([task], timeout=WAIT_S)
    assert done, "the run has not ended"
    error = task.exception()
    assert error is not None
    return error


@pytest.mark.parametrize(
    "operation", [First, FirstAsync, FirstInSession, FirstInside, FirstBefore, FirstAfter, FirstGuarded,
                  FirstInTransaction], ids=lambda operation: operation.__name__
)  # fmt: skip
def test_n6_a_stop_iteration_ends_an_await_as_an_ordinary_error(
    isolated_runtime: Isolated, operation: type[Operation]
) -> None:
    error = asyncio.run(ended(operation().acall()))

    assert isinstance(error, RuntimeError)
    chain: BaseException | None = error
    while chain is not None and not isinstance(chain, StopIteration):
        chain = chain.__cause__
    assert chain is not None, "the StopIteration is a cause of the error"


class Unclassed(Exception):
    """An exception for which isinstance() raises."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError("no class")


@pytest.mark.parametrize(
    "error_type", [Unclassed, Unsettling, Leaves, GeneratorExit, StopAsyncIteration, asyncio.CancelledError]
)
def test_n6_any_exception_that_plain_code_raises_ends_an_await(
    isolated_runtime: Isolated, error_type: type[BaseException]
) -> None:
    class Raises(Operation):
        def perform(self) -> int:
            raise error_type

    class RaisesInSession(Operation):
        async def perform(self) -> int:
            return await self.in_session(self.work)

        def work(self, session: Session) -> int:
            raise error_type

    async def main() -> None:
        for operation in (Raises(), RaisesInSession()):
            task = asyncio.ensure_future(operation.acall())
            done, _ = await asyncio.wait([task], timeout=WAIT_S)
            assert done, "the run has not ended"
            # Of a class that refuses attributes, the error that it raises for them is raised instead.
            with pytest.raises((error_type, RuntimeError)):
                await task

    asyncio.run(main())


class Disguised(Exception):
    """An exception that is an instance of another class for isinstance()."""

    __class__ = property(lambda self: KeyboardInterrupt)  # type: ignore[assignment]


class Unreadable(Exception):
    """An exception whose attributes cannot be read."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no attributes")


class UnclassedStop(StopIteration):
    """A StopIteration for which isinstance() raises."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError("no class")


class Hostile(Exception):
    """An exception whose methods and attributes raise, except for its class."""

    def __raise(self, *_: object) -> Any:
        raise RuntimeError("not this one")

    __str__ = __repr__ = __eq__ = __hash__ = __bool__ = __reduce__ = with_traceback = __raise  # type: ignore[assignment]
    __cause__ = __context__ = __traceback__ = __notes__ = property(__raise)  # type: ignore[assignment]


HOSTILE = (
    Unclassed, Disguised, Unreadable, UnclassedStop, Hostile, Unsettling, Leaves, StopIteration, GeneratorExit,
    asyncio.CancelledError,
)  # fmt: skip
raised: list[type[BaseException]] = []


def fail(*_: object) -> int:
    raise raised[-1]()


class FailsPlainly(Operation):
    def perform(self) -> int:
        return fail()


class FailsOnLoop(Operation):
    async def perform(self) -> int:
        return fail()


class FailsInItsSession(Operation):
    async def perform(self) -> int:
        return await self.in_session(fail)


class RunsALoop(Operation):
    def perform(self) -> int:
        return asyncio.run(FailsPlainly().acall())


class RunsALoopForCoroutines(Operation):
    def perform(self) -> int:
        return asyncio.run(FailsOnLoop().acall())


class RunsALoopForASession(Operation):
    def perform(self) -> int:
        return asyncio.run(FailsInItsSession().acall())


class RunsATaskGroup(Operation):
    def perform(self) -> int:
        return asyncio.run(self.both())

    async def both(self) -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(operation().acall()) for operation in (FailsPlainly, FailsOnLoop)]
        return sum(task.result() for task in tasks)


RUNNERS = (FailsInItsSession, RunsALoop, RunsALoopForCoroutines, RunsALoopForASession, RunsATaskGroup)


def ends_in_thread(function: Callable[[], object]) -> bool:
    """Whether a function returns or raises in time in another thread."""

    def call() -> None:
        with contextlib.suppress(BaseException):
            function()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return not thread.is_alive()


@pytest.mark.parametrize("error_type", HOSTILE, ids=lambda error_type: type.__getattribute__(error_type, "__name__"))
def test_n6_any_exception_ends_a_background_run_that_runs_a_loop(
    isolated_runtime: Isolated, error_type: type[BaseException]
) -> None:
    raised.append(error_type)
    tickets = [operation().async_().call() for operation in RUNNERS]

    assert ends_in_thread(isolated_runtime.run_pending)
    assert [ticket.reload().status for ticket in tickets] == ["failed"] * len(RUNNERS)


@pytest.mark.parametrize("error_type", HOSTILE, ids=lambda error_type: type.__getattribute__(error_type, "__name__"))
def test_n6_any_exception_ends_the_loop_of_its_caller(
    isolated_runtime: Isolated, error_type: type[BaseException]
) -> None:
    raised.append(error_type)
    for operation in (FailsPlainly, FailsOnLoop, FailsInItsSession):
        assert ends_in_thread(lambda operation=operation: asyncio.run(operation().acall()))  # type: ignore[misc]


def test_n6_an_exception_that_no_loop_can_raise_is_the_cause_of_another_exception(isolated_runtime: Isolated) -> None:
    raised.append(Unclassed)
    with pytest.raises(RuntimeError, match="Unclassed was raised; a future does not accept it") as caught:
        asyncio.run(FailsPlainly().acall())
    assert type(caught.value.__cause__) is Unclassed


def test_n6_an_interruption_that_the_application_raises_is_a_crash(isolated_runtime: Isolated) -> None:
    raised.append(Interrupted)
    ticket = FailsPlainly().async_().call()

    assert ends_in_thread(isolated_runtime.run_pending)
    assert ticket.reload().failed


class Nested(Operation):
    depth: int

    async def perform(self) -> int:
        return 1 + await Nested(depth=self.depth - 1).acall() if self.depth else 0


class NestedPlainly(Operation):
    depth: int

    def perform(self) -> int:
        return 1 + NestedPlainly(depth=self.depth - 1).call() if self.depth else 0


@pytest.fixture
def recursion_limit() -> Generator[None]:
    """Restore the recursion limit after the test."""
    before = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize("limit", [500, 507, 514, 521, 528])
def test_n6_calls_nested_too_deeply_raise_one_error_at_any_end_of_the_stack(
    isolated_runtime: Isolated, recursion_limit: None, limit: int
) -> None:
    Nested(depth=2).call()
    ticket = Nested(depth=60).async_().call()
    errors: list[BaseException] = []

    def awaited() -> int:
        return asyncio.run(Nested(depth=60).acall())

    def note(call: Callable[[], object]) -> None:
        try:
            call()
        except RecursionError as error:
            errors.append(error)

    # Each of the about 20 limits is reached in another frame, of dexpy, asyncio or the queue.
    sys.setrecursionlimit(limit)
    assert ends_in_thread(lambda: note(awaited))
    assert ends_in_thread(lambda: note(Nested(depth=60).call))
    assert ends_in_thread(lambda: note(NestedPlainly(depth=60).call))
    sys.setrecursionlimit(1000)
    isolated_runtime.run_pending()

    assert len(errors) == 3
    assert all("Nested" in str(error) and "too many calls inside each other" in str(error) for error in errors)
    assert ticket.reload().failed
    assert "too many calls inside each other" in str(records.get(ticket.id).error_message)


@pytest.mark.parametrize("error_type", [MemoryError, RecursionError, TimedOut])
def test_n6_a_result_that_does_not_reach_its_loop_ends_the_wait(
    isolated_runtime: Isolated, error_type: type[Exception]
) -> None:
    class Loop(asyncio.SelectorEventLoop):
        failures = 0

        def call_soon_threadsafe(self, callback: Any, *arguments: Any, context: Any = None) -> asyncio.Handle:
            if getattr(callback, "__name__", "") == "_settle_as" and not self.failures:
                self.failures += 1
                raise error_type
            return super().call_soon_threadsafe(callback, *arguments, context=context)

    def run(operation: Nested | NestedPlainly) -> None:
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(operation.acall())

    for operation in (NestedPlainly(depth=0), Nested(depth=1)):
        assert ends_in_thread(lambda operation=operation: run(operation))  # type: ignore[misc]


def test_n6_the_loop_of_a_process_that_breaks_ends_its_runs_and_is_replaced(isolated_runtime: Isolated) -> None:
    loops: list[Any] = []

    class Breaks(Operation):
        async def perform(self) -> int:
            loops.append(asyncio.get_running_loop())
            loops[0]._selector.close()
            await asyncio.sleep(WAIT_S * 3)
            return 1

    assert ends_in_thread(Breaks().call)
    assert Nested(depth=1).call() == 1
    # The broken loop cannot close its own sockets.
    for socket in (loops[0]._ssock, loops[0]._csock):
        socket.close()


@pytest.mark.parametrize("error_type", [KeyboardInterrupt, SystemExit])
def test_n6_exceptions_that_end_a_program_end_an_await_too(
    isolated_runtime: Isolated, error_type: type[BaseException]
) -> None:
    class Ends(Operation):
        def perform(self) -> int:
            raise error_type

    with pytest.raises(error_type):
        asyncio.run(asyncio.wait_for(Ends().acall(), WAIT_S))


def test_n6_a_cancelled_await_ends_although_the_thread_raises_stop_iteration_meanwhile(
    isolated_runtime: Isolated,
) -> None:
    started, go_on = threading.Event(), threading.Event()

    class Waits(Operation):
        def perform(self) -> int:
            started.set()
            go_on.wait(WAIT_S)
            return stop_iteration()

    async def main() -> None:
        task = asyncio.ensure_future(Waits().acall())
        await asyncio.to_thread(started.wait, WAIT_S)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        done, _ = await asyncio.wait([task], timeout=WAIT_S)
        assert done
        assert task.cancelled()

    asyncio.run(main())


def test_n6_a_stop_iteration_from_the_background_is_the_recorded_crash(isolated_runtime: Isolated) -> None:
    tickets = [operation().async_().call() for operation in (First, FirstInSession, FirstInside)]
    isolated_runtime.run_pending()

    assert [ticket.reload().failed for ticket in tickets] == [True] * 3
    assert records.get(tickets[0].id).error == "StopIteration"


def test_n6_a_loop_that_cannot_start_a_task_ends_the_call(isolated_runtime: Isolated) -> None:
    class Answers(Operation):
        async def perform(self) -> int:
            return 1

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def refuse(*_: Any, **__: Any) -> Any:
            raise OSError("no tasks today")

        call = asyncio.ensure_future(Answers().acall())
        loop.set_task_factory(refuse)
        done, _ = await asyncio.wait([call], timeout=WAIT_S)
        loop.set_task_factory(None)
        assert done
        assert isinstance(call.exception(), OSError)

    asyncio.run(main())


def test_n6_a_loop_that_was_closed_ends_the_thread_that_waits_for_its_coroutine() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    refused: list[BaseException] = []

    def serve() -> None:
        try:
            ThreadBridge().serve(never(), loop)
        except BaseException as error:
            refused.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    loop.close()
    thread.join(WAIT_S)
    assert [type(error) for error in refused] == [NotRunning]
    with pytest.raises(RuntimeError, match="closed"):
        ThreadBridge().serve(never(), loop)


def test_n6_a_future_that_does_not_accept_an_exception_is_settled_nevertheless() -> None:
    class Picky(Future[int]):
        def set_exception(self, exception: BaseException | None) -> None:
            if not isinstance(exception, RuntimeError):
                raise TypeError("not this one")
            super().set_exception(exception)

    error = ValueError("first")
    future = Picky()
    settle_with_error(future, error)
    raised_error = future.exception(0)
    assert isinstance(raised_error, RuntimeError)
    assert raised_error.__cause__ is error


def test_n6_an_awaited_commit_ends_although_a_later_hook_raises_stop_iteration() -> None:
    async def main() -> None:
        await asyncio.wait_for(greenlet_spawn(run_off_loop(stop_iteration)), WAIT_S)  # type: ignore[arg-type]

    with pytest.raises(RuntimeError):
        asyncio.run(main())


# ------------------------------------------------------------------------------------------------ references


class Big:
    """An object that must not outlive the run that created it."""


alive: weakref.WeakSet[Big] = weakref.WeakSet()


def mine() -> Big:
    operation = Big()
    alive.add(operation)
    return operation


class FailsAsync(Operation):
    async def perform(self) -> int:
        big = mine()
        await asyncio.sleep(0)
        raise ValueError(f"{big!r}")


class FailsAtOnce(Operation):
    async def perform(self) -> int:
        big = mine()
        raise ValueError(f"{big!r}")


class FailsInSession(Operation):
    async def perform(self) -> int:
        big = mine()
        return await self.in_session(lambda session: self.fail(big))

    def fail(self, big: Big) -> int:
        raise ValueError(f"{big!r}")


class FailsInside(Operation):
    async def perform(self) -> int:
        big = mine()
        return await FailsAtOnce().acall() + id(big)


class FailsPlainInside(Operation):
    async def perform(self) -> int:
        big = mine()
        return await FailsPlain().acall() + id(big)


class FailsPlain(Operation):
    def perform(self) -> int:
        big = mine()
        raise ValueError(f"{big!r}")


class RefusesAsync(Operation):
    async def perform(self) -> int:
        big = mine()
        raise Error("refused", f"{big!r}")


FAILING = (FailsAsync, FailsAtOnce, FailsInSession, FailsInside, FailsPlainInside, FailsPlain, RefusesAsync)


@pytest.fixture
def no_collector() -> Generator[None]:
    """Disable the garbage collector, so that only reference counts free objects."""
    gc.collect()
    alive.clear()
    gc.disable()
    yield
    gc.enable()


def settled() -> int:
    """Return the number of living objects, after a wait for threads to release them."""
    until = time.monotonic() + 2
    while len(alive) > 1 and time.monotonic() < until:
        time.sleep(0.01)
    return len(alive)


@pytest.mark.parametrize("operation", FAILING, ids=lambda operation: operation.__name__)
def test_n12_a_failed_background_run_keeps_no_locals(
    isolated_runtime: Isolated, no_collector: None, operation: type[Operation]
) -> None:
    for _ in range(4):
        operation().async_().call()
    isolated_runtime.run_pending()

    assert settled() <= 1


@pytest.mark.parametrize("operation", FAILING, ids=lambda operation: operation.__name__)
def test_n12_a_failed_call_in_place_keeps_no_locals(
    isolated_runtime: Isolated, no_collector: None, operation: type[Operation]
) -> None:
    for _ in range(4):
        with contextlib.suppress(Exception):
            operation().call()

    assert settled() <= 1


@pytest.mark.parametrize("operation", FAILING, ids=lambda operation: operation.__name__)
def test_n12_a_failed_awaited_call_keeps_no_locals(
    isolated_runtime: Isolated, no_collector: None, operation: type[Operation]
) -> None:
    async def main() -> int:
        for _ in range(4):
            with contextlib.suppress(Exception):
                await operation().acall()
        await asyncio.sleep(0.05)
        return len(alive)

    assert asyncio.run(main()) <= 1
