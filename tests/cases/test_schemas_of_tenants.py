"""A schema for each tenant: dexpy finds its own tables whatever the schema of a connection is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import dramatiq
import pytest
import servers
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from dexpy import Concurrency, Lock, Once, Operation, Unique, enqueue_all, records
from dexpy.database import schema
from dexpy.database.engine import Database
from dexpy.runtime import Runtime, current_runtime, install
from dexpy.testing import isolated

TENANT = "acme"


class Count(Operation):
    n: int = 0

    def perform(self) -> int:
        return self.n


class CountOnce(Operation):
    n: int
    once = Once("n")

    def perform(self) -> int:
        return self.n


class CountAlone(Operation):
    n: int
    unique = Unique("n")
    concurrency = Concurrency(limit=1, group="count")
    lock = Lock(template="count", timeout=5)

    def perform(self) -> int:
        return self.n


class Enters(Operation):
    """Changes the schema of its connection to that of a tenant."""

    enter: str
    n: int = 0
    once = Once("n")

    def perform(self) -> int:
        self.session.execute(sa.text(self.enter))
        self.report_progress(1, 2)
        Count(n=1).call()
        Count(n=2).async_().call()
        return 1


class EntersInSteps(Operation):
    enter: str

    def perform(self) -> int:
        self.step(self.one)
        self.step(self.two)
        return 1

    def one(self) -> None:
        self.session.execute(sa.text(self.enter))

    def two(self) -> None:
        self.session.execute(sa.text(self.enter))


class Site(NamedTuple):
    """A database with dexpy's tables and the schema of a tenant."""

    url: str
    tenant: str
    enter: str
    engine: sa.Engine

    @property
    def of_tenant(self) -> str:
        """The URL whose connections are in the tenant's schema."""
        url = sa.make_url(self.url)
        if url.get_backend_name() == "postgresql":
            return str(url.update_query_dict({"options": f"-csearch_path={self.tenant}"}).render_as_string(False))
        return url.set(database=self.tenant).render_as_string(False)

    def strays(self) -> dict[str, int]:
        """Return the number of rows in the tenant's copies of dexpy's tables."""
        with self.engine.connect() as connection:
            if not sa.inspect(connection).has_table("operation_records", schema=self.tenant):
                return {}
            count = "SELECT count(*) FROM {}.{}"
            tables = ("operation_records", "dexpy_messages", "operation_steps", "operation_signals")
            counts = {
                name: connection.execute(sa.text(count.format(self.tenant, name))).scalar_one() for name in tables
            }
        return {name: number for name, number in counts.items() if number}


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: Any, tmp_path: Path) -> Generator[str]:
    with servers.database(request.param, tmp_path) as url:
        yield url


@pytest.fixture(params=[True, False], ids=["with copies of the tables", "without"])
def site(request: Any, server: str) -> Generator[Site]:
    dexpy.configure(database=server)
    database = current_runtime().store.database  # type: ignore[union-attr]
    with database.begin() as connection:
        schema.create(connection)
    engine = sa.create_engine(server)
    postgresql = engine.dialect.name == "postgresql"
    tenant = TENANT if postgresql else f"{engine.url.database}_{TENANT}"
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE {'SCHEMA' if postgresql else 'DATABASE'} {tenant}"))
        if request.param:
            like = "(LIKE public.{0} INCLUDING ALL)" if postgresql else "LIKE {0}"
            for table in schema.TABLES:
                connection.execute(sa.text(f"CREATE TABLE {tenant}.{table.name} {like.format(table.name)}"))
    enter = f"SET search_path TO {tenant}" if postgresql else f"USE {tenant}"
    yield Site(server, tenant, enter, engine)
    current_runtime().close()
    if not postgresql:
        with engine.begin() as connection:
            connection.execute(sa.text(f"DROP DATABASE {tenant}"))
    engine.dispose()


def run_everything() -> None:
    """Run all pending records with a worker of Dramatiq in this process."""
    worker = dramatiq.Worker(current_runtime().dispatcher.broker, worker_threads=2, worker_timeout=50)
    worker.start()
    until = time.monotonic() + 20
    try:
        while records.pending().count() or records.where(status="running").count():
            assert time.monotonic() < until, "all enqueued runs have ended"
            time.sleep(0.05)
    finally:
        worker.stop()


