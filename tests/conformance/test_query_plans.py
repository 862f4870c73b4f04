"""The cost of the queries for the next message or record does not depend on the number of waiting rows.

The tests count what the database reads.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from apps.shop import Count
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage

import dexpy
from dexpy.brokers.sql.statements import claimable, most_urgent
from dexpy.database.engine import Database
from dexpy.database.tables import messages, records
from dexpy.foundation.clock import clock
from dexpy.recording import batch_rows, durable_steps
from dexpy.recording.expiry import expire_if_overdue
from dexpy.recording.transitions import apply, is_applied
from dexpy.runtime import install
from dexpy.worker.claims import Claims

FEW, MANY = 20, 3000
FACTOR = 4
"""The maximum increase from few to many rows: an index may be a level or two deeper, but there is no scan."""
URGENT = 5
everywhere = pytest.mark.parametrize("kind", servers.DATABASES)


class Effort:
    """Counts the rows, pages or steps that a database reads for the statements of an engine."""

    def __init__(self, engine: sa.Engine) -> None:
        self.total = 0
        self._engine = engine
        sa.event.listen(engine, "before_cursor_execute", self._before)
        sa.event.listen(engine, "after_cursor_execute", self._after)

    def _before(self, connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        kind = connection.dialect.name
        driver = connection.connection.driver_connection
        if kind == "sqlite":
            driver.set_progress_handler(self._step, 1)
        elif kind == "postgresql" and statement.startswith(("SELECT", "WITH")):
            with driver.cursor() as explain_cursor:
                explain_cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
                plan = explain_cursor.fetchone()[0][0]["Plan"]
            self.total += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        elif kind != "postgresql":
            with driver.cursor() as explain_cursor:
                explain_cursor.execute("FLUSH STATUS")

    def _after(self, connection: Any, *_: Any) -> None:
        driver = connection.connection.driver_connection
        if connection.dialect.name == "sqlite":
            driver.set_progress_handler(None, 1)
        elif connection.dialect.name != "postgresql":
            with driver.cursor() as cursor:
                cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
                self.total += sum(int(value) for _, value in cursor.fetchall())

    def _step(self) -> int:
        self.total += 1
        return 0

    def spent(self) -> int:
        """Return the count since the last call."""
        total, self.total = self.total, 0
        return total


BY_KEY = {"sqlite": "autoindex_operation_records_1 (id=?)", "postgresql": "using operation_records_pkey"}


@contextmanager
def plans(engine: sa.Engine) -> Generator[list[tuple[str, bool]]]:
    """Yield the statements of an engine, each with whether its plan finds the rows by the primary key."""
    collected: list[tuple[str, bool]] = []

    def observe(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        kind = connection.dialect.name
        with contextlib.closing(connection.connection.driver_connection.cursor()) as explain_cursor:
            explain_cursor.execute(f"EXPLAIN {'QUERY PLAN ' if kind == 'sqlite' else ''}{statement}", parameters)
            lines = explain_cursor.fetchall()
            if kind in BY_KEY:
                reads = [str(line[-1]) for line in lines if re.search(r"SCAN|SEARCH|Scan", str(line[-1]))]
                collected.append((statement, bool(reads) and all(BY_KEY[kind] in plan_row for plan_row in reads)))
            else:
                key = [column[0] for column in explain_cursor.description].index("key")
                # MariaDB reads such rows by the key during planning, and reports no plan if they do not match.
                is_seen = [line[key] == "PRIMARY" or "after reading const tables" in str(line[-1]) for line in lines]
                collected.append((statement, all(is_seen)))

    sa.event.listen(engine, "before_cursor_execute", observe)
    yield collected
    sa.event.remove(engine, "before_cursor_execute", observe)


def analyze(engine: sa.Engine, table: sa.Table) -> None:
    """Update the statistics of the planner, as the server does periodically."""
    statement = f"ANALYZE {'TABLE ' if engine.dialect.name in ('mysql', 'mariadb') else ''}{table.name}"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)


# Messages

WAITING_MESSAGES: dict[str, dict[str, Any]] = {
    "later and more urgent": {"priority": URGENT, "due_at": timedelta(days=1)},
    "later and as urgent": {"due_at": timedelta(days=1)},
    "later and less urgent": {"priority": -URGENT, "due_at": timedelta(days=1)},
    "due, of the same priority, and enqueued later": {},
    "due and less urgent": {"priority": -URGENT},
}


@pytest.fixture
def database(kind: str, tmp_path: Path) -> Generator[Database]:
    with servers.database(kind, tmp_path) as url:
        database = Database(url)
        with database.begin() as connection:
            messages.create(connection)
        yield database
        database.dispose()


def insert(database: Database, count: int, **values: Any) -> None:
    now = clock.now()
    defaults = {"queue": "default", "priority": 0, "dead": False, "message_id": "x", "payload": "{}", "created_at": now}
    due_at = now + values.pop("due_at", timedelta(0))
    with database.begin() as connection:
        connection.execute(sa.insert(messages), [{**defaults, **values, "due_at": due_at}] * count)
    analyze(database.engine, messages)


@everywhere
@pytest.mark.parametrize("name", WAITING_MESSAGES)
def test_the_next_message_is_found_without_a_scan(database: Database, name: str) -> None:
    insert(database, 1)
    insert(database, FEW, **WAITING_MESSAGES[name])
    effort = Effort(database.engine)

    def observe() -> list[int]:
        with database.connect() as connection:
            assert most_urgent(connection, "default") == 0
            spent = [effort.spent()]
            assert claimable(connection, "default", 1)[0].priority == 0
            return [*spent, effort.spent()]

    few = observe()
    insert(database, MANY, **WAITING_MESSAGES[name])
    effort.spent()
    many = observe()

    assert all(few)
    assert all(after <= before * FACTOR for before, after in zip(few, many, strict=True)), (few, many)


@everywhere
def test_an_empty_queue_is_detected_without_a_scan(database: Database) -> None:
    insert(database, FEW, due_at=timedelta(days=1))
    effort = Effort(database.engine)

    def observe() -> int:
        with database.connect() as connection:
            assert most_urgent(connection, "default") is None
        return effort.spent()

    few = observe()
    insert(database, MANY, due_at=timedelta(days=1))
    effort.spent()

    assert few
    assert observe() <= few * FACTOR


@everywhere
def test_messages_are_claimed_by_priority_and_then_by_due_time(database: Database) -> None:
    insert(database, 1, priority=9, due_at=timedelta(days=1))
    for priority, minutes in ((3, -1), (3, -2), (7, -1), (-2, -1), (7, 60)):
        insert(database, 1, priority=priority, due_at=timedelta(minutes=minutes))
    order = []

    while True:
        with database.begin() as connection:
            level = most_urgent(connection, "default")
            claimable_rows = claimable(connection, "default", 2)
            assert {row.priority for row in claimable_rows} == ({level} if level is not None else set())
            if not claimable_rows:
                break
            order.append([row.priority for row in claimable_rows])
            connection.execute(sa.delete(messages).where(messages.c.id.in_([row.id for row in claimable_rows])))

    assert order == [[7], [3, 3], [-2]]


@everywhere
def test_concurrent_claims_get_different_messages(database: Database, kind: str) -> None:
    if kind == "sqlite":
        # SQLite has one writer at a time, so the claims are not concurrent.
        return
    insert(database, 2)
    insert(database, FEW, priority=URGENT, due_at=timedelta(days=1))

    with database.begin() as one, database.begin() as other:
        first, second = claimable(one, "default", 1), claimable(other, "default", 1)

    assert len({first[0].id, second[0].id}) == 2


# Records

LATER: dict[str, Any] = {"scheduled_at": timedelta(days=1), "enqueued_at": None}
WAITING_RECORDS: dict[str, list[dict[str, Any]]] = {
    "later and more urgent": [{"priority": URGENT, **LATER}],
    "later and as urgent": [LATER],
    "published and as urgent": [{}],
    "published, in another queue": [{"queue": "other", "priority": URGENT}],
    # These statistics mislead PostgreSQL: it expects many due rows of the high priority.
    "published, and later and more urgent": [{}, {"priority": URGENT, **LATER}],
}


class Inbox:
    """A runtime with a stub broker, whose messages the test delivers itself."""

    def __init__(self, url: str) -> None:
        self.broker = StubBroker()
        self.runtime = dexpy.configure(database=url, broker=self.broker, create_tables=True)
        self.runtime.dispatcher.require_tables()
        self.engine = self.runtime.store.database.engine

    def send(self, priority: int = 0) -> str:
        return Count(number=0).async_(priority=priority).call().id

    def wait(self, count: int, *, analyzes: bool = True, **values: Any) -> None:
        """Insert a number of pending rows, and update the statistics of the planner unless told otherwise."""
        with self.engine.begin() as connection:
            model = dict(connection.execute(sa.select(records).limit(1)).one()._mapping)
            defaults = {**model, "priority": 0, "status": "pending", "scheduled_at": None, "enqueued_at": clock.now()}
            if "scheduled_at" in values:
                values = {**values, "scheduled_at": clock.now() + values["scheduled_at"]}
            rows = [{**defaults, **values, "id": f"op_{os.urandom(12).hex()}"} for _ in range(count)]
            connection.execute(sa.insert(records), rows)
        if analyzes:
            analyze(self.engine, records)

    @contextmanager
    def delivered(self, id: str) -> Generator[str | None]:
        """Yield the id of the record that a delivered message claims, in a process without cached priorities."""
        claims = Claims(self.runtime.store, self.runtime.dispatcher, lambda: "this")
        message, current = self.runtime.dispatcher.message_of(self.runtime.store.row(id)), CurrentMessage()
        current.before_process_message(self.broker, message)
        with claims.claim_for_message(message.kwargs["class_name"], id) as row:
            yield None if row is None else row.id
        current.after_process_message(self.broker, message)

    def deliver(self, id: str) -> str | None:
        with self.delivered(id) as claimed:
            return claimed


@pytest.fixture
def inbox(kind: str, tmp_path: Path) -> Generator[Inbox]:
    with servers.database(kind, tmp_path) as url:
        opened = Inbox(url)
        yield opened
        opened.runtime.close()
    install(None)


@everywhere
@pytest.mark.parametrize("name", WAITING_RECORDS)
def test_a_more_urgent_row_is_found_without_a_scan(inbox: Inbox, name: str) -> None:
    inbox.send()
    effort = Effort(inbox.engine)

    def spend(waiting: int) -> list[int]:
        for values in WAITING_RECORDS[name]:
            inbox.wait(waiting, **values)
        one, other = inbox.send(), inbox.send()
        effort.spent()
        assert inbox.deliver(one) == one, "no record is more urgent"
        effort_without_urgent = effort.spent()
        urgent = inbox.send(URGENT - 1)
        effort.spent()
        assert inbox.deliver(other) == urgent
        claim_effort = effort.spent()
        assert inbox.deliver(urgent) == other, "the message of a claimed record claims the record without a message"
        return [effort_without_urgent, claim_effort, effort.spent()]

    few, many = spend(FEW), spend(MANY)

    assert all(few)
    assert all(after <= before * FACTOR for before, after in zip(few, many, strict=True)), (few, many)


@everywhere
@pytest.mark.parametrize("planner", ["without statistics", "with old statistics"])
def test_a_row_is_found_by_its_key_whatever_the_statistics(inbox: Inbox, planner: str) -> None:
    one, other = inbox.send(), inbox.send()
    if planner == "with old statistics":
        inbox.wait(MANY, status="done", completed_at=clock.now())
    # Without new statistics, as after a sudden growth of the queue.
    inbox.wait(MANY, analyzes=False)

    with plans(inbox.engine) as explained, inbox.engine.begin() as connection:
        claimed = apply(connection, "claim", one, claimed_by="this")
        assert claimed is not None
        assert durable_steps.holds_claim(connection, one, claimed.claim_token)
        assert is_applied(connection, "succeed", one, claim_token=claimed.claim_token, result=None)
        assert not expire_if_overdue(connection, other)
        assert is_applied(connection, "mark_unpublished", other)
        assert apply(connection, "cancel", other, error=None, failure="cancelled", error_message="", error_details=None)
        ended = apply(connection, "revive", other, sent=False)
        assert ended is not None

    assert len(explained) >= 7
    assert [statement for statement, is_by_key in explained if not is_by_key] == []


@everywhere
def test_concurrent_deliveries_share_urgent_rows_without_waiting(inbox: Inbox) -> None:
    calm = [inbox.send() for _ in range(6)]
    urgent = [inbox.send(URGENT) for _ in range(6)]
    start, claimed = threading.Barrier(len(calm), timeout=30), set()

    def run(id: str) -> None:
        start.wait()
        claimed.add(inbox.deliver(id))

    threads = [threading.Thread(target=run, args=(id,)) for id in calm]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert claimed == set(urgent)


# Batches

ENDED_RUNS: dict[str, dict[str, Any]] = {
    "all have ended": {"status": "done"},
    "all wait": {"status": "pending"},
}


@everywhere
@pytest.mark.parametrize("name", ENDED_RUNS)
def test_the_check_after_an_end_reads_as_little_in_a_large_batch(inbox: Inbox, name: str) -> None:
    with dexpy.batch() as batch:
        batch.add(Count(number=0))
    effort = Effort(inbox.engine)

    def spend(runs: int) -> list[int]:
        # One run of it is running, the others are all in one state; and as many runs have no batch.
        inbox.wait(runs, batch_id=batch.id, **ENDED_RUNS[name])
        inbox.wait(runs, batch_id=None, **ENDED_RUNS[name])
        effort.spent()
        with inbox.runtime.store.begin() as connection:
            assert not batch_rows.is_complete(connection, batch.id)
            single = effort.spent()
            assert batch_rows.find_complete(connection, 100) == []
        return [single, effort.spent()]

    few, many = spend(FEW), spend(MANY)

    assert all(few)
    assert all(after <= before * FACTOR for before, after in zip(few, many, strict=True)), (few, many)
