"""Another writer holds SQLite's only write lock for too long: one error without secrets, and no partial write."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from dexpy import Once, Operation, enqueue_all, prop
from dexpy.database import sqlite
from dexpy.errors import DatabaseBusy, DatabaseUnavailable
from dexpy.liveness import heartbeat
from dexpy.testing import Isolated

from .shop import Shop
from .tables import rows

SECRET = "correct horse battery staple"


class Open(Operation):
    """Has a sensitive prop."""

    token: str = prop(sensitive=True)

    def perform(self) -> int:
        return len(self.token)


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.2)


@pytest.fixture
def ticket(shop: Shop) -> Any:
    """The ticket of a pending run; its enqueue has created the tables."""
    return Open(token=SECRET).async_().call()


@pytest.fixture
def writer(isolated_runtime: Isolated, ticket: Any) -> Generator[sqlite3.Connection]:
    """A writer that keeps its transaction open."""
    isolated_runtime.runtime.store.database.engine.dispose()
    path = isolated_runtime.runtime.store.database.path
    assert path is not None
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


DOINGS: dict[str, Callable[[Any], Any]] = {
    "enqueue": lambda _: Open(token=SECRET).async_().call(),
    "cancel": lambda ticket: ticket.cancel(),
    "expire": lambda ticket: ticket.expire(),
    "fail": lambda ticket: ticket.fail("no"),
}


@pytest.mark.parametrize("doing", DOINGS)
def test_a_failed_write_is_one_error_and_can_be_retried(
    isolated_runtime: Isolated, ticket: Any, writer: sqlite3.Connection, doing: str
) -> None:
    before = rows(isolated_runtime)
    with pytest.raises(DatabaseBusy, match=r"SQLite's only write lock for \S+ s\. Nothing was changed") as raised:
        DOINGS[doing](ticket)
    assert isinstance(raised.value, DatabaseUnavailable)
    assert SECRET not in str(raised.value)
    assert SECRET not in str(raised.value.__cause__)
    assert rows(isolated_runtime) == before

    writer.execute("ROLLBACK")
    DOINGS[doing](ticket)
    assert rows(isolated_runtime) != before


@pytest.mark.parametrize(
    "send",
    [
        lambda session: Open(token=SECRET).async_(session=session).call(),
        lambda session: enqueue_all([Open(token=SECRET), Open(token=SECRET)], session=session),
    ],
    ids=["one", "many"],
)
def test_an_insert_that_fails_in_a_session_of_the_application_shows_no_secret(
    isolated_runtime: Isolated, ticket: Any, writer: sqlite3.Connection, send: Callable[[Session], Any]
) -> None:
    path = isolated_runtime.runtime.store.database.path
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.2})
    with Session(engine) as session, pytest.raises(OperationalError) as raised:
        send(session)
    engine.dispose()

    assert "database is locked" in str(raised.value)
    assert SECRET not in str(raised.value)


class Charge(Operation, name="busy.charge"):
    """Fails the first time, after another writer has begun a transaction."""

    order: int
    once = Once("order", wait=20)

    def perform(self) -> int:
        if interruptions:
            interruptions.pop()()
            raise ConnectionError("down")
        return 7


interruptions: list[Callable[[], Any]] = []


def test_a_key_that_cannot_be_released_at_once_is_released_after_the_outage(
    isolated_runtime: Isolated, ticket: Any, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SQLITE_HEARTBEAT_INTERVAL_S", 0.05)
    writer.execute("ROLLBACK")
    interruptions.append(lambda: writer.execute("BEGIN IMMEDIATE"))

    with pytest.raises(ConnectionError):
        Charge(order=1).call()
    (unreleased,) = [row for row in rows(isolated_runtime) if row["operation"] == "busy.charge"]
    assert unreleased["status"] == "running", "the end of the run could not be stored"
    writer.execute("ROLLBACK")

    # The call waits for the key, which this live process holds, so no recovery releases it.
    assert Charge(order=1).call() == 7
    shown = [(row["status"], row["error"]) for row in rows(isolated_runtime) if row["operation"] == "busy.charge"]
    assert sorted(shown) == [("done", None), ("failed", "ConnectionError")]


def test_an_outage_does_not_break_a_call_that_is_only_recorded(
    isolated_runtime: Isolated, ticket: Any, writer: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        assert Open(token=SECRET).call() == len(SECRET)
    assert any("record.not_written" in text for text in caplog.messages)
    assert SECRET not in caplog.text
