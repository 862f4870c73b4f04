"""Operations from asyncio, and operations whose `perform` is a coroutine."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
from contextvars import ContextVar
from typing import Any

import pytest
from dramatiq.middleware import TimeLimitExceeded
from dramatiq.middleware.threading import raise_thread_exception
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

import dexpy
from dexpy import Err, Error, Ok, Operation, records
from dexpy.errors import NotRunning, SessionOnLoop
from dexpy.testing import Isolated

from .ledger import (
    Crash,
    CrashAsync,
    Entry,
    Quiet,
    Refuse,
    RefuseAsync,
    Write,
    WriteAsync,
    count_in_own_transaction,
    lines,
    only,
    statuses,
)
from .shop import Customer, Shop

request: ContextVar[str] = ContextVar("request", default="none")
LIMIT_S = 20


def run(coroutine: Any) -> Any:
    """Run a coroutine on a new loop, with a timeout."""

    async def bounded() -> Any:
        return await asyncio.wait_for(coroutine, LIMIT_S)

    return asyncio.run(bounded())


# ------------------------------------------------------------------------------------------- async def perform


def test_an_async_perform_is_called_without_a_loop(shop: Shop) -> None:
    assert WriteAsync(text="a").call() == "a"
    assert lines(shop) == ["a"]
    assert only().result == "a"


def test_an_async_perform_is_awaited(shop: Shop) -> None:
    assert run(WriteAsync(text="a").acall()) == "a"
    assert lines(shop) == ["a"]
    assert only().status == "done"


def test_an_async_perform_runs_on_the_loop_of_its_caller() -> None:
    class Where(Operation):
        async def perform(self) -> bool:
            return asyncio.get_running_loop() is here

    async def main() -> bool:
        nonlocal here
        here = asyncio.get_running_loop()
        return await Where().acall()

    here: Any = None
    assert run(main()) is True


def test_call_of_an_async_perform_under_a_running_loop_is_refused() -> None:
    class Wait(Operation):
        async def perform(self) -> None: ...

    async def main() -> None:
        Wait().call()

    with pytest.raises(NotRunning, match=r"Wait\(\)\.call\(\) would block the running event loop.*await op\.acall\(\)"):
        run(main())


def test_safe_call_of_an_async_perform_under_a_running_loop_is_refused() -> None:
    async def main() -> None:
        WriteAsync(text="a").safe.call()

    with pytest.raises(NotRunning, match=r"await op\.acall\(\)"):
        run(main())


def test_the_session_on_the_loop_is_refused_and_names_in_session(shop: Shop) -> None:
    class Reach(Operation):
        async def perform(self) -> None:
            self.session.add(Entry(text="a"))

    with pytest.raises(SessionOnLoop, match=r"Reach: self\.session .* await self\.in_session"):
        run(Reach().acall())
    assert lines(shop) == []


def test_the_current_session_on_the_loop_is_refused_too(shop: Shop) -> None:
    class Reach(Operation):
        async def perform(self) -> None:
            dexpy.current_session().add(Entry(text="a"))

    with pytest.raises(SessionOnLoop):
        run(Reach().acall())
    assert lines(shop) == []


def test_in_session_of_a_plain_perform_is_refused(shop: Shop) -> None:
    class Mixed(Operation):
        def perform(self) -> None:
            asyncio.run(self.in_session(lambda session: session.flush()))

    with pytest.raises(NotRunning, match=r"Mixed\.in_session: only for an async def perform"):
        Mixed().call()


def test_in_session_outside_of_a_run_is_refused() -> None:
    with pytest.raises(NotRunning, match=r"WriteAsync\.in_session\(\): available only during a run"):
        run(WriteAsync(text="a").in_session(lambda session: None))


def test_in_session_runs_in_the_runs_own_thread_and_returns_the_result_of_the_function(shop: Shop) -> None:
    class Threads(Operation):
        async def perform(self) -> list[bool]:
            first = await self.in_session(lambda session: (threading.get_ident(), session))
            second = await self.in_session(lambda session: (threading.get_ident(), session))
            return [first == second, first[0] != threading.get_ident()]

    assert run(Threads().acall()) == [True, True]


def test_an_exception_in_in_session_is_raised_where_it_is_awaited(shop: Shop) -> None:
    class Fall(Operation):
        async def perform(self) -> str:
            try:
                await self.in_session(lambda session: 1 / 0)
            except ZeroDivisionError:
                return "caught"
            return "missed"

    assert run(Fall().acall()) == "caught"


def test_references_and_guards_run_in_the_runs_thread_before_the_coroutine(shop: Shop) -> None:
    shop.add(Customer(id=1, name="anna"))
    threads: list[int] = []

    class Greet(Operation):
        customer: dexpy.Ref[Customer]

        @dexpy.guard("never")
        def unwanted(self) -> bool:
            threads.append(threading.get_ident())
            return self.customer.name != "anna"

        async def perform(self) -> str:
            threads.append(threading.get_ident())
            return self.customer.name

    assert run(Greet(customer=1).acall()) == "anna"
    guard, perform = threads
    assert guard != perform


# ------------------------------------------------------------------------------------------- plain perform


def test_a_plain_perform_is_awaited_in_a_thread_without_blocking_the_loop(shop: Shop) -> None:
    class Wait(Operation):
        def perform(self) -> bool:
            return ticked.wait(LIMIT_S) and threading.get_ident() != loop_thread

    async def main() -> bool:
        run = asyncio.ensure_future(Wait().acall())
        # The run waits for this event, so it ends only if the loop is not blocked.
        await asyncio.sleep(0)
        ticked.set()
        return await run

    ticked, loop_thread = threading.Event(), threading.get_ident()
    assert run(main()) is True


def test_fifty_runs_are_awaited_concurrently(shop: Shop) -> None:
    class Meet(Operation):
        number: int

        async def perform(self) -> int:
            met.append(self.number)
            if len(met) == 50:
                everybody.set()
            await everybody.wait()
            await self.in_session(lambda session: session.add(Entry(text=f"{self.number:02}")))
            return self.number

    async def main() -> list[int]:
        nonlocal everybody
        everybody = asyncio.Event()
        return await asyncio.gather(*(Meet(number=number).acall() for number in range(50)))

    met: list[int] = []
    everybody: Any = None
    assert run(main()) == list(range(50))
    assert lines(shop) == [f"{number:02}" for number in range(50)]
    assert records.done().count() == 50


def test_fifty_plain_runs_block_fifty_threads_and_not_the_loop(isolated_runtime: Isolated) -> None:
    class Meet(Operation):
        def perform(self) -> bool:
            barrier.wait(LIMIT_S)
            return True

    async def main() -> list[bool]:
        return await asyncio.gather(*(Meet().acall() for _ in range(50)))

    barrier = threading.Barrier(50)
    assert run(main()) == [True] * 50


# ------------------------------------------------------------------------------------------- context


@pytest.mark.parametrize("is_async", [True, False], ids=["async perform", "plain perform"])
def test_context_variables_reach_perform(isolated_runtime: Isolated, is_async: bool) -> None:
    class Plain(Operation):
        def perform(self) -> str:
            return request.get()

    class Coroutine(Operation):
        async def perform(self) -> str:
            return request.get()

    async def main() -> str:
        request.set("r-1")
        return await (Coroutine() if is_async else Plain()).acall()

    assert run(main()) == "r-1"


def test_context_variables_reach_functions_run_in_the_session(isolated_runtime: Isolated) -> None:
    class Look(Operation):
        async def perform(self) -> str:
            request.set("r-2")
            return await self.in_session(lambda session: request.get())

    assert run(Look().acall()) == "r-2"


def test_trace_and_actor_reach_an_awaited_run(isolated_runtime: Isolated) -> None:
    async def main() -> None:
        with dexpy.trace(actor={"type": "user", "id": 7}, trace_id="req-1"):
            await Quiet().acall()

    run(main())
    assert (only().trace_id, only().actor_type, only().actor_id) == ("req-1", "user", "7")


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("cls", [Refuse, RefuseAsync])
def test_acall_raises_a_business_error(shop: Shop, cls: type[Any]) -> None:
    with pytest.raises(Error, match="refused: Not today"):
        run(cls(text="a").acall())
    assert lines(shop) == []
    assert only(cls).failure == "business"


@pytest.mark.parametrize("cls", [Crash, CrashAsync])
def test_acall_raises_a_crash(shop: Shop, cls: type[Any]) -> None:
    with pytest.raises(RuntimeError):
        run(cls(text="a").acall())
    assert lines(shop) == []
    assert only(cls).failure == "crash"


@pytest.mark.parametrize("cls", [Refuse, RefuseAsync])
def test_safe_acall_returns_err(shop: Shop, cls: type[Any]) -> None:
    outcome = run(cls(text="a").safe.acall())
    assert isinstance(outcome, Err)
    assert (outcome.code, outcome.message) == ("refused", "Not today")


@pytest.mark.parametrize("cls", [Write, WriteAsync])
def test_safe_acall_returns_ok(shop: Shop, cls: type[Any]) -> None:
    assert run(cls(text="a").safe.acall()) == Ok("a")


def test_safe_acall_raises_crashes(shop: Shop) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        run(CrashAsync(text="a").safe.acall())


def test_the_traceback_of_a_crash_shows_the_line_in_perform(shop: Shop) -> None:
    with pytest.raises(RuntimeError) as caught:
        run(CrashAsync(text="a").acall())
    assert caught.traceback[-1].name == "perform"


# ------------------------------------------------------------------------------------------- cancellation


def test_a_cancelled_await_of_an_async_perform_rolls_back_and_is_recorded(shop: Shop) -> None:
    class Hang(Operation):
        async def perform(self) -> None:
            await WriteAsync(text="a").acall()
            started.set()
            await asyncio.Event().wait()

    async def main() -> None:
        nonlocal started
        started = asyncio.Event()
        task = asyncio.ensure_future(Hang().acall())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started: Any = None
    run(main())
    assert lines(shop) == []
    assert statuses()["Hang"] == ("cancelled", "cancelled")


def test_a_cancelled_await_of_a_plain_perform_rolls_back_and_is_recorded(shop: Shop) -> None:
    class Hang(Operation):
        def perform(self) -> None:
            self.session.add(Entry(text="a"))
            loop.call_soon_threadsafe(started.set)
            assert go_on.wait(LIMIT_S)

    async def main() -> None:
        nonlocal started, loop
        started, loop = asyncio.Event(), asyncio.get_running_loop()
        task = asyncio.ensure_future(Hang().acall())
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()  # a thread cannot be stopped, so acall waits for its end
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    started: Any = None
    loop: Any = None
    go_on = threading.Event()
    run(main())
    assert lines(shop) == []
    assert statuses()["Hang"] == ("cancelled", "cancelled")


def test_a_cancelled_run_is_not_logged_as_a_crash(isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture) -> None:
    class Hang(Operation):
        async def perform(self) -> None:
            await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.timeout(0.01):
            await Hang().acall()

    with pytest.raises(TimeoutError):
        run(main())
    (log_record,) = [record for record in caplog.records if record.name.startswith("dexpy.")]
    assert log_record.getMessage().startswith("run.cancelled operation=")
    assert log_record.levelname == "WARNING"


def test_a_cancelled_await_ends_after_its_coroutine(shop: Shop) -> None:
    """The coroutine awaits something while it cleans up, and acall waits for it."""
    steps: list[str] = []

    class Clean(Operation):
        async def perform(self) -> None:
            try:
                started.set()
                await asyncio.Event().wait()
            finally:
                for _ in range(3):
                    await asyncio.sleep(0.001)
                steps.append("cleaned")

    async def main() -> None:
        nonlocal started
        started = asyncio.Event()
        task = asyncio.ensure_future(Clean().acall())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        steps.append("cancelled")

    started: Any = None
    run(main())
    assert steps == ["cleaned", "cancelled"]


def test_a_cancelled_coroutine_may_still_read_the_session_while_it_cleans_up(shop: Shop) -> None:
    texts: list[str] = []

    class Clean(Operation):
        async def perform(self) -> None:
            try:
                await WriteAsync(text="a").acall()
                started.set()
                await asyncio.Event().wait()
            finally:
                texts.extend(await self.in_session(lambda session: [each.text for each in session.query(Entry)]))

    async def main() -> None:
        nonlocal started
        started = asyncio.Event()
        task = asyncio.ensure_future(Clean().acall())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started: Any = None
    run(main())
    assert texts == ["a"]
    assert lines(shop) == []


def test_a_perform_that_swallows_its_cancellation_commits_nothing(shop: Shop) -> None:
    class Stubborn(Operation):
        async def perform(self) -> str:
            await WriteAsync(text="a").acall()
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "went on"
            return "never"

    async def main() -> None:
        nonlocal started
        started = asyncio.Event()
        task = asyncio.ensure_future(Stubborn().acall())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started: Any = None
    run(main())
    assert lines(shop) == []
    assert statuses()["Stubborn"] == ("cancelled", "cancelled")


def test_a_timeout_inside_perform_is_an_exception_of_perform(shop: Shop) -> None:
    class Late(Operation):
        async def perform(self) -> str:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                return "late"
            return "never"

    assert run(Late().acall()) == "late"
    assert statuses()["Late"] == ("done", None)


def test_a_timeout_around_acall_cancels_the_run(shop: Shop) -> None:
    class Hang(Operation):
        async def perform(self) -> None:
            await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.timeout(0.01):
            await Hang().acall()

    with pytest.raises(TimeoutError):
        run(main())
    assert statuses()["Hang"] == ("cancelled", "cancelled")


def test_the_outer_run_continues_after_a_cancelled_nested_run(shop: Shop) -> None:
    class Hang(Operation):
        async def perform(self) -> None:
            await WriteAsync(text="inner").acall()
            await asyncio.Event().wait()

    class Outer(Operation):
        async def perform(self) -> str:
            await WriteAsync(text="outer").acall()
            try:
                async with asyncio.timeout(0.05):
                    await Hang().acall()
            except TimeoutError:
                return "went on"
            return "never"

    assert run(Outer().acall()) == "went on"
    assert lines(shop) == ["outer"]
    matching = {each.operation.rpartition(".")[2]: each for each in records.all() if "WriteAsync" not in each.operation}
    assert matching["Hang"].failure == "cancelled"
    assert matching["Outer"].status == "done"


def test_an_interrupt_of_the_waiting_thread_cancels_the_coroutine_and_rolls_back(shop: Shop) -> None:
    steps: list[str] = []

    class Hang(Operation):
        async def perform(self) -> None:
            await WriteAsync(text="a").acall()
            try:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                steps.append("cleaned")

    with pytest.raises(KeyboardInterrupt):
        Hang().call()
    assert steps == ["cleaned"]
    assert lines(shop) == []
    assert WriteAsync(text="b").call() == "b"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["coroutine", "session", "nested"])
def test_an_exit_inside_a_coroutine_ends_the_run_and_not_the_loop(
    shop: Shop, error: type[BaseException], where: str
) -> None:
    def leave(*_: Any) -> None:
        raise error

    class Inner(Operation):
        def perform(self) -> None:
            leave()

    class Leave(Operation):
        async def perform(self) -> None:
            await WriteAsync(text="a").acall()
            if where == "session":
                await self.in_session(leave)
            if where == "nested":
                await Inner().acall()
            leave()

    with pytest.raises(error):
        Leave().call()
    assert lines(shop) == []
    assert WriteAsync(text="b").call() == "b"


def test_a_time_limit_of_a_worker_reaches_a_waiting_coroutine(shop: Shop) -> None:
    """Dramatiq raises the exception in the run's thread."""
    steps: list[str] = []

    class Hang(Operation):
        async def perform(self) -> None:
            await WriteAsync(text="a").acall()
            thread.append(await self.in_session(lambda session: threading.get_ident()))
            try:
                raise_thread_exception(thread[0], TimeLimitExceeded)
                await asyncio.Event().wait()
            finally:
                steps.append("cleaned")

    def work() -> None:
        try:
            Hang().call()
        except TimeLimitExceeded:
            steps.append("limited")

    thread: list[int] = []
    runner = threading.Thread(target=work)
    runner.start()
    runner.join(LIMIT_S)
    assert steps == ["cleaned", "limited"]
    assert lines(shop) == []


