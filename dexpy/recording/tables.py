"""The table `operation_records`, where one row is one run, and `operation_attempts` beside it.

The row is the truth; a broker message is only a hint that there may be something to do.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from dexpy.recording.metadata import Json, UtcDateTime, metadata

STATUSES = ("pending", "running", "done", "failed", "expired")
"""Every state that a record can be in."""

FINAL = ("done", "failed", "expired")
"""The states in which a record has ended."""

FAILURES = (
    "business",
    "rejected",
    "crash",
    "lost",
    "timeout",
    "discarded",
    "cancelled",
    "expired",
    "unknown",
    "undecodable",
)
"""Why a record has not ended in `done`."""


class Key(sa.String):
    """Text that is compared by its bytes: MariaDB would otherwise take "A" for "a", and "a " for it too."""


# Asked when a table is made: only then it is known which of the two a server is.
@compiles(Key, "mysql", "mariadb")
def _by_bytes(column_type: Key, compiler: Any, **_: Any) -> str:
    collation = "utf8mb4_nopad_bin" if compiler.dialect.is_mariadb else "utf8mb4_0900_bin"
    return f"VARCHAR({column_type.length}) COLLATE {collation}"


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


records = sa.Table(
    "operation_records",
    metadata,
    sa.Column("id", Key(40), primary_key=True),
    sa.Column("name", Key(255), nullable=False),
    sa.Column("params", Json()),
    sa.Column("result", Json()),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("error", sa.String(255)),
    sa.Column("failure", sa.String(16)),
    sa.Column("error_message", sa.Text),
    sa.Column("error_details", Json()),
    sa.Column("queue", Key(64), nullable=False, server_default="default"),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("scheduled_at", UtcDateTime),
    sa.Column("enqueued_at", UtcDateTime),
    sa.Column("send_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("started_at", UtcDateTime),
    sa.Column("completed_at", UtcDateTime),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("num_attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("num_lost", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_lost", sa.Integer),
    sa.Column("retry_counts", Json()),
    sa.Column("claim_token", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claimed_by", sa.String(64)),
    sa.Column("once_key", Key(64), unique=True),
    sa.Column("once_digest", Key(64)),
    sa.Column("once_expires_at", UtcDateTime),
    sa.Column("unique_key", Key(64), unique=True),
    sa.Column("unique_digest", Key(64)),
    sa.Column("unique_until", sa.String(8)),
    sa.Column("unique_expires_at", UtcDateTime),
    sa.Column("idempotence_token", Key(255)),
    sa.Column("concurrency_key", Key(64)),
    sa.Column("blocked_key", Key(64)),
    sa.Column("recurring_key", Key(255)),
    sa.Column("run_at", UtcDateTime),
    sa.Column("parent_id", Key(40)),
    sa.Column("trace_id", Key(64)),
    sa.Column("trace", Json()),
    sa.Column("actor_type", sa.String(64)),
    sa.Column("actor_id", Key(255)),
    sa.Column("tags", Json()),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.CheckConstraint(f"status IN ({', '.join(repr(status) for status in STATUSES)})", name="ck_operation_status"),
    sa.UniqueConstraint("name", "idempotence_token", name="uq_operation_token"),
    sa.UniqueConstraint("recurring_key", "run_at", name="uq_operation_tick"),
    sa.Index("ix_operation_due", "status", "queue", "priority", "scheduled_at"),
    sa.Index("ix_operation_owed", "status", "enqueued_at", "scheduled_at"),
    # Left out for rows without a key, where a database knows how: most have none, and an index costs at each write.
    sa.Index("ix_operation_slots", "concurrency_key", "status", **_where("concurrency_key IS NOT NULL")),
    sa.Index("ix_operation_blocked", "blocked_key", "priority", "id", **_where("blocked_key IS NOT NULL")),
    sa.Index("ix_operation_name", "name", "status", "id"),
    sa.Index("ix_operation_trace", "trace_id"),
    sa.Index("ix_operation_actor", "actor_type", "actor_id"),
    sa.Index("ix_operation_completed", "completed_at"),
    sa.Index("ix_operation_expires", "expires_at"),
)
"""One row for each run."""

attempts = sa.Table(
    "operation_attempts",
    metadata,
    sa.Column("record_id", Key(40), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("claim_token", sa.Integer, primary_key=True),
    sa.Column("worker", sa.String(64)),
    sa.Column("started_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime, nullable=False),
    sa.Column("failure", sa.String(16), nullable=False),
    sa.Column("error", sa.String(255)),
    sa.Column("error_message", sa.Text),
    sa.Column("traceback", sa.Text),
)
"""One row for each attempt that ended in any way but `done`: a retry overwrites nothing."""

gates = sa.Table(
    "operation_gates",
    metadata,
    sa.Column("key", Key(64), primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
"""One row for each key of which there is a limit: locked by whoever counts what runs of it."""

workers = sa.Table(
    "operation_workers",
    metadata,
    sa.Column("id", Key(64), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("threads", sa.Integer, nullable=False),
    sa.Column("queues", Json()),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("beat_at", UtcDateTime, nullable=False),
    sa.Column("leased_until", UtcDateTime, nullable=False),
)
"""One row for each live worker process; one whose lease is over is dead, and what it held is run again."""

worker_sessions = sa.Table(
    "operation_worker_sessions",
    metadata,
    sa.Column("worker", Key(64), primary_key=True),
    sa.Column("backend", Key(96), primary_key=True),
)
"""The database sessions that a worker's runs use, as their server names them: ended before its runs are given away."""

signals = sa.Table(
    "operation_signals",
    metadata,
    sa.Column("record_id", Key(40), primary_key=True),
    sa.Column("cancel_requested_at", UtcDateTime),
    sa.Column("progress", Json()),
    sa.Index("ix_operation_signals_cancelled", "cancel_requested_at"),
)
"""What is said to a run, or by it, while it runs; not on its record, where it would fail a REPEATABLE READ end."""

steps = sa.Table(
    "operation_steps",
    metadata,
    sa.Column("record_id", Key(40), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", Key(255), nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False),
    sa.Column("cursor", Json()),
    sa.Column("value", Json()),
    sa.Column("claim_token", sa.Integer, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)
"""What a run has behind it: one row for each step, written in the step's own transaction."""

queues = sa.Table(
    "operation_queues",
    metadata,
    sa.Column("name", Key(64), primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
"""Every queue that something was sent to, for workers to find those that no class names."""
