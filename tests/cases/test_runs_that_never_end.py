"""Every run ends: its end is written with fewer details or later, and claims without a run are reconciled."""

from __future__ import annotations

import contextlib
import inspect
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from dramatiq.middleware.shutdown import Shutdown

import dexpy
from dexpy import Error, Once, Operation, OperationFailed, Recording, Retry, Ticket, records
from dexpy.database.tables import records as table
from dexpy.recording.store import Store
from dexpy.recording.transitions import apply
from dexpy.testing import Isolated

runs: list[str] = []
"""The id of the run, for each call of `perform`."""


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    runs.clear()


def until(holds: Callable[[], bool], within_s: float = 15.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "the condition has not become true in time"
        time.sleep(0.02)


def execute(store: Store, statement: str) -> None:
    with store.begin() as connection:
        connection.execute(sa.text(statement))


class Changes(Operation):
    """Executes a statement on its own record."""

    statement: str

    def perform(self) -> None:
        runs.append(self.run_id)
        self.session.execute(sa.text(self.statement), {"id": self.run_id})


class ChangesApart(Operation):
    """Executes a statement on its own record, and commits it before the run ends."""

    statement: str
    transaction = False

    def perform(self) -> None:
        runs.append(self.run_id)
        with self.transaction() as session:
            session.execute(sa.text(self.statement), {"id": self.run_id})


class ChangesAndFails(Operation):
    statement: str

    def perform(self) -> None:
        runs.append(self.run_id)
        self.session.execute(sa.text(self.statement), {"id": self.run_id})
        raise Error("refused")


OWN_ROW = {
    "deleted": "DELETE FROM operation_records WHERE id = :id",
    "re-keyed": "UPDATE operation_records SET id = 'op_other' WHERE id = :id",
    "claimed again": "UPDATE operation_records SET claim_token = 99 WHERE id = :id",
    "done": "UPDATE operation_records SET status = 'done' WHERE id = :id",
    "pending": "UPDATE operation_records SET status = 'pending' WHERE id = :id",
}


@pytest.mark.parametrize("how", list(OWN_ROW))
def test_n4_a_run_that_changes_its_own_record_ends_as_failed(how: str, isolated_runtime: Isolated) -> None:
    ticket = Changes(statement=OWN_ROW[how]).async_().call()
    isolated_runtime.run_pending()

    ticket.reload()
    assert (ticket.status, ticket.failure, len(runs)) == ("failed", "crash", 1)
    assert records.get(ticket.id).error == "dexpy.errors.LostClaim"


@pytest.mark.parametrize("how", list(OWN_ROW))
def test_n4_a_run_that_changes_its_own_record_and_fails_ends_as_it_failed(how: str, isolated_runtime: Isolated) -> None:
    ticket = ChangesAndFails(statement=OWN_ROW[how]).async_().call()
    isolated_runtime.run_pending()

    ticket.reload()
    assert (ticket.status, ticket.failure, len(runs)) == ("failed", "business", 1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE operation_records SET claim_token = 99 WHERE id = :id",
        "UPDATE operation_records SET claim_token = 99, claimed_by = NULL WHERE id = :id",
    ],
)
def test_n4_a_claim_that_a_run_clears_in_another_transaction_ends_with_it(
    statement: str, isolated_runtime: Isolated
) -> None:
    ticket = ChangesApart(statement=statement).async_().call()
    isolated_runtime.run_pending()

    ticket.reload()
    assert (ticket.status, ticket.failure, len(runs)) == ("failed", "crash", 1)


def test_n4_the_claim_of_another_worker_is_left_unchanged(isolated_runtime: Isolated) -> None:
    statement = "UPDATE operation_records SET claim_token = 99, claimed_by = 'another' WHERE id = :id"
    ticket = ChangesApart(statement=statement).async_().call()
    isolated_runtime.run_pending()

    assert ticket.reload().status == "running"


class Keyed(Operation):
    key: str
    statement: str
    once = Once("key")

    def perform(self) -> int:
        runs.append(self.run_id)
        if self.statement:
            self.session.execute(sa.text(self.statement), {"id": self.run_id})
        return 1