# ------------------------------------------------------------------------------------------- nested runs


def test_a_nested_acall_joins_the_transaction(shop: Shop) -> None:
    class Outer(Operation):
        async def perform(self) -> None:
            await WriteAsync(text="inner").acall()
            await Write(text="plain").acall()
            raise Error("rolled_back", "All of it")

    with pytest.raises(Error, match="rolled_back"):
        run(Outer().acall())
    assert lines(shop) == []


def test_a_nested_acall_sees_writes_of_the_outer_run(shop: Shop) -> None:
    class Count(Operation):
        def perform(self) -> int:
            return self.session.query(Entry).count()

    class Outer(Operation):
        async def perform(self) -> int:
            await self.in_session(lambda session: session.add(Entry(text="a")))
            return await Count().acall()

    assert run(Outer().acall()) == 1


def test_nested_acalls_may_be_gathered(shop: Shop) -> None:
    class Outer(Operation):
        async def perform(self) -> list[str]:
            plain = [Write(text=f"plain {number}").acall() for number in range(5)]
            coroutines = [WriteAsync(text=f"async {number}").acall() for number in range(5)]
            return await asyncio.gather(*plain, *coroutines)

    expected = [f"plain {number}" for number in range(5)] + [f"async {number}" for number in range(5)]
    assert run(Outer().acall()) == expected
    assert lines(shop) == sorted(expected)
    assert records.done().count() == 11


