"""Each dialect answers every question, on its own database."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa

from dexpy.database.dialects import MARIADB, POSTGRESQL, SQLITE, UNKNOWN, dialect_named, dialect_of
from dexpy.database.dialects.base import Dialect
from dexpy.database.engine import Database
from dexpy.database.tables import records

DIALECTS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "mariadb": MARIADB}
ON_EACH = ["sqlite", *(pytest.param(kind, marks=pytest.mark.servers) for kind in ("postgresql", "mariadb"))]

items = sa.Table(
    "items",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("code", sa.String(20), unique=True),
    sa.Column("size", sa.Integer, nullable=False),
)


@pytest.fixture(params=ON_EACH)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Database]:
    """An empty database with the table `items`."""
    with servers.database(request.param, tmp_path) as url:
        opened = Database(url)
        with opened.begin() as connection:
            items.create(connection)
        yield opened
        opened.dispose()


@pytest.fixture
def dialect(database: Database, request: pytest.FixtureRequest) -> Dialect:
    """The dialect of that database."""
    kind: str = request.node.callspec.params["database"]
    assert database.dialect is DIALECTS[kind]
    return database.dialect


def item(id: int, code: str) -> dict[str, Any]:
    """The values of a row."""
    return {"id": id, "code": code, "size": 1}


def codes(database: Database) -> list[str]:
    """What is committed."""
    with database.begin() as connection:
        return list(connection.execute(sa.select(items.c.code).order_by(items.c.id)).scalars())


def test_a_dialect_is_found_by_name_and_by_connection(database: Database, dialect: Dialect) -> None:
    with database.begin() as connection:
        assert dialect_of(connection) is dialect_of(database.engine) is dialect
    assert dialect_named(database.backend) is dialect


def test_mysql_and_mariadb_are_one_dialect() -> None:
    assert dialect_named("mysql") is dialect_named("mariadb") is MARIADB


def test_a_database_of_another_kind_has_a_dialect_too() -> None:
    assert dialect_named("oracle") is UNKNOWN
    assert not UNKNOWN.has_one_write_lock


@pytest.mark.parametrize("dialect", [UNKNOWN, *DIALECTS.values()], ids=repr)
def test_a_dialect_cannot_be_changed(dialect: Dialect) -> None:
    with pytest.raises(AttributeError):
        dialect.has_server = False  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=repr)
def test_a_dialect_has_only_the_methods_of_the_base_class(dialect: Dialect) -> None:
    questions = {name for name, _ in inspect.getmembers(Dialect) if not name.startswith("_")}
    assert {name for name, _ in inspect.getmembers(dialect) if not name.startswith("_")} == questions


def test_datetimes_are_stored_with_microseconds(database: Database, dialect: Dialect) -> None:
    assert isinstance(dialect.datetime_type(), sa.DateTime)
    assert dialect.stores_time_zones == getattr(dialect.datetime_type(), "timezone", False)


def test_numbers_are_compared_within_the_bounds_of_a_column(database: Database, dialect: Dialect) -> None:
    numbers = sa.Table("numbers", sa.MetaData(), sa.Column("small", sa.SmallInteger), sa.Column("big", sa.BigInteger))
    with database.begin() as connection:
        numbers.create(connection)
        for column in numbers.columns:
            least, most = dialect.integer_bounds(column.type)
            assert connection.execute(sa.select(numbers).where(column.in_([least, most]))).all() == []


def test_text_with_the_character_0_is_stored_or_refused(database: Database, dialect: Dialect) -> None:
    def insert() -> None:
        with database.begin() as connection:
            connection.execute(sa.insert(items).values(item(1, "a\0b")))

    if dialect.stores_nul:
        insert()
        assert codes(database) == ["a\0b"]
    else:
        with pytest.raises(sa.exc.DBAPIError):
            insert()


def test_texts_are_ordered_as_in_python(database: Database, dialect: Dialect) -> None:
    texts = ["a", "B", "Z", "é", "c"]
    order = dialect.order_by_value(items.c.code, items.c.code.type)
    with database.begin() as connection:
        connection.execute(sa.insert(items), [item(number, text) for number, text in enumerate(texts)])
        assert connection.execute(sa.select(items.c.code).order_by(order)).scalars().all() == sorted(texts)


def test_the_parameter_limit_of_a_statement_is_accepted(database: Database, dialect: Dialect) -> None:
    with database.begin() as connection:
        most = min(30_000, dialect.max_parameters(connection))
        assert most >= 999
        assert connection.execute(sa.select(items).where(items.c.id.in_(range(most)))).all() == []


def test_a_transaction_does_not_commit_by_itself_and_autocommit_does(database: Database, dialect: Dialect) -> None:
    with database.begin() as connection:
        assert not dialect.is_autocommit(connection)
    plain = sa.create_engine(database.url)
    with plain.connect() as connection:
        assert not dialect.is_autocommit(connection)
    with plain.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert dialect.is_autocommit(connection)
    plain.dispose()


def test_the_write_lock_is_acquired_where_the_database_has_one(database: Database, dialect: Dialect) -> None:
    with database.begin() as connection:
        assert not dialect.holds_write_lock(connection)
        dialect.acquire_write_lock(connection)
        dialect.acquire_write_lock(connection)
        assert dialect.holds_write_lock(connection) == dialect.has_one_write_lock


def test_a_lock_is_held_by_one_connection_at_a_time(database: Database, dialect: Dialect) -> None:
    with database.begin() as one, dialect.advisory_lock(one, 7, wait_s=1) as is_held:
        assert is_held
    with database.begin() as other, dialect.advisory_lock(other, 7, wait_s=1) as is_held:
        assert is_held, "it was released"
    if dialect is MARIADB:
        with (
            database.begin() as one,
            dialect.advisory_lock(one, 7, wait_s=1),
            database.begin() as other,
            dialect.advisory_lock(other, 7, wait_s=0) as is_held,
        ):
            assert not is_held


def test_a_wait_for_a_row_ends_in_time(database: Database, dialect: Dialect) -> None:
    with database.begin() as connection:
        connection.execute(sa.insert(items).values(item(1, "a")))
    locked = sa.select(items).with_for_update()
    with database.begin() as connection, dialect.limit_lock_waits(connection, 1):
        connection.execute(locked).all()
        if dialect.has_server:
            with (
                pytest.raises(sa.exc.OperationalError),
                database.begin() as other,
                dialect.limit_lock_waits(other, 1),
            ):
                other.execute(locked).all()


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "inside"])
def test_a_row_is_inserted_once(database: Database, dialect: Dialect, alone: bool) -> None:
    with database.begin() as connection:
        assert dialect.insert_new(connection, items, item(1, "a"), 1.0, alone=alone)
    with database.begin() as connection:
        assert not dialect.insert_new(connection, items, item(2, "a"), 1.0, alone=alone)
        # Nothing is spoilt.
        assert dialect.insert_new(connection, items, item(3, "b"), 1.0, alone=alone)
    assert codes(database) == ["a", "b"]


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "inside"])
def test_a_row_that_violates_another_constraint_is_an_error(database: Database, dialect: Dialect, alone: bool) -> None:
    with pytest.raises(sa.exc.DBAPIError), database.begin() as connection:
        dialect.insert_new(connection, items, {"id": 1, "code": "a", "size": None}, 1.0, alone=alone)
    assert codes(database) == []


def test_an_insert_ignores_an_existing_row(database: Database, dialect: Dialect) -> None:
    with database.begin() as connection:
        connection.execute(dialect.insert_or_ignore(items).values(item(1, "a")))
        connection.execute(dialect.insert_or_ignore(items).values(item(2, "a")))
    assert codes(database) == ["a"]


def test_the_default_schema_is_reported(database: Database, dialect: Dialect) -> None:
    with database.begin() as connection:
        if dialect.fixed_schema is None:
            assert dialect.schema_query is not None
            assert connection.exec_driver_sql(
                dialect.schema_query.format(table=records.name)
            ).scalar_one() == database.schema_of_tables(connection)
    assert database.schema_of_tables(None)


def test_the_same_database_is_recognized(database: Database, dialect: Dialect) -> None:
    plain = sa.create_engine(database.url)
    with plain.connect() as other:
        assert database.same_as(other)
        if dialect.has_server:
            with database.begin() as connection:
                assert dialect.is_same_database(connection, other, table=records.name)
                assert dialect.is_same_database(connection, other)
    plain.dispose()


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_another_database_of_the_server_is_distinguished(kind: str, tmp_path: Path) -> None:
    with servers.database(kind, tmp_path) as one, servers.database(kind, tmp_path) as other:
        database, plain = Database(one), sa.create_engine(other)
        with plain.connect() as connection:
            assert not database.same_as(connection)
        plain.dispose()
        database.dispose()


def test_the_connection_limit_of_a_server_is_reported(database: Database, dialect: Dialect) -> None:
    with database.begin() as connection:
        limit = dialect.connection_limit(connection)
    assert (limit is not None) == dialect.has_server
    assert limit is None or (limit.connections > 0 and "connections" in limit.setting.lower())


def test_only_postgresql_notifies(database: Database, dialect: Dialect) -> None:
    assert dialect.supports_notifications == dialect.can_listen(database.engine) == (dialect is POSTGRESQL)


def test_a_session_is_found_by_its_name_and_ended(database: Database, dialect: Dialect) -> None:
    victim = database.connect()
    query = dialect.session_name_query(victim)
    assert (query is not None) == dialect.has_server
    if query is not None:
        name: str = victim.execute(query).scalar_one()
        victim.rollback()
        with database.begin() as connection:
            live = dialect.session_numbers_query(sa.select(sa.literal(name)))
            assert live is not None
            (number,) = connection.execute(live).scalars().all()
            assert dialect.can_end_sessions(connection, connection)
            connection.exec_driver_sql(dialect.end_session_statement(number))
        with pytest.raises(sa.exc.DBAPIError):
            victim.exec_driver_sql("SELECT 1")
    victim.close()


def test_a_plain_connection_is_not_pooled(database: Database, dialect: Dialect) -> None:
    with database.connect() as one, database.connect() as other:
        assert not dialect.is_pooled(one, other)
        assert dialect.session_numbers_query(sa.select(sa.literal("x"))) is None or dialect.has_server


def test_a_missing_session_has_no_statement_to_end_it() -> None:
    with pytest.raises(NotImplementedError):
        SQLITE.end_session_statement(1)
