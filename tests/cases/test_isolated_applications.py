"""`isolated()` in the tests of an application keeps its configuration, and deletes the rows of the block."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import dexpy
from dexpy import Once, Operation, Ref, prop, records
from dexpy.database.schema import DATA_TABLES
from dexpy.runtime import install
from dexpy.testing import isolated


class Base(DeclarativeBase): ...


class Stall(Base):
    __tablename__ = "stalls"
    id: Mapped[int] = mapped_column(primary_key=True)
    open: Mapped[bool] = mapped_column(default=False)


class Show(Operation, name="isolated.show"):
    stall: Ref[Stall]

    def perform(self) -> int:
        self.stall.open = True
        return self.stall.id


class Walk(Operation, name="isolated.walk"):
    """Writes rows into as many tables as possible."""

    number: int = 1
    once = Once("number")
    retry_on = (dexpy.Retry(ValueError, attempts=2, wait=0),)

    def perform(self) -> int:
        self.step(self.one)
        self.report_progress(1, 2)
        if self.number == 2:
            raise ValueError("again")
        return self.number

    def one(self) -> int:
        return 1


class Secret(Operation, name="isolated.secret"):
    card: str = prop(encrypted=True)

    def perform(self) -> str:
        return self.card


@contextmanager
def market(url: str) -> Generator[sa.Engine]:
    """Configure an application with a table, one row in it, and a session factory."""
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.merge(Stall(id=1))
    runtime = dexpy.configure(database=url, session_factory=sessionmaker(engine))
    try:
        yield engine
    finally:
        install(None)
        runtime.close()
        engine.dispose()


def rows(url: str) -> dict[str, int]:
    """Return the number of rows of each of dexpy's tables that exists."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        present = set(sa.inspect(connection).get_table_names())
        count = sa.select(sa.func.count())
        return {
            table.name: int(connection.execute(count.select_from(table)).scalar_one())
            for table in DATA_TABLES
            if table.name in present
        }


def test_d9_the_session_factory_of_the_application_is_kept(tmp_path: Path) -> None:
    with market(f"sqlite:///{tmp_path}/market.db") as engine:
        with isolated() as isolated_runtime:
            assert Show(stall=1).call() == 1
            ticket = Show(stall=1).async_().call()
            isolated_runtime.run_pending()
            assert ticket.result(timeout=5) == 1
            assert records.all().count() == 2
            with isolated():
                assert Show(stall=1).call() == 1
        with Session(engine) as session:
            assert session.get_one(Stall, 1).open
        assert records.all().count() == 0


def test_d9_a_session_factory_of_the_block_replaces_that_of_the_application(tmp_path: Path) -> None:
    with market(f"sqlite:///{tmp_path}/market.db"):
        other = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
        with isolated(session_factory=sessionmaker(other)), pytest.raises(sa.exc.OperationalError):
            Show(stall=1).call()
        other.dispose()


def test_d9_the_redactor_encryptors_and_keys_of_the_application_are_kept(tmp_path: Path) -> None:
    from cryptography.fernet import Fernet

    runtime = dexpy.configure(
        database=f"sqlite:///{tmp_path}/market.db",
        redactor=lambda text: text.replace("hush", "..."),
        encryption_keys=Fernet.generate_key().decode(),
        unknown_grace=timedelta(hours=1),
        recover_within=30,
    )
    with isolated() as isolated_runtime:
        ticket = Secret(card="4111").async_().call()
        isolated_runtime.run_pending()
        assert ticket.result(timeout=5) == "4111"
        assert isolated_runtime.runtime.redactor("hush, hush") == "..., ..."
        assert isolated_runtime.runtime.unknown_grace == timedelta(hours=1)
        assert isolated_runtime.runtime.intervals.recover_within_s == 30
    assert dexpy.current_runtime() is runtime
    runtime.close()


def test_d9_keys_of_the_environment_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.fernet import Fernet

    monkeypatch.setenv("DEXPY_ENCRYPTION_KEYS", Fernet.generate_key().decode())
    with isolated():
        assert Secret(card="4111").call() == "4111"
        assert records.all().count() == 1


def test_d9_the_broker_of_the_application_is_not_used(tmp_path: Path) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/a.db", broker="redis://127.0.0.1:1/0")
    with isolated() as isolated_runtime:
        ticket = Walk().async_().call()
        assert len(isolated_runtime.run_pending()) == 1
        assert ticket.result(timeout=5) == 1
    runtime.close()


@pytest.fixture(
    params=[
        pytest.param("sqlite"),
        pytest.param("postgresql", marks=pytest.mark.servers),
        pytest.param("mariadb", marks=pytest.mark.servers),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    with servers.database(request.param, tmp_path) as database_url:
        yield database_url


def test_d9_a_block_creates_the_tables_and_deletes_its_rows_at_its_end(url: str) -> None:
    with market(url) as engine:
        for number in (1, 2):
            with isolated(database=url) as isolated_runtime:
                assert records.all().count() == 0
                tickets = [Show(stall=1).async_().call(), Walk().async_().call(), Walk(number=2).async_().call()]
                isolated_runtime.run_pending()
                Walk(number=3).async_(in_=60).call()
                assert [ticket.reload().status for ticket in tickets] == ["done", "done", "failed"]
                assert Walk(number=4).call() == 4
                num_rows = rows(url)
                assert (
                    min(num_rows["operation_records"], num_rows["operation_attempts"], num_rows["dexpy_messages"]) > 0
                )
            assert set(rows(url).values()) == {0}, number
        with Session(engine) as session:
            assert session.get_one(Stall, 1).open


@pytest.mark.parametrize("raised", [ZeroDivisionError, KeyboardInterrupt, AssertionError])
def test_d9_a_block_that_raises_deletes_its_rows(url: str, raised: type[BaseException]) -> None:
    with market(url):
        with pytest.raises(raised), isolated(database=url):
            Walk().async_().call()
            assert records.all().count() == 1
            raise raised
        assert set(rows(url).values()) == {0}


def test_d9_rows_from_before_the_block_are_kept(url: str) -> None:
    with market(url):
        with isolated(database=url, session_factory=None) as outer:
            earlier = Show(stall=1).async_(in_=60).call()
            outer.runtime.store.prepare()
            before = rows(url)
            with isolated(database=url) as isolated_runtime:
                Walk().async_().call()
                isolated_runtime.run_pending()
                assert records.all().count() == 2
            assert rows(url) == before
            assert [record.id for record in records.all()] == [earlier.id]
        assert set(rows(url).values()) == {0}


def test_d9_many_rows_are_deleted_in_batches(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/many.db"
    with isolated(database=url):
        dexpy.enqueue_all([Show(stall=number) for number in range(1201)])
        assert records.all().count() == 1201
    assert set(rows(url).values()) == {0}


def test_d9_a_session_that_the_block_left_open_does_not_block_its_end(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/market.db"
    with market(url) as engine:
        session = Session(engine)
        with isolated(database=url), dexpy.session(session):
            Show(stall=1).async_().call()
            session.flush()
        session.rollback()
        session.close()
    assert set(rows(url).values()) <= {0}


def test_d9_without_configuration_a_fresh_file_is_used(tmp_path: Path) -> None:
    counts: list[Any] = []
    for _ in range(2):
        with isolated():
            counts.append(records.all().count())
            Walk().call()
    assert counts == [0, 0]
    assert list(tmp_path.iterdir()) == []