def test_the_failure_of_one_of_several_gathered_nested_runs_can_be_caught(shop: Shop) -> None:
    class Outer(Operation):
        async def perform(self) -> list[str]:
            ended = await asyncio.gather(
                WriteAsync(text="a").acall(),
                RefuseAsync(text="b").acall(),
                WriteAsync(text="c").acall(),
                return_exceptions=True,
            )
            return [type(each).__name__ for each in ended]

    assert run(Outer().acall()) == ["str", "Error", "str"]
    assert lines(shop) == ["a", "c"]


def test_a_nested_async_run_is_called_from_a_plain_perform(shop: Shop) -> None:
    class Outer(Operation):
        def perform(self) -> str:
            self.session.add(Entry(text="outer"))
            return WriteAsync(text="inner").call()

    assert Outer().call() == "inner"
    assert lines(shop) == ["inner", "outer"]


def test_acall_of_a_plain_run_may_call_an_async_run(shop: Shop) -> None:
    class Outer(Operation):
        def perform(self) -> str:
            return WriteAsync(text="inner").call()

    assert run(Outer().acall()) == "inner"
    assert lines(shop) == ["inner"]


def test_a_nested_plain_call_on_the_loop_is_refused_with_the_fix(shop: Shop) -> None:
    class Outer(Operation):
        async def perform(self) -> str:
            return Write(text="inner").call()

    with pytest.raises(SessionOnLoop):
        run(Outer().acall())
    assert lines(shop) == []


