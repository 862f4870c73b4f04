"""The records of synchronous runs: their contents, and when they are written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from dexpy import Error, Operation, Recording, prop, records
from dexpy.database.tables import records as table
from dexpy.errors import ResultTypeError
from dexpy.runtime import install
from dexpy.testing import Isolated, isolated

from .ledger import Crash, Entry, Quiet, Refuse, Write, lines, only, statuses
from .shop import Base, Shop

SOON_S = 10
"""Shorter than SQLite's wait for a lock, in seconds, so that a run that waits for its own lock is detected."""


def within(seconds: float, work: Callable[[], Any]) -> None:
    """Call a function, and fail if it takes longer."""
    began = time.monotonic()
    work()
    assert time.monotonic() - began < seconds


def drop_records(shop: Shop) -> None:
    """Drop the table of records after the runtime has found it."""
    shop.isolated_runtime.runtime.store.prepare()
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE operation_records")


# ----------------------------------------------------------------------------------------- the row


def test_a_done_run_leaves_one_row(shop: Shop) -> None:
    Write(text="a").call()
    row = only()
    assert (row.operation, row.status, row.params, row.result) == (Write.contract.name, "done", {"text": "a"}, "a")
    assert row.id.startswith("op_")
    assert (row.error, row.failure, row.error_message, row.error_details) == (None, None, None, None)
    assert row.num_attempts == 1
    assert row.started_at <= row.completed_at
    assert row.completed_at.utcoffset().total_seconds() == 0


def test_a_business_error_leaves_one_row(shop: Shop) -> None:
    Refuse(text="a").safe.call()
    row = only()
    assert (row.status, row.failure, row.error, row.error_message) == ("failed", "business", "refused", "Not today")
    assert row.error_details == {"text": "a"}
    assert row.result is None
    assert lines(shop) == []


def test_a_refusal_of_a_guard_leaves_one_row(shop: Shop) -> None:
    class Guarded(Operation):
        @dexpy.guard("It is closed")
        def closed(self) -> bool:
            return True

        def perform(self) -> None: ...

    Guarded().safe.call()
    row = only()
    assert (row.status, row.failure, row.error, row.error_message) == ("failed", "rejected", "closed", "It is closed")


def test_a_crash_leaves_one_row(shop: Shop) -> None:
    with pytest.raises(RuntimeError):
        Crash(text="a").call()
    row = only()
    assert (row.status, row.failure, row.error) == ("failed", "crash", "RuntimeError")
    assert row.error_message == "cannot write a"
    assert row.params == {"text": "a"}
    assert lines(shop) == []


def test_the_run_id_is_the_id_of_the_row(isolated_runtime: Isolated) -> None:
    class Tell(Operation):
        def perform(self) -> str:
            return self.run_id

    assert Tell().call() == only().id


def test_invalid_props_leave_no_row(isolated_runtime: Isolated) -> None:
    with pytest.raises(dexpy.PropsError):
        Write(text=7).call()  # type: ignore[arg-type]
    assert records.all().count() == 0


def test_params_are_recorded_as_passed_and_not_as_perform_left_them(isolated_runtime: Isolated) -> None:
    class Change(Operation):
        items: list[int]

        def perform(self) -> None:
            self.items.append(2)

    operation = Change(items=[1])
    operation.call()
    operation.call()
    assert [each.params for each in records.all()] == [{"items": [1]}] * 2


def test_a_second_call_is_a_second_row(shop: Shop) -> None:
    operation = Quiet()
    operation.call()
    operation.call()
    assert records.done().count() == 2


def test_none_and_no_result_are_distinguished(isolated_runtime: Isolated) -> None:
    class Nothing(Operation):
        def perform(self) -> None: ...

    class Unkept(Operation):
        record = Recording(result=False)

        def perform(self) -> int:
            return 3

    Nothing().call()
    Unkept().call()
    with isolated_runtime.runtime.store.database.engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT result FROM operation_records ORDER BY id").scalars().all()
    assert stored == ['{"value": null}', None]


