"""Sessions whose transaction begins or ends without SQLAlchemy's events."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from dexpy import ConfigurationError, Once, Operation, Unique, enqueue_all, records
from dexpy.errors import NotCommitted, OptionsError, RolledBack
from dexpy.runtime import install
from dexpy.testing import Isolated

reported_errors: list[str] = []


class Plain(Operation):
    n: int

    def perform(self) -> int:
        return self.n


class Single(Plain):
    unique = Unique("n")


class Write(Operation):
    text: str

    def perform(self) -> None:
        self.session.execute(sa.text("insert into mine values (:t)"), {"t": self.text})


class Tell(Operation):
    what: str = "told"

    def perform(self) -> None:
        self.after_commit(lambda: reported_errors.append(self.what))


class TellTwice(Operation):
    def perform(self) -> None:
        Tell(what="inner").call()
        self.after_commit(lambda: reported_errors.append("outer"))


class TellLater(Operation):
    async def perform(self) -> None:
        self.after_commit(lambda: reported_errors.append("async"))


class TellUnrecorded(Tell):
    record = False


class TellLocked(Tell):
    lock = dexpy.Lock(template="tell:{what}", timeout=0)


def _database(kind: str, folder: Path) -> Generator[str]:
    with servers.database(kind, folder) as url:
        runtime = dexpy.configure(database=url, create_tables=True)
        yield url
        runtime.close()
        install(None)


@pytest.fixture(
    params=["sqlite", *(pytest.param(name, marks=pytest.mark.servers) for name in ("postgresql", "mariadb"))]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """A database of each kind, with a table of the application."""
    yield from _database(request.param, tmp_path)


def _with_table(engine: sa.Engine) -> sa.Engine:
    with engine.begin() as connection:
        connection.execute(sa.text("create table mine (a varchar(20))"))
    return engine


def rows_of(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(sa.text("select a from mine order by a")).scalars())


def by_engine(url: str) -> Session:
    return Session(sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool))


def by_execution_option(url: str) -> Session:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    return Session(engine.execution_options(isolation_level="AUTOCOMMIT"))


def by_connection(url: str) -> Session:
    session = Session(sa.create_engine(url, poolclass=sa.NullPool))
    session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    return session


def by_driver(url: str) -> Session:
    """Return a session whose driver was set to autocommit without SQLAlchemy."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, "connect")
    def connect(driver: Any, _record: Any) -> None:
        if isinstance(driver, sqlite3.Connection):
            driver.isolation_level = None
        elif callable(driver.autocommit):
            driver.autocommit(True)
        else:
            driver.autocommit = True

    return Session(engine)


WAYS = [by_engine, by_execution_option, by_connection, by_driver]


# ----------------------------------------------------------------------- a session that commits by itself


@pytest.mark.parametrize("is_used_before", [False, True], ids=["fresh tables", "used tables"])
@pytest.mark.parametrize("make", WAYS)
def test_q2_a_session_that_commits_each_statement_is_refused_and_keeps_the_rows_of_the_caller(
    url: str, make: Callable[[str], Session], is_used_before: bool
) -> None:
    if is_used_before:
        Plain(n=0).async_().call()
    engine = _with_table(sa.create_engine(url, poolclass=sa.NullPool))
    refused = "AUTOCOMMIT"
    with make(url) as session:
        session.execute(sa.text("insert into mine values ('a before')"))
        for op in (Plain(n=1), Single(n=2)):
            with pytest.raises(OptionsError, match=refused):
                op.async_(session=session).call()
            with pytest.raises(OptionsError, match=refused):
                op.async_(session=session, idempotence_token="t").call()
            with pytest.raises(OptionsError, match=refused):
                enqueue_all([op], session=session)
            with dexpy.session(session), pytest.raises(OptionsError, match=refused):
                op.async_().call()
        with pytest.raises(OptionsError, match=refused):
            Plain(n=3).async_(session=session.connection()).call()
        with dexpy.session(session), pytest.raises(OptionsError, match=refused):
            Write(text="never").call()
        session.execute(sa.text("insert into mine values ('b after')"))
    assert rows_of(engine) == ["a before", "b after"]
    assert records.where(operation=Plain).count() == int(is_used_before)


@pytest.mark.parametrize("op", [Plain(n=1), Single(n=2)], ids=["plain", "with a key"])
def test_q2_a_ticket_detects_a_raw_commit(url: str, op: Plain) -> None:
    Plain(n=0).async_().call()
    engine = _with_table(sa.create_engine(url, poolclass=sa.NullPool))
    with Session(engine) as session:
        session.execute(sa.text("insert into mine values ('before')"))
        ticket = op.async_(session=session).call()
        with pytest.raises(NotCommitted):
            ticket.reload()
        session.execute(sa.text("COMMIT"))
        assert ticket.reload().status == "pending"
        session.rollback()
    assert ticket.reload().status == "pending"
    assert rows_of(engine) == ["before"]


def test_q2_a_rolled_back_record_is_reported_as_rolled_back(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with Session(engine) as session:
        ticket = Plain(n=1).async_(session=session).call()
        session.rollback()
    with pytest.raises(RolledBack):
        ticket.reload()


@pytest.mark.servers
def test_q2_a_ticket_detects_a_statement_that_commits_on_mariadb(tmp_path: Path) -> None:
    for url in _database("mariadb", tmp_path):
        with Session(sa.create_engine(url, poolclass=sa.NullPool)) as session:
            ticket = Plain(n=1).async_(session=session).call()
            session.execute(sa.text("create table mine (a varchar(20))"))
            session.rollback()
        assert ticket.reload().status == "pending"


def test_q2_a_session_factory_that_commits_each_statement_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    engine = _with_table(sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool))
    runtime = dexpy.configure(database=url, session_factory=sessionmaker(engine))
    with pytest.raises(ConfigurationError, match=r"Write: session_factory=: expected a session with transactions"):
        Write(text="never").call()
    assert rows_of(engine) == []
    runtime.close()