def test_n4_a_call_with_a_key_that_deletes_its_own_record_frees_the_key(isolated_runtime: Isolated) -> None:
    with pytest.raises(OperationFailed):
        Keyed(key="a", statement=OWN_ROW["deleted"]).call()

    assert [record.status for record in records.all()] == ["failed"]
    assert Keyed(key="a", statement="").call() == 1


class Refuse(Operation):
    def perform(self) -> None:
        runs.append(self.run_id)
        raise Error("refused", "No", details={"much": "x" * 1500, "more": ["y" * 1500] * 200})


class Crash(Operation):
    def perform(self) -> None:
        runs.append(self.run_id)
        raise ValueError("crashed")


REFUSED = {
    "details": "NEW.error_details IS NOT NULL",
    "message": "NEW.error_message IN ('No', 'crashed')",
    "code": "NEW.error IN ('refused', 'ValueError')",
    "everything": "NEW.status = 'failed'",
}


def refuse(store: Store, when: str) -> None:
    """Create a trigger that refuses updates of records."""
    execute(
        store,
        f"CREATE TRIGGER refuse BEFORE UPDATE ON operation_records WHEN {when} "
        "BEGIN SELECT RAISE(ABORT, 'the application says no'); END",
    )


@pytest.mark.parametrize("kind", [Refuse, Crash])
@pytest.mark.parametrize("column", ["details", "message", "code"])
def test_n5_an_end_that_a_trigger_refuses_is_written_in_a_shorter_form(
    kind: type[Operation], column: str, isolated_runtime: Isolated
) -> None:
    ticket = kind().async_().call()
    refuse(isolated_runtime.runtime.store, REFUSED[column])
    isolated_runtime.run_pending()

    ticket.reload()
    assert (ticket.status, len(runs)) == ("failed", 1)
    assert ticket.failure == ("business" if kind is Refuse else "crash")