def _in_map(engine: sa.Engine, tenant: str) -> sa.Engine:
    return engine.execution_options(schema_translate_map={None: tenant})


def _set(site: Site) -> Session:
    session = Session(site.engine)
    session.execute(sa.text(site.enter))
    return session


def _set_local(site: Site) -> Session:
    session = Session(site.engine)
    session.execute(sa.text(site.enter.replace("SET search", "SET LOCAL search")))
    return session


def _session_map(site: Site) -> Session:
    session = Session(site.engine)
    session.connection(execution_options={"schema_translate_map": {None: site.tenant}})
    return session


def _engine_map(site: Site) -> Session:
    return Session(_in_map(site.engine, site.tenant))


def _factory_map(site: Site) -> Session:
    return sessionmaker(_in_map(site.engine, site.tenant))()


def _listener(site: Site) -> Session:
    engine = sa.create_engine(site.url, poolclass=sa.NullPool)
    sa.event.listen(engine, "connect", lambda driver, _entry: driver.cursor().execute(site.enter))
    return Session(engine)


def _url(site: Site) -> Session:
    return Session(sa.create_engine(site.of_tenant, poolclass=sa.NullPool))


WAYS: list[Callable[[Site], Session]] = [
    _set, _set_local, _session_map, _engine_map, _factory_map, _listener, _url
]  # fmt: skip


@pytest.mark.servers
def test_l3_an_enqueue_in_the_session_of_a_tenant_is_stored_and_run(site: Site) -> None:
    with Session(site.engine) as session:
        tickets: list[Any] = [Count().async_(session=session).call()]
        session.commit()
    for number, way in enumerate(WAYS):
        n = 10 * number
        with way(site) as session:
            tickets.append(Count(n=n).async_(session=session).call())
            tickets += enqueue_all([Count(n=n), CountAlone(n=n)], session=session)
            with dexpy.session(session):
                assert Count(n=n).call() == n
                assert CountOnce(n=n).call() == CountOnce(n=n).call() == n
                tickets.append(CountAlone(n=n + 1).async_().call())
                tickets.append(CountAlone(n=n + 1).async_().call())
            session.commit()
        assert tickets[-1].duplicate
    with site.engine.connect() as connection:
        connection.execute(sa.text(site.enter))
        tickets.append(Count(n=1).async_(session=connection).call())
        connection.commit()
    assert {ticket.reload().status for ticket in tickets} == {"pending"}
    run_everything()
    assert {ticket.reload().status for ticket in tickets} == {"done"}
    assert records.where(operation=CountOnce).count() == len(WAYS)
    assert site.strays() == {}


@pytest.mark.servers
def test_l3_an_enqueue_in_a_rolled_back_session_of_a_tenant_leaves_nothing(site: Site) -> None:
    for way in (_set, _set_local, _session_map, _engine_map, _factory_map, _listener):
        with way(site) as session:
            Count().async_(session=session).call()
            with dexpy.session(session):
                CountOnce(n=3).call()
            session.rollback()
    assert records.all().count() == 0
    assert site.strays() == {}


@pytest.mark.servers
def test_l3_the_record_of_a_run_that_changes_its_schema_is_written(site: Site) -> None:
    with Session(site.engine) as session, dexpy.session(session):
        assert Enters(enter=site.enter).call() == 1
        schema_there = session.execute(
            sa.text("SELECT current_schema()" if site.enter.startswith("SET") else "SELECT DATABASE()")
        ).scalar()
        assert schema_there == site.tenant, "the schema of the caller's connection is unchanged"
        session.commit()
    # More runs than connections, so that each run uses a connection that an earlier one left in the tenant's schema.
    assert [Enters(enter=site.enter, n=n).call() for n in range(1, 4)] == [1, 1, 1]
    tickets: list[Any] = [Enters(enter=site.enter, n=n).async_().call() for n in range(4, 8)]
    tickets.append(EntersInSteps(enter=site.enter).async_().call())
    run_everything()
    assert {ticket.reload().status for ticket in tickets} == {"done"}
    assert [step.name for step in records.steps(tickets[-1].id)] == ["one", "two"]
    assert records.where(operation=Count).done().count() == 2 * 8
    assert site.strays() == {}