# ----------------------------------------------------------------------------------------- in the transaction


def test_done_is_written_in_the_transaction_of_the_effects(shop: Shop) -> None:
    """No other transaction reads one without the other."""

    class Unique(Operation):
        def perform(self) -> None:
            self.session.add(Entry(text="a"))

    Unique().call()
    with pytest.raises(sa.exc.IntegrityError):
        Unique().call()
    assert sorted(each.status for each in records.all()) == ["done", "failed"]
    assert lines(shop) == ["a"]


def test_done_and_the_effects_are_one_commit(shop: Shop) -> None:
    commits: list[int] = []
    shop.isolated_runtime.runtime.store.prepare()
    sa.event.listen(shop.engine, "commit", lambda connection: commits.append(1))
    Write(text="a").call()
    assert len(commits) == 1


def test_a_run_that_touches_no_session_is_recorded_in_one_insert(shop: Shop) -> None:
    shop.isolated_runtime.runtime.store.prepare()
    statements: list[str] = []
    sa.event.listen(shop.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    Quiet().call()
    assert len(statements) == 1
    assert statements[0].startswith("INSERT INTO operation_records")


def test_a_failure_is_written_after_the_rollback(shop: Shop) -> None:
    events: list[tuple[str, int]] = []
    shop.isolated_runtime.runtime.store.prepare()
    sa.event.listen(shop.engine, "rollback", lambda connection: events.append(("rollback", 0)))
    sa.event.listen(
        shop.engine,
        "before_cursor_execute",
        lambda *args: events.append(("insert", 0)) if "operation_records" in args[2] else None,
    )
    Refuse(text="a").safe.call()
    assert [word for word, _ in events][:2] == ["rollback", "insert"]


def test_a_commit_that_fails_is_recorded_as_a_crash(shop: Shop) -> None:
    from .shop import Deferred

    class Dangle(Operation):
        def perform(self) -> None:
            self.session.add(Deferred(id=1, customer_id=99))

    with pytest.raises(sa.exc.IntegrityError):
        Dangle().call()
    assert statuses() == {"Dangle": ("failed", "crash")}


# ----------------------------------------------------------------------------------------- nested


class Outer(Operation):
    """Calls other operations, and ends as its prop specifies."""

    inner: Any
    end: str = "done"
    mark: str = ""

    def perform(self) -> None:
        self.session.add(Entry(text="outer" + self.mark))
        for operation in self.inner:
            operation.safe.call()
        if self.end == "error":
            raise Error("rolled_back")
        if self.end == "crash":
            raise RuntimeError("rolled_back")


@pytest.mark.parametrize("end", ["error", "crash"])
def test_a_nested_run_that_its_caller_rolled_back_is_recorded_as_rolled_back(shop: Shop, end: str) -> None:
    with pytest.raises((Error, RuntimeError)):
        Outer(inner=[Write(text="a")], end=end).call()
    row = only(Write)
    assert (row.status, row.failure, row.error) == ("failed", "discarded", "dexpy.errors.RolledBack")
    assert row.error_message == "The enclosing run rolled back its transaction, with the effects of this run."
    assert row.parent_id == only(Outer).id
    assert row.result is None
    assert lines(shop) == []


def test_a_nested_run_that_is_committed_is_done(shop: Shop) -> None:
    Outer(inner=[Write(text="a"), Refuse(text="b")]).call()
    assert statuses() == {"Write": ("done", None), "Refuse": ("failed", "business"), "Outer": ("done", None)}
    assert lines(shop) == ["a", "outer"]


def test_rows_of_deeply_nested_runs_are_written_once(shop: Shop) -> None:
    deep = Outer(inner=[Refuse(text="a"), Write(text="b")], end="error", mark="3")
    within(SOON_S, lambda: Outer(inner=[Outer(inner=[deep], mark="2")]).call())
    assert sorted((each.status, each.failure) for each in records.all() if each.status != "done") == [
        ("failed", "business"),
        ("failed", "business"),
        ("failed", "discarded"),
    ]
    assert records.all().count() == 5


def test_a_middle_run_that_fails_rolls_back_the_inner_and_not_the_outer_run(shop: Shop) -> None:
    class Middle(Operation):
        def perform(self) -> None:
            Write(text="inner").call()
            raise Error("rolled_back")

    class Top(Operation):
        def perform(self) -> str:
            self.session.add(Entry(text="top"))
            Middle().safe.call()
            return "kept"

    assert Top().call() == "kept"
    assert statuses() == {"Write": ("failed", "discarded"), "Middle": ("failed", "business"), "Top": ("done", None)}
    assert lines(shop) == ["top"]


def test_a_nested_failure_waits_for_the_end_of_the_outer_transaction(shop: Shop) -> None:
    """Written earlier, it would wait for a lock that its own thread holds."""

    class Top(Operation):
        def perform(self) -> int:
            self.session.add(Entry(text="top"))
            self.session.flush()
            for number in range(3):
                Refuse(text=f"inner {number}").safe.call()
            return records.all().count()

    within(SOON_S, lambda: Top().call())
    assert only(Top).result == 0
    assert records.failed().count() == 3


def test_a_nested_run_of_a_session_not_yet_touched_is_recorded(shop: Shop) -> None:
    class Top(Operation):
        def perform(self) -> None:
            Quiet().call()
            Refuse(text="a").safe.call()
            self.session.add(Entry(text="top"))

    within(SOON_S, lambda: Top().call())
    assert statuses() == {"Quiet": ("done", None), "Refuse": ("failed", "business"), "Top": ("done", None)}


def test_a_nested_run_with_transaction_false_is_recorded_after_the_outer_transaction(shop: Shop) -> None:
    class Loose(Operation):
        transaction = False

        def perform(self) -> None:
            with self.transaction() as session:
                session.add(Entry(text="loose"))

    class Top(Operation):
        def perform(self) -> None:
            self.session.add(Entry(text="top"))
            self.session.flush()
            Loose().call()

    within(SOON_S, lambda: Top().call())
    assert statuses() == {"Loose": ("done", None), "Top": ("done", None)}
    assert lines(shop) == ["loose", "top"]


# ----------------------------------------------------------------------------------------- joined sessions


def test_a_joined_run_commits_and_rolls_back_with_the_callers_transaction(shop: Shop) -> None:
    with shop.session() as session, dexpy.session(session):
        Write(text="a").call()
        session.rollback()
        Write(text="b").call()
        session.commit()
    assert lines(shop) == ["b"]
    assert only(Write).params == {"text": "b"}


def test_a_joined_failure_is_written_when_the_caller_commits(shop: Shop) -> None:
    def work() -> None:
        with shop.session() as session, dexpy.session(session):
            session.add(Entry(text="mine"))
            session.flush()
            Refuse(text="a").safe.call()
            assert records.all().count() == 0
            session.commit()

    within(SOON_S, work)
    assert statuses() == {"Refuse": ("failed", "business")}
    assert lines(shop) == ["mine"]


def test_a_joined_failure_is_written_when_the_caller_rolls_back(shop: Shop) -> None:
    def work() -> None:
        with shop.session() as session, dexpy.session(session):
            session.add(Entry(text="mine"))
            session.flush()
            with pytest.raises(RuntimeError):
                Crash(text="a").call()
            session.rollback()

    within(SOON_S, work)
    assert statuses() == {"Crash": ("failed", "crash")}
    assert lines(shop) == []


def test_a_joined_failure_is_written_when_the_caller_closes_the_session(shop: Shop) -> None:
    def work() -> None:
        with shop.session() as session, dexpy.session(session):
            session.add(Entry(text="mine"))
            session.flush()
            Refuse(text="a").safe.call()

    within(SOON_S, work)
    assert statuses() == {"Refuse": ("failed", "business")}


def test_a_joined_run_without_writes_waits_for_the_caller_too(shop: Shop) -> None:
    def work() -> None:
        with shop.session() as session, dexpy.session(session):
            session.add(Entry(text="mine"))
            session.flush()
            Quiet().call()
            session.commit()

    within(SOON_S, work)
    assert statuses() == {"Quiet": ("done", None)}


def test_a_joined_run_in_a_savepoint_that_is_rolled_back_leaves_no_row(shop: Shop) -> None:
    with shop.session() as session, dexpy.session(session):
        savepoint = session.begin_nested()
        Write(text="a").call()
        savepoint.rollback()
        session.commit()
    assert lines(shop) == []
    assert records.all().count() == 0


def test_a_run_that_joins_a_session_without_a_transaction_is_recorded_at_the_end_of_its_transaction(shop: Shop) -> None:
    with shop.session() as session, dexpy.session(session):
        Quiet().call()
        assert statuses() == {}
        session.commit()
        assert statuses() == {"Quiet": ("done", None)}


# ----------------------------------------------------------------------------------------- another database


def test_effects_in_another_database_and_their_row_agree(isolated_runtime: Isolated, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    Base.metadata.create_all(engine)
    with isolated(session_factory=sessionmaker(engine)):
        Write(text="a").call()
        Refuse(text="b").safe.call()
        assert statuses() == {"Write": ("done", None), "Refuse": ("failed", "business")}
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT text FROM ledger_entries").scalars().all() == ["a"]
    engine.dispose()


@pytest.mark.parametrize("end", ["done", "error"])
def test_nested_effects_in_another_database_and_their_rows_agree(tmp_path: Path, end: str) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    Base.metadata.create_all(engine)
    with isolated(session_factory=sessionmaker(engine)):
        Outer(inner=[Write(text="a")], end=end).safe.call()
        if end == "done":
            assert statuses() == {"Write": ("done", None), "Outer": ("done", None)}
        else:
            assert statuses() == {"Write": ("failed", "discarded"), "Outer": ("failed", "business")}
    engine.dispose()


@pytest.mark.parametrize("commits", [True, False])
def test_a_joined_session_on_another_database_and_its_rows_agree(tmp_path: Path, commits: bool) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    Base.metadata.create_all(engine)
    with isolated(), Session(engine) as session:
        with dexpy.session(session):
            Write(text="a").call()
        assert records.all().count() == 0
        (session.commit if commits else session.rollback)()
        assert statuses() == {"Write": ("done", None) if commits else ("failed", "discarded")}
    engine.dispose()


# ----------------------------------------------------------------------------------------- Recording options


def test_record_false_leaves_no_row(shop: Shop) -> None:
    class Secret(Operation):
        record = False

        def perform(self) -> None:
            self.session.add(Entry(text="a"))

    Secret().call()
    assert records.all().count() == 0
    assert lines(shop) == ["a"]


def test_record_without_params_leaves_a_row_without_them(shop: Shop) -> None:
    class Thin(Operation):
        text: str
        record = Recording(params=False)

        def perform(self) -> str:
            return self.text

    Thin(text="a").call()
    assert (only().params, only().result, only().status) == (None, "a", "done")


def test_record_without_result_leaves_a_row_without_it(shop: Shop) -> None:
    class Thin(Operation):
        text: str
        record = Recording(result=False)

        def perform(self) -> str:
            return self.text

    assert Thin(text="a").call() == "a"
    assert (only().params, only().result, only().result_error, only().status) == ({"text": "a"}, None, None, "done")


class Opaque:
    """A value without a JSON form."""


def test_params_without_a_json_form_are_left_out(isolated_runtime: Isolated) -> None:
    class Take(Operation):
        value: Any
        number: int

        def perform(self) -> int:
            return self.number

    assert Take(value=Opaque(), number=1).call() == 1
    assert (only().status, only().params) == ("done", None)


def test_a_result_without_a_json_form_is_not_stored_and_the_row_has_the_reason(shop: Shop) -> None:
    class Give(Operation):
        def perform(self) -> Any:
            self.session.add(Entry(text="a"))
            return {"value": Opaque()}

    assert isinstance(Give().call()["value"], Opaque)
    row = only()
    assert (row.status, row.result) == ("done", None)
    assert "Opaque" in row.result_error
    assert lines(shop) == ["a"]


def test_a_result_of_the_wrong_type_rolls_back(shop: Shop) -> None:
    class Lie(Operation):
        def perform(self) -> int:
            self.session.add(Entry(text="a"))
            return "seven"  # type: ignore[return-value]

    with pytest.raises(ResultTypeError, match=r"Lie\.perform: expected to return int, got str"):
        Lie().call()
    assert lines(shop) == []
    assert (only().status, only().failure, only().error) == ("failed", "crash", "dexpy.errors.ResultTypeError")


# -------------------------------------------------------------------------------- a row that cannot be written


def test_a_row_that_cannot_be_written_does_not_break_a_call(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    drop_records(shop)
    assert Quiet().call() == 7
    assert "record.not_written" in caplog.text


def test_a_failure_whose_row_cannot_be_written_is_raised_unchanged(shop: Shop) -> None:
    drop_records(shop)
    with pytest.raises(Error, match="refused"):
        Refuse(text="a").call()
    with pytest.raises(RuntimeError, match="cannot write"):
        Crash(text="a").call()


def test_a_database_that_cannot_be_opened_does_not_break_a_call_that_needs_none(tmp_path: Path) -> None:
    with isolated(database=f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'x.db'}"):
        assert Quiet().call() == 7
        with pytest.raises(Error, match="no"):
            Plain().call()


class Plain(Operation):
    """Raises a business error without using the database."""

    def perform(self) -> None:
        raise Error("no")


def test_a_failure_with_details_of_any_kind_is_recorded(isolated_runtime: Isolated) -> None:
    class Odd(Operation):
        def perform(self) -> None:
            raise Error(
                "odd",
                "lone \udc80 and NUL \0",
                details={"value": Opaque(), "nan": float("nan"), 3: {"set": {1}}, "text": "\udc80\0"},  # type: ignore[dict-item]
            )

    Odd().safe.call()
    row = only()
    assert (row.status, row.failure) == ("failed", "business")
    assert row.error_details["value"] == "<Opaque>"


def test_an_exception_that_cannot_be_printed_is_recorded(isolated_runtime: Isolated) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise ValueError

    class Fall(Operation):
        def perform(self) -> None:
            raise Unprintable

    with pytest.raises(Unprintable):
        Fall().call()
    assert only().failure == "crash"


def test_a_message_with_characters_that_no_database_accepts_is_recorded(isolated_runtime: Isolated) -> None:
    class Fall(Operation):
        def perform(self) -> None:
            raise RuntimeError("lone \udc80 surrogate")

    with pytest.raises(RuntimeError):
        Fall().call()
    assert only().failure == "crash"


# ----------------------------------------------------------------------------------------- trace, parent, actor


def test_trace_parent_and_actor_are_columns(shop: Shop) -> None:
    with dexpy.trace(actor={"type": "user", "id": 7, "role": "clerk"}, trace_id="req-1"):
        Outer(inner=[Write(text="a")]).call()
    outer, inner = only(Outer), only(Write)
    assert (outer.trace_id, outer.actor_type, outer.actor_id, outer.parent_id) == ("req-1", "user", "7", None)
    assert (inner.trace_id, inner.actor_type, inner.actor_id, inner.parent_id) == ("req-1", "user", "7", outer.id)
    assert inner.trace["stack"] == [[outer.id, outer.operation], [inner.id, inner.operation]]
    assert inner.trace["actor"] == {"type": "user", "id": 7, "role": "clerk"}


class Fails(Operation):
    how: str

    def perform(self) -> None:
        if self.how == "code":
            raise Error("c" * 300)
        raise type("E" * 300, (Exception,), {})("it is")


def test_values_longer_than_their_column_are_shortened(isolated_runtime: Isolated) -> None:
    with dexpy.trace(actor={"type": "user", "id": "7" * 300}):
        Fails(how="code").safe.call()
        with pytest.raises(Exception, match="it is"):
            Fails(how="class").call()
        ticket = Fails(how="code").async_().call()
    isolated_runtime.run_pending()

    assert ticket.reload().failed
    for row in isolated_runtime.runtime.store.rows(sa.select(table)):
        assert (len(row.error), len(row.actor_id)) == (255, 255)


def test_two_calls_without_a_trace_have_a_trace_each(isolated_runtime: Isolated) -> None:
    Quiet().call()
    Quiet().call()
    assert len({each.trace_id for each in records.all()}) == 2


# ----------------------------------------------------------------------------------------- secrets


class Login(Operation):
    """Has a sensitive prop."""

    user: str
    password: str = prop(sensitive=True)
    how: str = "crash"

    def perform(self) -> None:
        if self.how == "crash":
            raise RuntimeError(f"{self.user} cannot log in with {self.password}")
        raise Error("denied", f"not with {self.password}", details={"tried": [self.password, {self.password: 1}]})


def every_text(isolated_runtime: Isolated) -> str:
    """Return the errors and results of all records, as text."""
    with isolated_runtime.runtime.store.database.engine.connect() as connection:
        columns = "error, error_message, error_details, result"
        return str(connection.exec_driver_sql(f"SELECT {columns} FROM operation_records").all())


@pytest.mark.parametrize("how", ["crash", "error"])
def test_sensitive_values_are_redacted_from_the_record_of_a_failure(isolated_runtime: Isolated, how: str) -> None:
    with pytest.raises((RuntimeError, Error)):
        Login(user="anna", password="s3cr3t!", how=how).call()
    assert "s3cr3t!" not in every_text(isolated_runtime)
    assert "<sensitive>" in only().error_message


@pytest.mark.parametrize("how", ["crash", "error"])
def test_the_secret_of_a_nested_run_is_redacted_from_the_outer_row(
    isolated_runtime: Isolated, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Asks(Operation):
        def perform(self) -> None:
            Login(user="anna", password="s3cr3t!", how=how).call()

    with pytest.raises((RuntimeError, Error)):
        Asks().call()
    assert "s3cr3t!" not in every_text(isolated_runtime)
    assert "s3cr3t!" not in caplog.text
    assert records.failed().count() == 2


def test_the_secret_of_an_outer_run_is_redacted_from_the_nested_row(isolated_runtime: Isolated) -> None:
    class Says(Operation):
        text: str = prop(sensitive=False)
        record = Recording(params=False)

        def perform(self) -> None:
            raise RuntimeError(self.text)

    class Knows(Operation):
        password: str = prop(sensitive=True)

        def perform(self) -> None:
            Says(text=f"it is {self.password}").call()

    with pytest.raises(RuntimeError):
        Knows(password="s3cr3t!").call()
    assert "s3cr3t!" not in every_text(isolated_runtime)


# ----------------------------------------------------------------------------------------- without a configuration


def test_a_call_without_a_configuration_creates_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Quiet().call() == 7
    with pytest.raises(Error):
        Plain().call()
    assert list(tmp_path.iterdir()) == []


def test_a_call_without_a_configuration_that_uses_the_session_creates_the_default_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Touch(Operation):
        def perform(self) -> int:
            return self.session.scalars(sa.text("SELECT 1")).one()

    monkeypatch.chdir(tmp_path)
    try:
        assert Touch().call() == 1
        assert (tmp_path / "dexpy.db").exists()
    finally:
        dexpy.current_runtime().close()
        install(None)


# ----------------------------------------------------------------------------------------- threads


def test_failures_of_many_threads_are_all_recorded(shop: Shop) -> None:
    def work() -> None:
        for number in range(5):
            Refuse(text=f"{threading.get_ident()} {number}").safe.call()
            Write(text=f"{threading.get_ident()} {number}").call()

    def all_of_them() -> None:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON_S)

    within(SOON_S, all_of_them)
    assert (records.done().count(), records.failed().count()) == (20, 20)
