"""While an operation runs, a `scoped_session` of the application returns the session of the run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

import flask
import pytest
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

import dexpy
from dexpy import Err, Error, Operation, guard, records
from dexpy.runtime import Runtime
from dexpy.testing import isolated

Scoped = scoped_session[Session]


class Base(DeclarativeBase):
    query: ClassVar[Any]


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    likes: Mapped[int] = mapped_column(default=0)


current: dict[str, Scoped] = {}


def db() -> Session:
    return current["db"]()


def add() -> None:
    """Add a post, in a function of the application that does not use dexpy."""
    db().add(Post())
    db().flush()


class Like(Operation, name="scoped.like"):
    def perform(self) -> bool:
        return db() is self.session


class Add(Operation, name="scoped.add"):
    fails: bool = False

    def perform(self) -> int:
        add()
        if self.fails:
            raise Error("no")
        return int(Post.query.count())


class AddTwice(Operation, name="scoped.add_twice"):
    def perform(self) -> bool:
        outer = db()
        add()
        assert isinstance(Add(fails=True).safe.call(), Err)
        Add().call()
        return db() is outer is self.session


class Parts(Operation, name="scoped.parts"):
    transaction = False

    def perform(self) -> bool:
        with self.transaction() as session:
            assert db() is session
            add()
        with self.transaction() as session:
            add()
            return db() is session


class Guarded(Operation, name="scoped.guarded"):
    @guard("There are posts")
    def has_posts(self) -> bool:
        return bool(db().scalars(sa.select(Post.id)).all()) or db() is not self.session

    def perform(self) -> None: ...


class Walk(Operation, name="scoped.walk"):
    def perform(self) -> list[bool]:
        results = [self.step(self.one), self.step(self.two)]
        return [*results, db() is self.session]

    def one(self) -> bool:
        add()
        return db() is self.session

    def two(self) -> bool:
        add()
        return db() is self.session


class Leaves(Operation, name="scoped.leaves"):
    transaction = False

    def perform(self) -> None:
        add()


class Later(Operation, name="scoped.later"):
    async def perform(self) -> bool:
        return await self.in_session(lambda session: db() is session)


@pytest.fixture
def scoped(tmp_path: Path) -> Generator[Scoped]:
    """A configured application whose sessions are in a thread-local registry."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/blog.db")
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    session_registry = scoped_session(sessionmaker(engine))
    current["db"] = session_registry
    Base.query = session_registry.query_property()
    runtime = dexpy.configure(session_factory=session_registry)
    yield session_registry
    session_registry.remove()
    runtime.close()
    engine.dispose()


def posts(scoped: Scoped) -> int:
    with scoped.session_factory() as session:
        return int(session.query(Post).count())


def test_d7_the_current_session_is_that_of_the_run(scoped: Scoped) -> None:
    assert Like().call()
    assert Like().safe.call().value


def test_d7_writes_through_it_are_committed_and_rolled_back_with_the_run(scoped: Scoped) -> None:
    assert Add().call() == 1
    assert isinstance(Add(fails=True).safe.call(), Err)
    assert posts(scoped) == 1


def test_d7_a_nested_run_that_fails_rolls_back_writes_through_it(scoped: Scoped) -> None:
    assert AddTwice().call()
    assert posts(scoped) == 2


@pytest.mark.parametrize("ends", ["returns", "fails", "raises"])
@pytest.mark.parametrize("has_one", [True, False])
def test_d7_the_registry_is_restored_afterwards(
    scoped: Scoped, monkeypatch: pytest.MonkeyPatch, ends: str, has_one: bool
) -> None:
    before = scoped() if has_one else None
    if ends == "raises":
        monkeypatch.setattr(Add, "perform", lambda self: [add(), 1 / 0])

    if ends == "raises":
        with pytest.raises(ZeroDivisionError):
            Add().call()
    else:
        Add(fails=ends == "fails").safe.call()

    assert scoped.registry.has() is has_one
    assert before is None or scoped() is before


def test_d7_parts_steps_and_guards_share_the_session_too(scoped: Scoped) -> None:
    assert Parts().call()
    assert Walk().call() == [True, True, True]
    assert posts(scoped) == 4
    assert not Guarded.is_callable()
    scoped.query(Post).delete()
    scoped.commit()
    assert Guarded.is_callable()
    Guarded().call()


def test_d7_a_session_of_the_application_that_a_run_joins_is_current_during_the_run(scoped: Scoped) -> None:
    with scoped.session_factory() as other, dexpy.session(other):
        assert Like().call()
        assert not scoped.registry.has()
        assert Add().call() == 1
        assert AddTwice().call()
        other.rollback()
    assert posts(scoped) == 0
    with dexpy.session(scoped) as session:  # type: ignore[arg-type]
        assert Like().call()
        assert scoped() is session
    assert posts(scoped) == 0


def test_d7_other_threads_have_their_own_sessions(scoped: Scoped) -> None:
    meet = threading.Barrier(2, timeout=30)
    sessions: list[Session] = []

    class Meet(Operation):
        def perform(self) -> bool:
            sessions.append(db())
            meet.wait()
            return db() is self.session

    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(Meet().call())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [True, True]
    assert len(set(sessions)) == 2
    assert not scoped.registry.has()


def test_d7_a_thread_that_a_run_starts_does_not_share_its_session(scoped: Scoped) -> None:
    class Ask(Operation):
        def perform(self) -> bool:
            collected: list[Session] = []
            thread = threading.Thread(target=lambda: (collected.append(db()), current["db"].remove()))
            thread.start()
            thread.join()
            return collected[0] is not self.session and db() is self.session

    assert Ask().call()


