"""Inserts one message, or many in one statement, into the table of the SQL broker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs
import dramatiq
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.brokers.sql import statements as sql
from dexpy.database.column_types import database_time
from dexpy.database.dialects import DIALECTS
from dexpy.database.tables import messages
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import ConfigurationError


@attrs.frozen
class MessageRow:
    """One message to be inserted.

    Attributes:
        message: A message of any queue.
        due_at: An aware datetime; None to count from now.
        wait_s: The delay in seconds from now, by the database's clock; used if *due_at* is None.
        priority: The priority; higher runs sooner.
    """

    message: dramatiq.Message[Any]
    due_at: datetime | None = None
    wait_s: float = 0.0
    priority: int = 0

    @property
    def delay_ms(self) -> int | None:
        """The delay in milliseconds, as Dramatiq's middleware expects it."""
        if self.due_at is None:
            return round(self.wait_s * 1000) or None
        return max(0, round((self.due_at - clock.now()).total_seconds() * 1000))


def insert(connection: Connection, message_row: MessageRow, schema: str | None) -> None:
    """Insert one message; on PostgreSQL the commit notifies workers if the message is due.

    Args:
        connection: A connection in a transaction.
        message_row: The message.
        schema: The configured schema of the messages; None without one.
    """
    values: dict[str, Any] = {f"p_{name}": value for name, value in message_values(message_row).items()}
    if message_row.due_at is None:
        statement, is_due = sql.INSERT_AFTER, message_row.wait_s <= 0
        values["p_wait_s"] = message_row.wait_s
    else:
        statement, is_due = sql.INSERT_AT, message_row.due_at <= clock.now()
        values["p_due_at"] = message_row.due_at
    notifies = is_due and DIALECTS[connection.dialect.name].supports_notifications
    if notifies:
        statement = sql.NOTIFYING[statement]
        values["p_channel"] = sql.notify_channel(schema)
    connection.execute(statement, values)


def insert_many(connection: Connection, message_rows: Sequence[MessageRow], schema: str | None) -> None:
    """Insert messages in one statement, and notify as `insert` does."""
    # Read the clock once: with plain values only, the driver sends all rows together.
    now = database_time(connection)
    rows: list[dict[str, Any]] = []
    for message_row in message_rows:
        due_at = message_row.due_at or now + timedelta(seconds=message_row.wait_s)
        rows.append(message_values(message_row) | {"due_at": due_at, "dead": False, "created_at": now})
    connection.execute(sa.insert(messages), rows)
    if DIALECTS[connection.dialect.name].supports_notifications:
        for queue in {row["queue"] for row in rows if row["due_at"] <= now}:
            connection.execute(sql.NOTIFY, {"p_queue": queue, "p_channel": sql.notify_channel(schema)})


def message_values(message_row: MessageRow) -> dict[str, Any]:
    """Return the columns of a row that come from its message."""
    message = message_row.message
    return {
        "queue": message.queue_name,
        "priority": message_row.priority,
        "message_id": message.message_id,
        "payload": _encoded_text(message),
    }


def _encoded_text(message: dramatiq.Message[Any]) -> str:
    try:
        return message.encode().decode()
    except UnicodeDecodeError:
        raise ConfigurationError(
            "SQL broker: expected an encoder of Dramatiq that writes UTF-8 text, got one that writes other bytes. "
            "Use dramatiq.JSONEncoder."
        ) from None
