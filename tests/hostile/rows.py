"""Hostile rows: valid rows with values, changed by plain SQL, that a database accepts and Python cannot read."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from dexpy.database.column_types import Json, UtcDateTime
from dexpy.database.tables import attempts, gates, messages, queues, records, signals, steps, workers
from dexpy.enqueue.queues import is_queue_name
from hostile.application import Limited, StoredRun

PAST = "2020-01-01 00:00:00.000000"
NAMES = ("..", ".", "/", "", "a/../../b", "x" * 59 + "!", "-rf *", "~", "%s{}", "dead:1:x", "ünï", "'; --")
JSONS = ("null", "5", "[]", '"x"', "{}", '{"a": 1e999}', "9" * 5000, "[" * 25 + "]" * 25, '{"": {"": []}}')
DEEP = ("[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000)
MOMENTS = {
    "postgresql": ("infinity", "-infinity", "294276-01-01", "4713-01-01 BC", "0001-01-01 00:00:00+14", PAST, None),
    "mariadb": ("0000-00-00 00:00:00", "9999-12-31 23:59:59", "1000-01-01", "2020-00-00", PAST, None),
}
NUMBERS = (-(2**31), 2**31 - 1, -1, 0, 1, None)
BYTES = (
    b"\xff\xfe\0", b"", "garbage", "", "0", "\0", -1, 1.5, 1e308, 2**63 - 1, -(2**63), "9999-99-99 99:99:99",
    "x" * 5000, "[" * 100_000 + "]" * 100_000, None,
)  # fmt: skip
"""Values that SQLite accepts in any column."""
STATUSES = ("pending", "running", "done", "failed", "expired", "cancelled", "weird", "")
# The state of a record before it is changed.
LIVES = (
    {"scheduled_at": PAST, "enqueued_at": None},
    {"scheduled_at": PAST, "enqueued_at": PAST, "send_count": 1},
    {"scheduled_at": PAST, "expires_at": PAST},
    {"status": "running", "claimed_by": "dead:1:x", "claim_token": 1, "num_attempts": 1, "started_at": PAST},
    {"status": "done", "completed_at": PAST, "num_attempts": 1, "scheduled_at": PAST},
)


class Rows:
    """Changes rows of one database, as an attacker with write access could.

    Args:
        url: The URL of the database.
        rng: The random number generator.
    """

    def __init__(self, url: str, rng: random.Random) -> None:
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)
        name = self.engine.dialect.name
        self.kind = "mariadb" if name in ("mysql", "mariadb") else name
        self._random = rng
        self._number = 0

    def change(self, count: int) -> int:
        """Create and change records, and rows of the other tables; return the number of accepted changes."""
        tickets = [self._class()(number=n).async_(in_=dt.timedelta(days=30)).call() for n in range(count)]
        num_changed = 0
        with self.engine.connect() as connection:
            self._permit(connection)
            for ticket in tickets:
                life = self._random.choice(LIVES)
                self._write(connection, records, ticket.id, life)
                # A running row is released by its id, so the id of a running row is not changed.
                excluded = {"status", "id"} if life.get("status") == "running" else {"status"}
                column = self._random.choice([column for column in records.columns if column.name not in excluded])
                num_changed += self._write(connection, records, ticket.id, {column.name: self._value(column)})
                if self._random.random() < 0.1:
                    num_changed += self._write(
                        connection, records, ticket.id, {"claimed_by": self._random.choice(NAMES)}
                    )
                if self._random.random() < 0.05:
                    num_changed += self._write(
                        connection, records, ticket.id, {"status": self._random.choice(STATUSES)}
                    )
            for _ in range(max(1, count // 4)):
                num_changed += self._insert(connection, [ticket.id for ticket in tickets])
            connection.commit()
        return num_changed

    def _class(self) -> Any:
        return self._random.choice((StoredRun, StoredRun, Limited))

    def _permit(self, connection: sa.Connection) -> None:
        if self.kind == "mariadb":
            connection.exec_driver_sql("SET SESSION sql_mode = ''")
        elif self.kind == "sqlite":
            connection.exec_driver_sql("PRAGMA busy_timeout = 30000")
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")

    def _write(self, connection: sa.Connection, table: sa.Table, id: str, values: dict[str, Any]) -> int:
        key = next(iter(table.primary_key.columns)).name
        changes = ", ".join(f"{name} = :{name}" for name in values)
        return self._try(connection, f"UPDATE {table.name} SET {changes} WHERE {key} = :of_id", {**values, "of_id": id})

    def _insert(self, connection: sa.Connection, ids: Sequence[str]) -> int:
        """Insert a row into another table, with an odd value in one of its columns."""
        self._number += 1
        table = self._random.choice((workers, workers, attempts, signals, steps, gates, queues, messages))
        values: dict[str, Any] = {}
        for column in table.columns:
            if table is messages and column.name == "id":
                continue
            values[column.name] = self._sound(column, ids)
        odd = self._random.choice([column for column in table.columns if column.name in values])
        values[odd.name] = self._value(odd)
        if table is queues and odd.name == "name":
            # A valid name would be served by the worker.
            values["name"] = f"no name {self._number}"
        names = ", ".join(values)
        placeholders = ", ".join(f":{name}" for name in values)
        return self._try(connection, f"INSERT INTO {table.name} ({names}) VALUES ({placeholders})", values)

    def _sound(self, column: sa.Column[Any], ids: Sequence[str]) -> Any:
        if isinstance(column.type, UtcDateTime):
            return PAST
        if isinstance(column.type, Json):
            return "[]"
        if isinstance(column.type, sa.Boolean):
            return False if self.kind == "postgresql" else 0
        if column.name == "record_id":
            return self._random.choice(ids)
        if column.name == "queue":
            return "default"
        if isinstance(column.type, (sa.String, sa.Text)):
            return f"odd {self._number}"
        return 1

    def _value(self, column: sa.Column[Any]) -> Any:
        value = self._odd(column)
        # A queue with a valid name is served by a separate thread.
        return f"no name {value}" if column.name == "queue" and is_queue_name(value) else value

    def _odd(self, column: sa.Column[Any]) -> Any:
        choose = self._random.choice
        if self.kind == "sqlite" and self._random.random() < 0.5:
            return choose(BYTES)
        if isinstance(column.type, UtcDateTime):
            return choose(MOMENTS.get(self.kind, BYTES))
        if isinstance(column.type, Json):
            return choose(JSONS if self.kind == "mariadb" else (*JSONS, *DEEP))
        if isinstance(column.type, sa.Boolean):
            return choose((True, False, None))
        if isinstance(column.type, (sa.String, sa.Text)):
            return choose((*NAMES, None))
        return choose(NUMBERS)

    def _try(self, connection: sa.Connection, statement: str, values: dict[str, Any]) -> int:
        try:
            with connection.begin_nested():
                return connection.execute(sa.text(statement), values).rowcount
        except (sa.exc.SQLAlchemyError, UnicodeError, ValueError):
            # Refused by a constraint or by the driver.
            return 0

    def running(self) -> int:
        """Return the number of running records."""
        with self.engine.connect() as connection:
            return int(
                connection.exec_driver_sql(
                    "SELECT count(*) FROM operation_records WHERE status = 'running'"
                ).scalar_one()
            )