def test_n5_a_run_ends_although_its_attempt_cannot_be_stored(isolated_runtime: Isolated) -> None:
    ticket = Crash().async_().call()
    execute(
        isolated_runtime.runtime.store,
        "CREATE TRIGGER refuse BEFORE INSERT ON operation_attempts BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    isolated_runtime.run_pending()

    assert (ticket.reload().status, ticket.failure, len(runs)) == ("failed", "crash", 1)


@pytest.mark.parametrize("kind", [Refuse, Crash])
def test_n5_an_end_that_was_refused_in_every_form_is_written_when_the_database_accepts_it(
    kind: type[Operation], isolated_runtime: Isolated
) -> None:
    ticket = kind().async_().call()
    refuse(isolated_runtime.runtime.store, REFUSED["everything"])
    isolated_runtime.run_pending()
    assert ticket.reload().status == "running"

    execute(isolated_runtime.runtime.store, "DROP TRIGGER refuse")
    until(lambda: ticket.reload().status == "failed")

    assert ticket.failure == ("business" if kind is Refuse else "crash")
    assert len(runs) == 1


limited: list[bool] = []
"""Not empty while the database accepts no writes."""


class Limits(Operation):
    """Makes the database refuse writes before its own end is written."""

    fails: bool

    def perform(self) -> str:
        runs.append(self.run_id)
        limited.append(True)
        if self.fails:
            raise Error("refused", details={"much": "x" * 1500})
        return "z" * 500_000


def limit_writes(isolated_runtime: Isolated, pragma: str) -> None:
    """Let the database refuse writes while `limited` has an element."""
    on_off = {"max_page_count": ("1", "1000000"), "query_only": ("ON", "OFF")}[pragma]
    engine = isolated_runtime.runtime.store.database.engine
    limited.clear()

    @sa.event.listens_for(engine, "before_cursor_execute")
    def limit(_connection: Any, cursor: Any, _statement: str, *_rest: Any) -> None:
        cursor.execute(f"PRAGMA {pragma} = {on_off[0] if limited else on_off[1]}")


@pytest.mark.parametrize(("fails", "pragma"), [(True, "max_page_count"), (True, "query_only"), (False, "query_only")])
def test_n5_a_run_ends_when_a_full_or_read_only_database_accepts_writes_again(
    fails: bool, pragma: str, isolated_runtime: Isolated
) -> None:
    limit_writes(isolated_runtime, pragma)
    ticket = Limits(fails=fails).async_().call()
    try:
        isolated_runtime.run_pending()
    except sa.exc.OperationalError:
        # The message cannot be acknowledged either.
        pass
    # A full disk may have room for the shorter form of an end.
    assert ticket.reload().status == ("running" if pragma == "query_only" else "failed")

    limited.clear()
    until(lambda: ticket.reload().status == "failed")
    assert len(runs) == 1


def test_n5_a_run_whose_result_a_full_database_refuses_is_retried_a_limited_number_of_times(
    isolated_runtime: Isolated,
) -> None:
    limit_writes(isolated_runtime, "max_page_count")
    ticket = Limits(fails=False).async_().call()
    for _ in range(20):
        limited.clear()
        isolated_runtime.run_pending()
        if ticket.reload().terminal:
            break
        isolated_runtime.advance(3600)

    assert (ticket.status, ticket.failure, len(runs)) == ("failed", "crash", 6)


class Simple(Operation):
    def perform(self) -> int:
        runs.append(self.run_id)
        return 1


def test_n5_a_claimed_record_that_no_thread_runs_is_released(isolated_runtime: Isolated) -> None:
    ticket = Simple().async_().call()
    assert isolated_runtime.runtime.services.heartbeat is not None
    with isolated_runtime.runtime.store.begin() as connection:
        apply(connection, "claim", ticket.id, claimed_by=isolated_runtime.runtime.services.heartbeat.start())
    assert ticket.reload().status == "running"
    assert isolated_runtime.runtime.services.heartbeat.reconcile is not None

    isolated_runtime.runtime.services.heartbeat.reconcile()

    assert ticket.reload().status == "pending"
    isolated_runtime.run_pending()
    assert ticket.reload().result(1) == 1


def test_n5_a_started_run_without_an_end_is_failed_and_not_run_again(isolated_runtime: Isolated) -> None:
    ticket = Simple().async_().call()
    assert isolated_runtime.runtime.services.heartbeat is not None
    with isolated_runtime.runtime.store.begin() as connection:
        apply(connection, "claim", ticket.id, claimed_by=isolated_runtime.runtime.services.heartbeat.start())
    isolated_runtime.runtime.services.heartbeat.held_records.begin(ticket.id)
    assert isolated_runtime.runtime.services.heartbeat.reconcile is not None

    isolated_runtime.runtime.services.heartbeat.reconcile()

    assert (ticket.reload().status, ticket.failure) == ("failed", "crash")


class Compares(Operation):
    """Reconciles the claims of its worker, as the heartbeat does."""

    def perform(self) -> None:
        compare = dexpy.runtime.current_runtime().services.heartbeat.reconcile  # type: ignore[attr-defined]
        runs.append(str(compare()))


def test_n5_the_reconciliation_does_not_change_running_runs(isolated_runtime: Isolated) -> None:
    ticket = Compares().async_().call()
    isolated_runtime.run_pending()

    assert (ticket.reload().status, runs) == ("done", ["0"])


class ComparesOnce(Operation):
    key: str
    once = Once("key")

    def perform(self) -> int:
        compare = dexpy.runtime.current_runtime().services.heartbeat.reconcile  # type: ignore[attr-defined]
        runs.append(str(compare()))
        return 1


def test_n5_the_reconciliation_does_not_change_a_call_with_a_key(isolated_runtime: Isolated) -> None:
    assert ComparesOnce(key="a").call() == 1
    assert runs == ["0"]


def columns(store: Store, record_id: str) -> Any:
    return store.rows(sa.select(table).where(table.c.id == record_id))[0]


def in_place(kind: type[Operation], **props: Any) -> Ticket[Any] | None:
    with pytest.raises((Error, ValueError)):
        kind(**props).call()
    return None


class KeyedRefuse(Operation):
    key: str
    once = Once("key")

    def perform(self) -> None:
        runs.append(self.run_id)
        raise Error("refused", "No", details={"much": "x"})


@pytest.mark.parametrize("column", ["details", "message", "code"])
def test_n5_the_end_of_a_call_with_a_key_is_written_in_a_shorter_form(column: str, isolated_runtime: Isolated) -> None:
    isolated_runtime.runtime.dispatcher.require_tables()
    refuse(isolated_runtime.runtime.store, REFUSED[column])
    in_place(KeyedRefuse, key="a")

    assert [(record.status, record.failure) for record in records.all()] == [("failed", "business")]


def test_n5_the_end_of_a_call_with_a_key_is_written_when_the_database_accepts_it(isolated_runtime: Isolated) -> None:
    isolated_runtime.runtime.dispatcher.require_tables()
    refuse(isolated_runtime.runtime.store, REFUSED["everything"])
    in_place(KeyedRefuse, key="a")
    assert [record.status for record in records.all()] == ["running"]

    execute(isolated_runtime.runtime.store, "DROP TRIGGER refuse")
    until(lambda: [record.status for record in records.all()] == ["failed"])


@pytest.mark.parametrize("kind", [Refuse, Crash])
@pytest.mark.parametrize("column", ["details", "message", "code"])
def test_n5_the_record_of_a_call_is_written_in_a_shorter_form(
    kind: type[Operation], column: str, isolated_runtime: Isolated
) -> None:
    isolated_runtime.runtime.dispatcher.require_tables()
    execute(
        isolated_runtime.runtime.store,
        f"CREATE TRIGGER refuse BEFORE INSERT ON operation_records WHEN {REFUSED[column]} "
        "BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    in_place(kind)

    assert [record.status for record in records.all()] == ["failed"]


class Direct(Operation):
    record = Recording(params=False)
    retry_on = (Retry(Exception, attempts=3, wait=0),)

    def perform(self) -> None:
        runs.append("direct")


class Unrecorded(Direct):
    record = False


@pytest.mark.parametrize("error", [RuntimeError("early"), SystemExit(3), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("place", ["Frame.restored", "pipeline.decode_operation", "pipeline.redactor_for"])
def test_n1_an_error_before_a_direct_run_fails_it_and_never_leaves_its_actor(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch, place: str, error: BaseException
) -> None:
    def fail(*_arguments: Any, **_named: Any) -> None:
        raise error

    ticket = Direct().async_().call()
    Unrecorded().async_().call()
    monkeypatch.setattr(f"dexpy.worker.direct_job.{place}", fail)
    isolated_runtime.run_pending()
    isolated_runtime.run_pending()

    record = records.get(ticket.id)
    assert (runs, record.status, record.failure) == ([], "failed", "crash")
    assert record.error in (type(error).__name__, f"builtins.{type(error).__name__}")


@pytest.mark.parametrize("place", ["Frame.restored", "pipeline.decode_operation"])
def test_n1_a_direct_run_that_is_stopped_before_its_start_is_republished(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def stop(*_arguments: Any, **_named: Any) -> None:
        raise Shutdown

    ticket = Direct().async_().call()
    with monkeypatch.context() as patched:
        patched.setattr(f"dexpy.worker.direct_job.{place}", stop)
        with pytest.raises(Shutdown):
            isolated_runtime.run_pending()
    isolated_runtime.run_pending()

    assert "direct" in runs
    assert records.get(ticket.id).status == "done"


def test_n1_a_direct_run_whose_end_can_be_neither_written_nor_sent_is_dead_lettered(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: Any, **_named: Any) -> None:
        raise RuntimeError("it cannot be stored")

    Direct().async_().call()
    monkeypatch.setattr("dexpy.worker.direct_job.pipeline.decode_operation", fail)
    monkeypatch.setattr("dexpy.enqueue.dispatcher.Dispatcher.republish_direct", fail)
    monkeypatch.setattr("dexpy.worker.direct_job.DirectRecorder.fail", fail)
    with pytest.warns(RuntimeWarning, match="its end could not be written: RuntimeError"):
        isolated_runtime.run_pending()

    assert "its end could not be written: RuntimeError dead=True" in caplog.text.replace("'", "")


class Nothing(Operation):
    def perform(self) -> None: ...


def test_n5_a_call_near_the_end_of_the_stack_is_recorded(isolated_runtime: Isolated) -> None:
    limit = sys.getrecursionlimit()
    returned: list[int] = []

    def called_at(levels: int) -> None:
        if levels > 0:
            called_at(levels - 1)
        else:
            Nothing().call()
            returned.append(levels)

    Nothing().call()
    deepest = limit - len(inspect.stack(0))
    for room in range(20, 120, 3):
        with contextlib.suppress(RecursionError):
            called_at(deepest - room)

    assert returned
    assert records.all().where(status="done").count() >= len(returned) + 1