def test_deeply_nested_acalls_share_one_transaction(shop: Shop) -> None:
    class Deep(Operation):
        depth: int

        async def perform(self) -> int:
            await self.in_session(lambda session: session.add(Entry(text=str(self.depth))))
            return self.depth if self.depth == 0 else await Deep(depth=self.depth - 1).acall()

    assert run(Deep(depth=9).acall()) == 0
    assert lines(shop) == [str(number) for number in range(10)]


def test_an_enqueue_inside_an_async_perform_is_part_of_its_transaction(shop: Shop) -> None:
    class Send(Operation):
        async def perform(self) -> None:
            await Write(text="later").async_().acall()
            raise Error("rolled_back")

    assert isinstance(run(Send().safe.acall()), Err)
    assert records.pending().count() == 0


# ------------------------------------------------------------------------------------------- coroutines after the run


def test_a_coroutine_that_outlives_its_run_gets_a_clear_error(shop: Shop) -> None:
    tasks: list[Any] = []

    class Leave(Operation):
        async def perform(self) -> None:
            async def late() -> None:
                await over.wait()
                await self.in_session(lambda session: session.add(Entry(text="late")))

            tasks.append(asyncio.ensure_future(late()))

    async def main() -> None:
        nonlocal over
        over = asyncio.Event()
        await Leave().acall()
        over.set()
        with pytest.raises(
            NotRunning, match=r"has ended, and its session is closed\. Await everything that perform starts"
        ):
            await tasks[0]

    over: Any = None
    run(main())
    assert lines(shop) == []