@pytest.mark.servers
def test_l3_statements_name_the_schema_without_a_map_for_each_of_them(server: str) -> None:
    database = Database(server)
    collected: list[tuple[str, Any]] = []

    def told_of(_connection: Any, _cursor: Any, statement: str, _parameters: Any, context: Any, _many: bool) -> None:
        collected.append((statement, context.execution_options.get("schema_translate_map")))

    with database.begin() as connection:
        schema.create(connection)
    for _ in range(2):
        sa.event.listen(database.engine, "before_cursor_execute", told_of)
        with Session(database.engine) as session:
            session.execute(sa.select(records.table.c.id))
        with database.begin() as connection:
            connection.execute(sa.select(records.table.c.id))
        # Engines created later in this process use the schema from their first connection.
        database.dispose()
    home = "public" if "postgresql" in server else sa.make_url(server).database
    assert [(f"FROM {home}.operation_records" in statement, used) for statement, used in collected] == [
        (True, None)
    ] * 4


@pytest.mark.servers
def test_l3_a_connection_left_in_the_schema_of_a_tenant_creates_tables_in_the_default_schema(server: str) -> None:
    is_postgresql = sa.make_url(server).get_backend_name() == "postgresql"
    kind, tenant = ("SCHEMA", TENANT) if is_postgresql else ("DATABASE", f"{sa.make_url(server).database}_{TENANT}")
    database = Database(server)
    with database.begin() as connection:
        schema.create(connection)
        connection.execute(sa.text(f"CREATE {kind} {tenant}"))
        connection.execute(sa.text(f"CREATE TABLE {tenant}.operation_signals (id INTEGER)"))
        connection.execute(sa.text("DROP TABLE operation_signals"))
        connection.execute(sa.text(f"SET search_path TO {tenant}" if is_postgresql else f"USE {tenant}"))
    with database.begin() as connection:
        assert schema.create(connection) == ["operation_signals"]
        assert schema.problems(connection) == []
        connection.execute(sa.text(f"DROP {kind} {tenant} {'CASCADE' if is_postgresql else ''}"))
    database.dispose()


@pytest.mark.servers
@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_l3_an_async_session_enqueues_from_the_schema_of_a_tenant(server: str) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    dexpy.configure(database=server)
    with current_runtime().store.database.begin() as connection:  # type: ignore[union-attr]
        schema.create(connection)
        connection.execute(sa.text(f"CREATE SCHEMA {TENANT}"))

    async def send() -> Any:
        engine = create_async_engine(server)
        async with AsyncSession(engine) as session:
            await session.execute(sa.text(f"SET search_path TO {TENANT}"))
            ticket = await Count().async_(session=session).acall()
            await session.commit()
        await engine.dispose()
        return ticket

    assert asyncio.run(send()).reload().status == "pending"
    current_runtime().close()


def test_l3_a_map_of_schemas_on_sqlite_leads_to_an_attached_file(tmp_path: Path) -> None:
    with isolated() as isolated_runtime:
        database = isolated_runtime.runtime.store.database  # type: ignore[union-attr]
        engine = sa.create_engine(database.url)
        sa.event.listen(
            engine, "connect", lambda driver, _entry: driver.execute(f"ATTACH '{tmp_path / 'acme.db'}' AS acme")
        )
        with _in_map(engine, TENANT).begin() as connection:
            schema.create(connection)
        with Session(_in_map(engine, TENANT)) as session:
            ticket = Count(n=2).async_(session=session).call()
            with dexpy.session(session):
                assert Count(n=3).call() == 3
            session.commit()
            assert session.execute(sa.text("SELECT count(*) FROM acme.operation_records")).scalar() == 0
        assert ticket.reload().status == "pending"
        isolated_runtime.run_pending()
        assert ticket.reload().done
        engine.dispose()


def test_l3_the_first_write_from_a_mapped_session_creates_the_tables_in_the_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    before = install(None)
    runtime: Runtime = dexpy.configure(database=url)
    engine = sa.create_engine(url)
    sa.event.listen(engine, "connect", lambda driver, _entry: driver.execute("ATTACH ':memory:' AS acme"))
    with Session(_in_map(engine, TENANT)) as session:
        session.execute(sa.text("CREATE TABLE orders (n INTEGER)"))
        ticket = Count().async_(session=session).call()
        session.commit()
    assert ticket.reload().status == "pending"
    runtime.close()
    engine.dispose()
    install(before)
