"""Postings: messages on their way into the table of the SQL broker, alone or many in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import attrs
import dramatiq
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.foundation.clock import clock
from dexpy.foundation.errors import ConfigurationError
from dexpy.recording import messages as sql
from dexpy.recording.metadata import moment


@attrs.frozen
class Posting:
    """One message on its way into the table.

    Attributes:
        message: Of any queue.
        due_at: An aware moment; None to count from now.
        wait_s: So many seconds from now, by the database's clock, where no moment is given.
        priority: Higher runs sooner.
    """

    message: dramatiq.Message[Any]
    due_at: datetime | None = None
    wait_s: float = 0.0
    priority: int = 0

    @property
    def delay_ms(self) -> int | None:
        """As Dramatiq's middleware is told of it."""
        if self.due_at is None:
            return round(self.wait_s * 1000) or None
        return max(0, round((self.due_at - clock.now()).total_seconds() * 1000))


def insert(connection: Connection, posting: Posting) -> None:
    """Insert one message; on PostgreSQL its commit rings the doorbell, if it is due."""
    values: dict[str, Any] = {f"p_{name}": value for name, value in _facts(posting).items()}
    if posting.due_at is None:
        statement, is_due = sql.INSERT_AFTER, posting.wait_s <= 0
        values["p_wait_s"] = posting.wait_s
    else:
        statement, is_due = sql.INSERT_AT, posting.due_at <= clock.now()
        values["p_due_at"] = posting.due_at
    rings = is_due and connection.dialect.name == "postgresql"
    connection.execute(sql.RINGING[statement] if rings else statement, values)


def insert_together(connection: Connection, postings: Sequence[Posting]) -> None:
    """Insert messages in one statement, and ring as `insert` does."""
    # Asked once, so that every value is a plain one, and the driver can send all rows together.
    now = moment(connection)
    rows: list[dict[str, Any]] = []
    for posting in postings:
        due_at = posting.due_at or now + timedelta(seconds=posting.wait_s)
        rows.append(_facts(posting) | {"due_at": due_at, "dead": False, "created_at": now})
    connection.execute(sa.insert(sql.messages), rows)
    if connection.dialect.name == "postgresql":
        for queue in {row["queue"] for row in rows if row["due_at"] <= now}:
            connection.execute(sql.RING, {"p_queue": queue})


def _facts(posting: Posting) -> dict[str, Any]:
    message = posting.message
    return {
        "queue": message.queue_name,
        "priority": posting.priority,
        "message_id": message.message_id,
        "payload": _text(message),
    }


def _text(message: dramatiq.Message[Any]) -> str:
    try:
        return message.encode().decode()
    except UnicodeDecodeError:
        raise ConfigurationError(
            "The SQL broker keeps messages as text, and Dramatiq's encoder here makes bytes that are not UTF-8. "
            "Use dramatiq.JSONEncoder, or another one that writes text."
        ) from None