def test_a_nested_run_that_outlives_the_outer_one_gets_a_clear_error(shop: Shop) -> None:
    tasks: list[Any] = []

    class Leave(Operation):
        async def perform(self) -> None:
            async def late() -> None:
                await over.wait()
                await Write(text="late").acall()

            tasks.append(asyncio.ensure_future(late()))

    async def main() -> None:
        nonlocal over
        over = asyncio.Event()
        await Leave().acall()
        over.set()
        with pytest.raises(NotRunning, match="has ended"):
            await tasks[0]

    over: Any = None
    run(main())
    assert lines(shop) == []


def test_work_submitted_as_the_run_ends_is_refused_without_waiting(shop: Shop) -> None:
    tasks: list[Any] = []

    class Leave(Operation):
        async def perform(self) -> None:
            tasks.extend(asyncio.ensure_future(self.in_session(lambda session: 1)) for _ in range(20))

    async def main() -> list[Any]:
        await Leave().acall()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), LIMIT_S)

    for ended in run(main()):
        assert ended == 1 or isinstance(ended, NotRunning), ended


# ------------------------------------------------------------------------------------------- sessions of the caller


def test_acall_joins_a_session_given_in_the_same_task(shop: Shop) -> None:
    async def main(session: Session) -> None:
        with dexpy.session(session):
            await WriteAsync(text="a").acall()
            await Write(text="b").acall()

    with shop.session() as session:
        run(main(session))
        assert lines(shop) == []
        session.commit()
    assert lines(shop) == ["a", "b"]