@pytest.mark.parametrize("option", [{}, {"isolation_level": "SERIALIZABLE"}], ids=["usual", "serializable"])
def test_q2_sessions_with_transactions_are_accepted(url: str, option: dict[str, Any]) -> None:
    Plain(n=0).async_().call()
    engine = _with_table(sa.create_engine(url, poolclass=sa.NullPool, **option))
    with Session(engine) as session, dexpy.session(session):
        Write(text="mine").call()
        ticket = Single(n=1).async_().call()
        session.commit()
    assert ticket.reload().status == "pending"
    assert rows_of(engine) == ["mine"]


def test_q2_an_engine_that_sends_begin_itself_has_transactions(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    dexpy.configure(database=url)
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def connect(driver: Any, _record: Any) -> None:
        driver.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    _with_table(engine)
    with Session(engine) as session:
        Plain(n=1).async_(session=session).call()
        session.rollback()
    assert records.all().count() == 0


# -------------------------------------------------------------------------- a session that has not begun

BODIES: list[tuple[Callable[[], Operation], list[str]]] = [
    (lambda: Tell(), ["told"]),
    (lambda: TellTwice(), ["inner", "outer"]),
    (lambda: TellLater(), ["async"]),
    (lambda: TellUnrecorded(), ["told"]),
    (lambda: TellLocked(), ["told"]),
]
IDS = ["plain", "nested", "async", "unrecorded", "locked"]


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    reported_errors.clear()


def _session(isolated_runtime: Isolated) -> Session:
    store = isolated_runtime.runtime.store
    assert store is not None
    return Session(store.database.engine)


@pytest.mark.parametrize("is_begun", [False, True], ids=["not begun", "begun"])
@pytest.mark.parametrize(("make", "hooks"), BODIES, ids=IDS)
def test_l10_hooks_of_a_call_wait_for_the_commit_of_the_callers_session(
    isolated_runtime: Isolated, make: Callable[[], Operation], hooks: list[str], is_begun: bool
) -> None:
    with _session(isolated_runtime) as session, dexpy.session(session):
        if is_begun:
            session.execute(sa.text("select 1"))
        make().call()
        assert reported_errors == []
        session.commit()
        assert reported_errors == hooks
        make().call()
        session.rollback()
        make().call()
    assert reported_errors == hooks


@pytest.mark.parametrize("is_begun", [False, True], ids=["not begun", "begun"])
def test_l10_a_lock_is_held_until_the_callers_transaction_ends(isolated_runtime: Isolated, is_begun: bool) -> None:
    with _session(isolated_runtime) as session, dexpy.session(session):
        if is_begun:
            session.execute(sa.text("select 1"))
        TellLocked(what="a").call()
        with _session(isolated_runtime) as other, dexpy.session(other):
            assert getattr(TellLocked(what="a").safe.call(), "code", None) == "lock_timeout"
        session.rollback()
        with _session(isolated_runtime) as other, dexpy.session(other):
            assert TellLocked(what="a").safe.call() == dexpy.Ok(None)


def test_l10_later_writes_of_the_caller_are_committed_before_the_hooks(isolated_runtime: Isolated) -> None:
    _with_table(isolated_runtime.runtime.store.database.engine)  # type: ignore[union-attr]
    with _session(isolated_runtime) as session, dexpy.session(session):
        Tell().call()
        session.execute(sa.text("insert into mine values ('caller')"))
        assert reported_errors == []
        session.commit()
    assert reported_errors == ["told"]


def test_l10_a_session_without_autobegin_has_no_transaction_before_begin(isolated_runtime: Isolated) -> None:
    store = isolated_runtime.runtime.store
    assert store is not None
    with Session(store.database.engine, autobegin=False) as session, dexpy.session(session):
        Tell().call()
        assert reported_errors == ["told"]
        with session.begin():
            Tell(what="again").call()
            assert reported_errors == ["told"]
    assert reported_errors == ["told", "again"]


class ReadOnce(Operation):
    once = Once("n")
    n: int = 0

    def perform(self) -> None: ...


class ReadUnique(Operation):
    unique = Unique("n")
    n: int = 0

    def perform(self) -> None: ...


class ReadSession(Operation):
    def perform(self) -> None:
        self.session.execute(sa.text("select 1"))


@pytest.mark.parametrize(
    "use",
    [
        lambda: ReadOnce().call(),
        lambda: ReadOnce().async_().call(),
        lambda: ReadUnique().async_().call(),
        lambda: ReadSession().call(),
        lambda: ReadSession().async_().call(),
        lambda: dexpy.enqueue_all([ReadSession()]),
    ],
    ids=["once", "once async", "unique async", "self.session", "async", "enqueue_all"],
)
def test_l10_calls_that_need_the_transaction_of_a_session_without_one_are_refused(
    isolated_runtime: Isolated, use: Callable[[], Any]
) -> None:
    engine = isolated_runtime.runtime.store.database.engine
    with Session(engine, autobegin=False) as session, dexpy.session(session):
        with pytest.raises(OptionsError, match=r"autobegin=False.*Call session\.begin\(\) first"):
            use()
        with session.begin():
            use()
