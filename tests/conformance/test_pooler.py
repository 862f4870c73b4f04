"""PostgreSQL behind a transaction pooler: operations run, and `dexpy check` reports its limits."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import sqlalchemy as sa
from apps.shop import Count
from harness.pairs import Pair, open_pair
from harness.pooler import Pooler

from dexpy import ConfigurationError
from dexpy.database import schema
from dexpy.database.engine import Database
from dexpy.errors import DatabaseUnavailable
from dexpy.recording.store import Store
from dexpy.runtime import install

WAIT_S = 40.0


@pytest.fixture
def pooled(tmp_path: Path) -> Generator[tuple[Pair, Pooler]]:
    """Yield PostgreSQL with its tables behind a pooler."""
    with open_pair("postgresql+sql", tmp_path) as pair:
        pooler = Pooler(pair.url)
        yield pair, pooler
        pair.end()
        pooler.end()
    install(None)


def test_a_statement_that_another_connection_has_prepared_is_reported_with_the_fix(pooled: tuple[Pair, Pooler]) -> None:
    _, pooler = pooled
    first, second = Database(pooler.url), Database(pooler.url)
    # In a committed transaction, like `dexpy db init`: a rollback would discard the prepared statements.
    with first.begin() as connection:
        schema.problems(connection)
    first.dispose()
    with pytest.raises(DatabaseUnavailable, match=r"PgBouncer .* end the URL in \?prepare_threshold=none\."):
        Store(second).prepare()
    second.dispose()


def test_check_reports_that_a_frozen_worker_keeps_its_locks_for_a_while(pooled: tuple[Pair, Pooler]) -> None:
    pair, pooler = pooled
    straight = pair.dexpy("check", "apps.shop")
    assert straight.returncode == 0
    assert "takeover" not in straight.stdout

    pair.url = f"{pooler.url}?prepare_threshold=none"
    completed = pair.dexpy("check", "apps.shop")
    assert completed.returncode == 0
    assert "warn takeover: a transaction pooler hides the sessions of workers" in completed.stdout


def test_operations_run_once_each_behind_a_pooler(pooled: tuple[Pair, Pooler]) -> None:
    pair, pooler = pooled
    pair.url = f"{pooler.url}?prepare_threshold=none"
    pair.configure()
    pair.start(processes=2, threads=4)
    tickets = [Count(number=number).async_().call() for number in range(60)]
    assert all(ticket.wait(WAIT_S) for ticket in tickets)
    assert [len(pair.effects_of(ticket.id)) for ticket in tickets] == [1] * 60


def test_a_user_without_the_right_to_end_other_sessions_is_reported(pooled: tuple[Pair, Pooler]) -> None:
    pair, _ = pooled
    pair.change("CREATE ROLE dexpy_records LOGIN")
    try:
        pair.change("GRANT ALL ON ALL TABLES IN SCHEMA public TO dexpy_records")
        pair.variables = {"SESSIONS": pair.url}
        pair.url = sa.make_url(pair.url).set(username="dexpy_records").render_as_string(hide_password=False)
        completed = pair.dexpy("check", "apps.shop_two_users")
    finally:
        pair.change("DROP OWNED BY dexpy_records")
        pair.change("DROP ROLE dexpy_records")
    assert (
        "warn takeover: the database user of the records may not end the sessions of the user in session_factory"
        in completed.stdout
    )


def test_a_threshold_that_is_not_a_number_is_refused() -> None:
    expected = "prepare_threshold: expected a number of uses .*, or none for never; got 'often'"
    with pytest.raises(ConfigurationError, match=expected):
        _ = Database("postgresql+psycopg://unknown@127.0.0.1:1/x?prepare_threshold=often").engine