def test_acalls_gathered_under_one_session_run_one_after_another(shop: Shop) -> None:
    busy: list[str] = []

    class Busy(Operation):
        text: str

        def perform(self) -> str:
            busy.append(self.text)
            self.session.add(Entry(text=self.text))
            self.session.flush()
            assert busy == [self.text]
            busy.clear()
            return self.text

    async def main(session: Session) -> list[str]:
        with dexpy.session(session):
            plain = [Busy(text=f"plain {number}").acall() for number in range(10)]
            coroutines = [WriteAsync(text=f"async {number}").acall() for number in range(10)]
            enqueued = [Brief().async_().acall() for _ in range(10)]
            await asyncio.gather(*plain, *coroutines, *enqueued)
        return [each.text for each in session.query(Entry)]

    with shop.session() as session:
        assert len(run(main(session))) == 20
        assert lines(shop) == []
        session.commit()
    assert len(lines(shop)) == 20
    assert records.pending().count() == 10


@pytest.mark.parametrize("commits", [True, False])
def test_an_async_session_enqueues_in_its_transaction(shop: Shop, commits: bool) -> None:
    pytest.importorskip("greenlet")
    pytest.importorskip("aiosqlite")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def main() -> Any:
        engine = create_async_engine(shop.engine.url.set(drivername="sqlite+aiosqlite"))
        async with AsyncSession(engine) as session:
            session.add(Entry(text="mine"))
            ticket = await Brief().async_(session=session).acall()
            assert records.all().count() == 0
            await (session.commit() if commits else session.rollback())
        await engine.dispose()
        return ticket

    ticket = run(main())
    assert lines(shop) == (["mine"] if commits else [])
    assert [each.id for each in records.pending()] == ([ticket.id] if commits else [])
    assert len(shop.isolated_runtime.run_pending()) == int(commits)


def test_an_async_session_can_only_be_awaited(shop: Shop) -> None:
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession

    with pytest.raises(dexpy.errors.OptionsError) as caught:
        Brief().async_(session=AsyncSession()).call()
    assert str(caught.value) == (
        "Brief.async_(session=...).call(): expected a Session or Connection, got an AsyncSession. "
        "Write: ticket = await op.async_(session=...).acall()."
    )
    assert records.all().count() == 0


