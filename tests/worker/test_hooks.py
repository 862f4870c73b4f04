"""The hooks of the application, on each database: which ends call them, and what a hook cannot do to a run."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from harness.database_fixtures import database_url, engine, reused_databases

import dexpy
from dexpy import Cancelled, Error, Operation, Recording, Retry, RunEnd, TimedOut, Unique, guard, records
from dexpy.database.tables import hook_calls
from dexpy.database.tables import records as table
from dexpy.errors import ConfigurationError
from dexpy.foundation.redaction import Redactor
from dexpy.recording import expiry
from dexpy.runtime import install
from dexpy.testing import Isolated, isolated
from dexpy.worker.hook_runner import MAX_CALLS, HookRunner

__all__ = ["database_url", "engine", "reused_databases"]

SECRET = "hunter2"


class Ends(Operation, name="ends"):
    """Ends as its prop specifies."""

    how: str = "done"
    token: str = dexpy.prop(default=SECRET, sensitive=True)
    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)
    discard_on = (LookupError,)

    @guard("Not allowed")
    def not_allowed(self) -> bool:
        return self.how == "rejected"

    def perform(self) -> str:
        if self.how == "business":
            raise Error("refused", f"The token {self.token} is refused")
        if self.how == "retried":
            raise ConnectionError
        raised = {"crash": ValueError, "timeout": TimedOut, "discarded": LookupError, "cancelled": Cancelled}
        if self.how in raised:
            raise raised[self.how](self.token)
        return "done"


class Heals(Operation, name="heals"):
    """Fails once."""

    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)
    failures = 0

    def perform(self) -> None:
        type(self).failures += 1
        if type(self).failures == 1:
            raise ConnectionError


class Direct(Ends, name="direct"):
    record = Recording(params=False)
    token: str = "public"


class Single(Operation, name="single"):
    unique = Unique(on_conflict="replace")

    def perform(self) -> None: ...


@attrs.define
class Calls:
    """What the hooks were called with."""

    failures: list[RunEnd] = attrs.field(factory=list[RunEnd])
    ends: list[RunEnd] = attrs.field(factory=list[RunEnd])

    def count(self) -> tuple[Counter[Any], Counter[Any]]:
        return (
            Counter((end.operation, end.failure) for end in self.failures),
            Counter((end.operation, end.failure) for end in self.ends),
        )


@contextmanager
def hooked(database_url: str, **settings: Any) -> Generator[Isolated]:
    """An isolated runtime with hooks."""
    configured = dexpy.configure(database="sqlite://", **settings)
    try:
        with isolated(database=database_url) as test:
            yield test
    finally:
        install(None)
        configured.close()


@pytest.fixture
def calls() -> Calls:
    return Calls()


def relay_of(test: Isolated) -> Any:
    recorded = test.runtime.start().recorded
    assert recorded is not None
    return recorded.relay


def end_in_every_way(test: Isolated, engine: sa.Engine) -> None:
    """Let runs end in all ways that there are, in workers, in the relay and by a person."""
    for how in ("done", "business", "rejected", "crash", "timeout", "discarded", "cancelled", "retried"):
        Ends(how=how).async_().call()
    Heals.failures = 0
    Heals().async_().call()
    for how in ("done", "crash", "retried"):
        Direct(how=how).async_().call()
    lost, unreadable, unknown = (Ends().async_().call() for _ in range(3))
    changes = {
        lost: {"status": "running", "claimed_by": "gone", "claim_token": 1, "loss_limit": 1},
        unreadable: {"params": {"how": 7}},
        unknown: {"operation": "no.such.operation"},
    }
    for ticket, values in changes.items():
        with engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id == ticket.id).values(values))
    Ends().async_(in_=timedelta(days=9)).call().expire()
    Ends().async_(in_=timedelta(days=9)).call().cancel()
    Ends().async_(in_=timedelta(days=9)).call().fail("not needed any more")
    Ends(how="late").async_(expires_in=60, in_=30).call()
    first = Single().async_(in_=60).call()
    assert Single().async_().call().id != first.id
    # A synchronous call raises its error to its caller.
    assert Ends(how="crash").safe is not None
    with pytest.raises(ValueError, match=SECRET):
        Ends(how="crash").call()
    test.run_pending()
    test.advance(120)
    relay_of(test).run_once()
    test.run_pending()


def test_every_way_in_which_a_run_ends_calls_the_hooks_once(database_url: str, engine: sa.Engine, calls: Calls) -> None:
    settings = {"on_failure": calls.failures.append, "on_finish": calls.ends.append}
    with hooked(database_url, unknown_grace=timedelta(0), **settings) as test:
        end_in_every_way(test, engine)
        assert test.runtime.store.rows(sa.select(hook_calls)) == []
        ended = Counter((row.operation, row.failure) for row in records.all() if row.status != "pending")

    failures, ends = calls.count()
    expected = {
        ("ends", "business"): 1,
        ("ends", "rejected"): 1,
        ("ends", "crash"): 2,
        ("ends", "timeout"): 1,
        ("ends", "discarded"): 2,
        ("ends", "cancelled"): 2,
        ("ends", "expired"): 2,
        ("ends", "lost"): 1,
        ("ends", "undecodable"): 1,
        ("no.such.operation", "unknown"): 1,
        ("direct", "crash"): 2,
        ("single", "cancelled"): 1,
    }
    assert failures == expected
    assert ends == expected | {("ends", None): 1, ("heals", None): 1, ("direct", None): 1, ("single", None): 1}
    # Only the synchronous call has a record and no call.
    assert ended - ends == {("ends", "crash"): 1}
    assert {end.call for end in calls.ends} == {1}


def test_the_hook_gets_the_facts_of_the_run_without_secrets(database_url: str, calls: Calls) -> None:
    with hooked(database_url, on_failure=calls.failures.append) as test:
        with dexpy.trace(actor={"type": "user", "id": 7}, trace_id="req-1"):
            ticket = Ends(how="business").async_(queue="mailers").call()
        test.run_pending()

    (end,) = calls.failures
    assert (end.run_id, end.status, end.failure, end.error) == (ticket.id, "failed", "business", "refused")
    assert (end.queue, end.attempts, end.trace_id, end.parent_id) == ("mailers", 1, "req-1", None)
    assert (end.actor_type, end.actor_id) == ("user", "7")
    assert end.created_at is not None
    assert end.started_at is not None
    assert end.ended_at is not None
    assert end.created_at <= end.started_at <= end.ended_at
    assert "is refused" in str(end.error_message)
    assert SECRET not in repr(end)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        end.error = "another"  # type: ignore[misc]


def test_a_rolled_back_end_calls_no_hook(database_url: str, calls: Calls) -> None:
    with hooked(database_url, on_failure=calls.failures.append) as test:
        ticket = Ends().async_(in_=60).call()
        with pytest.raises(ZeroDivisionError), test.runtime.store.begin() as connection:
            assert expiry.expire(connection, ticket.id)
            raise ZeroDivisionError
        test.run_pending()

    assert calls.failures == []


def test_a_retried_run_that_fails_again_calls_the_hook_again(database_url: str, calls: Calls) -> None:
    with hooked(database_url, on_failure=calls.failures.append) as test:
        ticket = Ends(how="business").async_().call()
        test.run_pending()
        ticket.retry()
        test.run_pending()

    assert [end.run_id for end in calls.failures] == [ticket.id] * 2


def test_nothing_is_written_without_hooks(database_url: str, engine: sa.Engine) -> None:
    statements: list[str] = []
    with isolated(database=database_url) as test:
        sa.event.listen(
            test.runtime.store.database.engine,
            "before_cursor_execute",
            lambda _c, _cursor, statement, *_: statements.append(statement),
        )
        end_in_every_way(test, engine)
        assert test.runtime.start().hook_runner is None

    assert not [text for text in statements if "operation_hook_calls" in text and not text.startswith("SELECT")]
    with engine.connect() as connection:
        assert connection.execute(sa.select(hook_calls)).all() == []


@pytest.mark.parametrize("error", [RuntimeError(SECRET), SystemExit(3), KeyboardInterrupt(), RecursionError()])
def test_a_hook_that_raises_or_exits_is_logged_and_affects_no_run(
    error: BaseException, calls: Calls, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    def raise_error(end: RunEnd) -> None:
        raise error

    with hooked(f"sqlite:///{tmp_path / 'a.db'}", on_failure=raise_error, on_finish=calls.ends.append) as test:
        tickets = [Ends(how=how).async_().call() for how in ("crash", "business", "done")]
        test.run_pending()

        assert [ticket.reload().status for ticket in tickets] == ["failed", "failed", "done"]
        assert test.runtime.store.rows(sa.select(hook_calls)) == []
    assert len(calls.ends) == 3
    failed = [line for line in caplog.records if "hook.failed" in line.getMessage()]
    assert [line.__dict__["run_id"] for line in failed] == [ticket.id for ticket in tickets[:2]]


def test_a_hook_that_hangs_is_logged_and_delays_the_next_call_by_its_timeout_only(
    caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    released, ended = threading.Event(), list[str]()

    def hang_or_note(end: RunEnd) -> None:
        if end.failure == "crash":
            released.wait(60)
        ended.append(str(end.failure))

    with hooked(f"sqlite:///{tmp_path / 'a.db'}", on_failure=hang_or_note) as test:
        for how in ("crash", "business"):
            Ends(how=how).async_().call()
        runner = test.runtime.start().hook_runner
        assert runner is not None
        runner._timeout_s = 0.05  # pyright: ignore[reportPrivateUsage]
        test.run_pending()
        assert ended == ["business"]
        for _ in range(4):
            Ends(how="crash").async_().call()
        test.run_pending()
        # Four calls hang: this process begins no more, and the last one stays due.
        assert len(test.runtime.store.rows(sa.select(hook_calls))) == 1
        assert "hooks.suspended" in caplog.text
        released.set()
    assert caplog.text.count("hook.timed_out") == 4


def test_a_coroutine_function_is_a_hook_too(calls: Calls, tmp_path: Any) -> None:
    async def note(end: RunEnd) -> None:
        await asyncio.sleep(0)
        calls.failures.append(end)

    with hooked(f"sqlite:///{tmp_path / 'a.db'}", on_failure=note) as test:
        Ends(how="crash").async_().call()
        test.run_pending()

    assert len(calls.failures) == 1


def test_runs_that_a_hook_enqueues_belong_to_the_trace(tmp_path: Any) -> None:
    def enqueue(end: RunEnd) -> None:
        Single().async_().call()

    with hooked(f"sqlite:///{tmp_path / 'a.db'}", on_failure=enqueue) as test:
        with dexpy.trace(trace_id="req-2"):
            Ends(how="crash").async_().call()
        test.run_pending()
        assert [record.status for record in records.where(operation=Single).for_trace("req-2")] == ["done"]


def test_without_a_database_hooks_are_called_for_the_runs_of_this_process(calls: Calls) -> None:
    runner = HookRunner(None, {"on_failure": calls.failures.append, "on_finish": calls.ends.append}, Redactor())
    end = RunEnd(operation="a", run_id="op_1", status="done", queue="default", attempts=1)
    runner.ended_directly(end)
    runner.ended_directly(attrs.evolve(end, status="failed", failure="crash"))

    runner.run_all()

    assert ([each.failure for each in calls.failures], len(calls.ends)) == (["crash"], 2)


def test_a_call_in_which_processes_die_is_given_up_after_some_calls(
    database_url: str, calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    with hooked(database_url, on_failure=calls.failures.append) as test, caplog.at_level(logging.ERROR):
        ticket = Ends(how="crash").async_(in_=60).call()
        ticket.cancel()
        with test.runtime.store.begin() as connection:
            connection.execute(sa.update(hook_calls).values(calls=MAX_CALLS))
        test.run_pending()
        assert test.runtime.store.rows(sa.select(hook_calls)) == []

    assert calls.failures == []
    assert "hook.abandoned" in caplog.text


@pytest.mark.parametrize("hook", ["notify", 3, ()])
def test_what_is_no_function_is_refused(hook: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"configure\(on_failure=\.\.\.\): expected a function of a RunEnd"):
        dexpy.configure(database="sqlite://", on_failure=hook)
