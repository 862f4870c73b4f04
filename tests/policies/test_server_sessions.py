"""Session settings that dexpy sets itself: the time zone, and the timeout of an idle transaction."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from dexpy import Operation
from dexpy.database.column_types import database_time
from dexpy.recording.durable_steps import holds_claim
from dexpy.recording.transitions import apply, is_applied
from dexpy.testing import Isolated

ON_POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.servers)
ON_MARIADB = pytest.param("mariadb", marks=pytest.mark.servers)
ZONES = {"postgresql": "SET TIME ZONE 'Asia/Karachi'", "mysql": "SET time_zone = '+05:00'"}


class Note(Operation, name="sessions.note"):
    def perform(self) -> None: ...


@pytest.mark.parametrize("database_url", [ON_POSTGRESQL, ON_MARIADB], indirect=True)
def test_datetimes_are_in_utc_in_any_time_zone_of_a_session(isolated_runtime: Isolated) -> None:
    engine = isolated_runtime.runtime.store.database.engine

    @sa.event.listens_for(engine, "connect")
    def elsewhere(driver: Any, _record: Any) -> None:
        with driver.cursor() as cursor:
            cursor.execute(ZONES[engine.dialect.name])
        driver.commit()

    engine.dispose()
    ticket = Note().async_(expires_in=3600).call()
    isolated_runtime.run_pending()

    row, now = isolated_runtime.runtime.store.row(ticket.id), datetime.now(timezone.utc)
    assert row.status == "done"
    with isolated_runtime.runtime.store.begin() as connection:
        moments = [row.created_at, row.started_at, row.completed_at, row.updated_at, database_time(connection)]
    assert all(abs(each - now) < timedelta(minutes=5) for each in moments), moments
    assert abs(row.expires_at - now - timedelta(hours=1)) < timedelta(minutes=5)


@pytest.mark.parametrize("database_url", [ON_POSTGRESQL], indirect=True)
@pytest.mark.parametrize("last", ["the end of a run", "the end of a step"])
def test_the_server_ends_a_transaction_that_hangs_before_its_commit(isolated_runtime: Isolated, last: str) -> None:
    """Otherwise a worker that freezes there locks the row until its session is ended."""
    ticket = Note().async_().call()
    with isolated_runtime.runtime.store.begin() as connection:
        row = apply(connection, "claim", ticket.id, claimed_by="host:1:x")
    assert row is not None
    query = "SHOW idle_in_transaction_session_timeout"

    with isolated_runtime.runtime.store.begin() as connection:
        usual = connection.exec_driver_sql(query).scalar_one()
        if last == "the end of a run":
            assert is_applied(connection, "succeed", row.id, claim_token=row.claim_token, result=None)
        else:
            assert holds_claim(connection, row.id, row.claim_token)
        assert connection.exec_driver_sql(query).scalar_one() == "10s"
    with isolated_runtime.runtime.store.begin() as connection:
        assert connection.exec_driver_sql(query).scalar_one() == usual != "10s"


OWN_NUMBER = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
END = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL CONNECTION {}"}


@pytest.mark.parametrize("database_url", [ON_POSTGRESQL, ON_MARIADB], indirect=True)
def test_a_connection_that_was_cut_while_idle_is_reopened_without_an_error(
    isolated_runtime: Isolated, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = engine.dialect.name
    monkeypatch.setattr("dexpy.database.engine_options.PING_AFTER_S", 0.0)
    # Leave one connection in the pool, so that the next transaction uses the same one.
    isolated_runtime.runtime.store.prepare()
    isolated_runtime.runtime.store.database.engine.dispose()
    with isolated_runtime.runtime.store.begin() as connection:
        number = connection.exec_driver_sql(OWN_NUMBER[kind]).scalar_one()
    with engine.connect() as connection:
        connection.exec_driver_sql(END[kind].format(number))

    with isolated_runtime.runtime.store.begin() as connection:
        assert connection.exec_driver_sql(OWN_NUMBER[kind]).scalar_one() != number