def test_d7_asyncio_shares_it_in_the_thread_of_the_run(scoped: Scoped) -> None:
    async def main() -> list[bool]:
        return await asyncio.gather(Like().acall(), Later().acall(), Later().acall())

    assert asyncio.run(main()) == [True, True, True]


def test_d7_a_registry_with_its_own_scope_function_is_shared(scoped: Scoped) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="none")
    current["db"] = by_tenant = scoped_session(scoped.session_factory, scopefunc=tenant.get)
    dexpy.configure(session_factory=by_tenant)
    tenant.set("a")
    mine = by_tenant()

    assert Like().call()
    assert by_tenant() is mine
    tenant.set("b")
    assert Like().call()
    assert not by_tenant.registry.has()


def test_d7_hooks_after_the_commit_have_the_session_of_the_application(scoped: Scoped) -> None:
    before = scoped()
    sessions: list[Session] = []

    class Hooked(Operation):
        def perform(self) -> None:
            add()
            self.after_commit(lambda: sessions.append(db()))

    Hooked().call()

    assert sessions == [before]


def test_d7_a_commit_through_the_registry_is_refused_like_one_through_the_session(scoped: Scoped) -> None:
    class Commits(Operation):
        method: str

        def perform(self) -> None:
            add()
            getattr(current["db"], self.method)()

    for method in ("commit", "rollback", "remove"):
        with pytest.raises(dexpy.errors.TransactionOwned):
            Commits(method=method).call()
    assert posts(scoped) == 0
    assert not scoped.registry.has()


def test_d7_a_run_in_the_background_shares_it_and_leaves_nothing(scoped: Scoped) -> None:
    mine = scoped()
    with isolated() as isolated_runtime:
        tickets = [Add().async_().call(), Like().async_().call(), Walk().async_().call()]
        isolated_runtime.run_pending()
        assert [ticket.result(timeout=5) for ticket in tickets] == [1, True, [True, True, True]]
        assert scoped() is mine
        mine.close()
        current["db"].remove()
        Leaves().async_().call()
        isolated_runtime.run_pending()
        # The session that the run left in the registry is closed without a commit.
        assert not scoped.registry.has()
    assert posts(scoped) == 3


def test_d7_a_database_that_the_run_does_not_use_is_not_queried(tmp_path: Path) -> None:
    engine = sa.create_engine("sqlite:////nowhere/at/all.db")
    session_registry = scoped_session(sessionmaker(engine))
    current["db"] = session_registry
    dexpy.configure(database=f"sqlite:///{tmp_path}/records.db", session_factory=sessionmaker(engine))

    class Quiet(Operation):
        record = False

        def perform(self) -> int:
            return 7

    assert Quiet().call() == 7


# ------------------------------------------------------------------------------------------------------------- Flask


@pytest.fixture
def app(tmp_path: Path) -> flask.Flask:
    application = flask.Flask("blog", instance_path=str(tmp_path))
    application.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///blog.db"
    return application


class Note(Operation, name="scoped.note"):
    def perform(self) -> tuple[bool, str]:
        session = flask.current_app.extensions["sqlalchemy"].session
        session.execute(sa.text("INSERT INTO notes VALUES (1)"))
        return session() is self.session, flask.current_app.name


def configured(app: flask.Flask) -> tuple[Any, Runtime]:
    database = SQLAlchemy(app)
    with app.app_context():
        database.session.execute(sa.text("CREATE TABLE notes (id INTEGER)"))
        database.session.commit()
        return database, dexpy.configure(session_factory=database.session, run_context=app.app_context)


def notes(app: flask.Flask, database: Any) -> int:
    with app.app_context():
        return int(database.session.execute(sa.text("SELECT count(*) FROM notes")).scalar())


def test_d7_the_session_of_flask_is_that_of_the_run(app: flask.Flask, tmp_path: Path) -> None:
    database, runtime = configured(app)

    assert runtime.database_url == f"sqlite:///{tmp_path}/blog.db"
    with app.test_request_context():
        before = database.session()
        assert Note().call() == (True, "blog")
        assert database.session() is before
        with dexpy.session(database.session):
            assert Note().call() == (True, "blog")
        database.session.rollback()
    assert notes(app, database) == 1
    runtime.close()


def test_d7_a_run_in_the_background_has_the_context_of_flask(app: flask.Flask) -> None:
    database, _ = configured(app)

    with isolated() as isolated_runtime:
        ticket = Note().async_().call()
        isolated_runtime.run_pending()
        assert ticket.result(timeout=5) == (True, "blog")
        assert not flask.has_app_context()
    assert notes(app, database) == 1


def test_d7_a_factory_that_needs_the_context_of_flask_is_refused_with_the_fix(app: flask.Flask) -> None:
    database = SQLAlchemy(app)
    with app.app_context():
        runtime = dexpy.configure(session_factory=database.session)
        with pytest.raises(dexpy.ConfigurationError, match=r"run_context=app\.app_context"):
            threading_result(runtime)
    with pytest.raises(dexpy.ConfigurationError, match="the database of the factory is unknown"):
        dexpy.configure(session_factory=database.session)


def threading_result(runtime: Runtime) -> None:
    """Check the session factory as a worker does, in a thread without a context."""
    raised: list[BaseException] = []

    def observe() -> None:
        try:
            runtime.store.shares_sessions()
        except dexpy.ConfigurationError as error:
            raised.append(error)

    thread = threading.Thread(target=observe)
    thread.start()
    thread.join()
    raise raised[0]


def test_d7_records_are_those_of_the_run(scoped: Scoped) -> None:
    Add().call()
    Add(fails=True).safe.call()

    assert [record.status for record in records.all()] == ["done", "failed"]