def test_an_async_session_is_not_made_current(shop: Shop) -> None:
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession

    wrong: Any = AsyncSession()
    with pytest.raises(dexpy.errors.OptionsError, match="got AsyncSession"), dexpy.session(wrong):
        pass


# ------------------------------------------------------------------------------------------- without a transaction


class Steps(Operation):
    """Declares transaction = False, and uses one transaction for each text."""

    transaction = False
    texts: list[str]
    end: str = "done"

    async def perform(self) -> list[int]:
        counts: list[int] = []

        def write(session: Session, text: str) -> None:
            session.add(Entry(text=text))
            session.flush()

        for text in self.texts:
            await self.in_session(lambda session, text=text: write(session, text))  # type: ignore[misc]
            counts.append(count_in_own_transaction())
        if self.end == "crash":
            raise RuntimeError("crash")
        return counts


def test_without_a_transaction_each_in_session_is_one(shop: Shop) -> None:
    assert run(Steps(texts=["a", "b"]).acall()) == [1, 2]
    assert lines(shop) == ["a", "b"]


def test_without_a_transaction_a_crash_keeps_earlier_commits(shop: Shop) -> None:
    with pytest.raises(RuntimeError):
        run(Steps(texts=["a"], end="crash").acall())
    assert lines(shop) == ["a"]
    with pytest.raises(IntegrityError):
        run(Steps(texts=["b", "a", "c"]).acall())
    assert lines(shop) == ["a", "b"]
    assert statuses()["Steps"] == ("failed", "crash")


# ------------------------------------------------------------------------------------------- in a worker


def test_an_async_perform_runs_in_a_worker(shop: Shop) -> None:
    ticket = WriteAsync(text="a").async_().call()
    shop.isolated_runtime.run_pending()
    assert ticket.result(5) == "a"
    assert lines(shop) == ["a"]


def test_fifty_enqueues_are_awaited_concurrently(isolated_runtime: Isolated) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(*(Brief().async_().acall() for _ in range(50)))

    assert len({ticket.id for ticket in run(main())}) == 50
    assert len(isolated_runtime.run_pending()) == 50


class Brief(Quiet):
    """Is enqueued by these tests."""


# ------------------------------------------------------------------------------------------- cancellation at any point


class Mixed(Operation):
    """Uses sessions, nested runs and gathered runs, so that a cancellation can come in any of them."""

    number: int

    async def perform(self) -> int:
        await self.in_session(lambda session: session.add(Entry(text=f"{self.number} own")))
        await asyncio.gather(
            WriteAsync(text=f"{self.number} async").acall(),
            Write(text=f"{self.number} plain").acall(),
            self.in_session(lambda session: session.flush()),
        )
        await asyncio.sleep(0)
        return self.number


def test_a_cancellation_at_any_point_stores_all_or_nothing(shop: Shop) -> None:
    chance = random.Random(7)
    before = threading.active_count()

    async def one(number: int) -> bool:
        task = asyncio.ensure_future(Mixed(number=number).acall())
        for _ in range(chance.randrange(1, 40)):
            await asyncio.sleep(chance.choice([0, 0, 0.0005]))
        task.cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
            task.cancel()
        try:
            return await task == number
        except asyncio.CancelledError:
            return False

    async def main() -> list[bool]:
        return [await one(number) for number in range(60)]

    completed = [number for number, recorded in enumerate(run(main())) if recorded]
    # A run that was cancelled after its commit is done, although its caller got a CancelledError.
    recorded = [each.params["number"] for each in records.done().where(operation=Mixed)]
    assert set(completed) <= set(recorded)
    assert lines(shop) == sorted(f"{number} {part}" for number in recorded for part in ("async", "own", "plain"))
    assert {each.status for each in records.where(operation=Mixed)} <= {"done", "cancelled"}
    assert records.where(operation=Mixed).count() == 60
    assert records.running().count() == 0
    assert threading.active_count() <= before + 1
