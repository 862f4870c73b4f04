"""The table `operation_records`, where one row is one run, and `operation_attempts` beside it.

The row is authoritative; a broker message only signals that there may be work.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles

from dexpy.database.column_types import Integer, Json, String, Text, UtcDateTime, metadata

STATUSES = ("pending", "running", "done", "failed", "expired", "cancelled")
"""Every status of a record."""

FINAL = ("done", "failed", "expired", "cancelled")
"""The final statuses of a record."""

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
"""The reasons for a record that did not end in `done`."""


class Key(String):
    """Text that is compared by its bytes: MariaDB's default treats "A" and "a " as equal to "a"."""


# Compiled when the table is created, because the kind of server is unknown before.
@compiles(Key, "mysql", "mariadb")
def _by_bytes(column_type: Key, compiler: Any, **_: Any) -> str:
    collation = "utf8mb4_nopad_bin" if compiler.dialect.is_mariadb else "utf8mb4_0900_bin"
    return f"VARCHAR({column_type.length}) COLLATE {collation}"


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


versions = sa.Table(
    "operation_schema",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
)
"""One row for each version of the schema that was created or migrated to; the highest version is current."""

records = sa.Table(
    "operation_records",
    metadata,
    sa.Column("id", Key(40), primary_key=True),
    sa.Column("operation", Key(255), nullable=False),
    sa.Column("params", Json()),
    sa.Column("result", Json()),
    sa.Column("status", String(16), nullable=False),
    sa.Column("error", String(255)),
    sa.Column("failure", String(16)),
    sa.Column("error_message", Text),
    sa.Column("error_details", Json()),
    sa.Column("queue", Key(64), nullable=False, server_default="default"),
    sa.Column("priority", Integer, nullable=False, server_default="0"),
    sa.Column("scheduled_at", UtcDateTime),
    sa.Column("enqueued_at", UtcDateTime),
    sa.Column("send_count", Integer, nullable=False, server_default="0"),
    sa.Column("started_at", UtcDateTime),
    sa.Column("completed_at", UtcDateTime),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("num_attempts", Integer, nullable=False, server_default="0"),
    sa.Column("num_lost", Integer, nullable=False, server_default="0"),
    sa.Column("loss_limit", Integer),
    sa.Column("retry_counts", Json()),
    sa.Column("claim_token", Integer, nullable=False, server_default="0"),
    sa.Column("claimed_by", String(64)),
    sa.Column("once_key", Key(64), unique=True),
    sa.Column("once_digest", Key(64)),
    sa.Column("once_expires_at", UtcDateTime),
    sa.Column("unique_key", Key(64), unique=True),
    sa.Column("unique_digest", Key(64)),
    sa.Column("unique_until", String(8)),
    sa.Column("unique_expires_at", UtcDateTime),
    sa.Column("idempotence_token", Key(255)),
    sa.Column("concurrency_key", Key(64)),
    sa.Column("blocked_key", Key(64)),
    sa.Column("recurring_key", Key(255)),
    sa.Column("run_at", UtcDateTime),
    sa.Column("parent_id", Key(40)),
    sa.Column("trace_id", Key(64)),
    sa.Column("trace", Json()),
    sa.Column("actor_type", String(64)),
    sa.Column("actor_id", Key(255)),
    sa.Column("tags", Json()),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    # Last, where a migration adds columns.
    sa.Column("previous_run_at", UtcDateTime),
    sa.Column("run_zone", String(64)),
    sa.Column("rate_key", Key(64)),
    sa.Column("fair_key", Key(64)),
    sa.Column("fair_queue", Key(64)),
    sa.Column("batch_id", Key(40)),
    sa.CheckConstraint(f"status IN ({', '.join(repr(status) for status in STATUSES)})", name="ck_operation_status"),
    sa.UniqueConstraint("operation", "idempotence_token", name="uq_operation_token"),
    sa.UniqueConstraint("recurring_key", "run_at", name="uq_operation_tick"),
    sa.Index("ix_operation_due", "status", "queue", "priority", "scheduled_at"),
    sa.Index("ix_operation_owed", "status", "enqueued_at", "scheduled_at"),
    # Partial where the database supports it: most rows have no key, and each index makes writes slower.
    sa.Index("ix_operation_slots", "concurrency_key", "status", **_where("concurrency_key IS NOT NULL")),
    sa.Index("ix_operation_blocked", "blocked_key", "priority", "id", **_where("blocked_key IS NOT NULL")),
    # The next key of a queue, or of the runs that wait for a slot or a rate limit, and its first run.
    sa.Index(
        "ix_operation_fair",
        "fair_queue",
        "priority",
        "fair_key",
        "scheduled_at",
        **_where("fair_queue IS NOT NULL"),
    ),
    sa.Index(
        "ix_operation_fair_blocked",
        "blocked_key",
        "priority",
        "fair_key",
        "id",
        **_where("blocked_key IS NOT NULL AND fair_key IS NOT NULL"),
    ),
    sa.Index("ix_operation_recurring", "recurring_key", "status", "id", **_where("recurring_key IS NOT NULL")),
    sa.Index("ix_operation_batch", "batch_id", "status", "id", **_where("batch_id IS NOT NULL")),
    sa.Index("ix_operation_name", "operation", "status", "id"),
    sa.Index("ix_operation_trace", "trace_id"),
    sa.Index("ix_operation_actor", "actor_type", "actor_id"),
    sa.Index("ix_operation_completed", "completed_at"),
    sa.Index("ix_operation_expires", "expires_at"),
)
"""One row for each run."""

STANDARD_COLUMNS: tuple[sa.Column[Any], ...] = tuple(records.c)
"""The columns of a record without those of the application."""

attempts = sa.Table(
    "operation_attempts",
    metadata,
    sa.Column("record_id", Key(40), primary_key=True),
    sa.Column("number", Integer, primary_key=True),
    sa.Column("claim_token", Integer, primary_key=True),
    sa.Column("worker", String(64)),
    sa.Column("started_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime, nullable=False),
    sa.Column("failure", String(16), nullable=False),
    sa.Column("error", String(255)),
    sa.Column("error_message", Text),
    sa.Column("traceback", Text),
)
"""One row for each attempt that did not end in `done`, so that a retry overwrites none."""

gates = sa.Table(
    "operation_gates",
    metadata,
    sa.Column("key", Key(64), primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
"""One row for each key with a concurrency limit: locked while its running runs are counted."""

rates = sa.Table(
    "operation_rates",
    metadata,
    sa.Column("key", Key(64), primary_key=True),
    sa.Column("num_starts", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("window_ms", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
"""One row for each key with a rate limit: locked while a run of the key starts."""

rate_starts = sa.Table(
    "operation_rate_starts",
    metadata,
    sa.Column("key", Key(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)
"""One row for each start of a key with a rate limit, numbered from 1, at least until it is out of every window."""

workers = sa.Table(
    "operation_workers",
    metadata,
    sa.Column("id", Key(64), primary_key=True),
    sa.Column("host", String(255), nullable=False),
    sa.Column("pid", Integer, nullable=False),
    sa.Column("threads", Integer, nullable=False),
    sa.Column("queues", Json()),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("beat_at", UtcDateTime, nullable=False),
    sa.Column("leased_until", UtcDateTime, nullable=False),
)
"""One row for each live worker process; when its lease expires, its runs are recovered."""

worker_names = sa.Table(
    "operation_worker_names",
    metadata,
    sa.Column("worker", Key(64), primary_key=True),
    sa.Column("names", Json()),
    sa.Column("recurring_keys", Json()),
)
"""The names of the operations that a worker process has declared; messages of others are requeued for other workers.

``recurring_keys`` lists the keys of its recurring tasks; null in rows of earlier releases.
"""

worker_sessions = sa.Table(
    "operation_worker_sessions",
    metadata,
    sa.Column("worker", Key(64), primary_key=True),
    sa.Column("backend", Key(96), primary_key=True),
)
"""The database sessions of a worker's runs, by their ids on the server; recovery ends them before it starts."""

signals = sa.Table(
    "operation_signals",
    metadata,
    sa.Column("record_id", Key(40), primary_key=True),
    sa.Column("cancel_requested_at", UtcDateTime),
    sa.Column("progress", Json()),
    sa.Index("ix_operation_signals_cancelled", "cancel_requested_at"),
)
"""Signals to and from a running run; in its record they would make its end fail in REPEATABLE READ."""

steps = sa.Table(
    "operation_steps",
    metadata,
    sa.Column("record_id", Key(40), primary_key=True),
    sa.Column("position", Integer, primary_key=True, autoincrement=False),
    sa.Column("name", Key(255), nullable=False),
    sa.Column("finished", sa.Boolean, nullable=False),
    sa.Column("cursor", Json()),
    sa.Column("value", Json()),
    sa.Column("claim_token", Integer, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)
"""The checkpoints of a run: one row for each step, written in the step's own transaction."""

recurring = sa.Table(
    "operation_recurring",
    metadata,
    sa.Column("key", Key(255), primary_key=True),
    sa.Column("operation", Key(255), nullable=False),
    sa.Column("params", Json()),
    sa.Column("schedule", String(255), nullable=False),
    sa.Column("zone", String(64)),
    sa.Column("queue", Key(64)),
    sa.Column("priority", Integer),
    sa.Column("options", Json()),
    sa.Column("source", String(8), nullable=False),
    sa.Column("definition", Key(64), nullable=False),
    sa.Column("declared_at", UtcDateTime),
    sa.Column("next_at", UtcDateTime),
    sa.Column("last_at", UtcDateTime),
    sa.Column("last_run_id", Key(40)),
    sa.Column("missed_count", Integer, nullable=False, server_default="0"),
    sa.Column("first_missed_at", UtcDateTime),
    sa.Column("last_missed_at", UtcDateTime),
    sa.Column("skipped_count", Integer, nullable=False, server_default="0"),
    sa.Column("last_skipped_at", UtcDateTime),
    sa.Column("paused_at", UtcDateTime),
    sa.Column("paused_by", String(255)),
    sa.Column("pause_reason", Text),
    sa.Column("paused_until", UtcDateTime),
    sa.Column("until_at", UtcDateTime),
    sa.Column("remaining", Integer),
    sa.Column("undeclared_at", UtcDateTime),
    sa.Column("retired_at", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Index("ix_operation_recurring_next", "next_at"),
)
"""One row for each recurring task; the row is authoritative, not the class that declared it."""

retention = sa.Table(
    "operation_retention",
    metadata,
    sa.Column("operation", Key(255), primary_key=True),
    sa.Column("status", Key(16), primary_key=True),
    sa.Column("keep_s", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
)
"""How long classes keep their records, by status, in seconds (-1 is for ever), and when a process declared it last.

A process that does not declare a class reads it here, and in a rolling deploy the longest one of both releases holds.
"""

hook_calls = sa.Table(
    "operation_hook_calls",
    metadata,
    sa.Column("id", Key(40), primary_key=True),
    sa.Column("hook", String(16), nullable=False),
    sa.Column("record_id", Key(40), nullable=False),
    sa.Column("operation", Key(255), nullable=False),
    sa.Column("status", String(16), nullable=False),
    sa.Column("failure", String(16)),
    sa.Column("error", String(255)),
    sa.Column("error_message", Text),
    sa.Column("queue", Key(64), nullable=False),
    sa.Column("num_attempts", Integer, nullable=False),
    sa.Column("trace_id", Key(64)),
    sa.Column("parent_id", Key(40)),
    sa.Column("actor_type", String(64)),
    sa.Column("actor_id", Key(255)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("completed_at", UtcDateTime),
    sa.Column("calls", Integer, nullable=False, server_default="0"),
    sa.Column("leased_until", UtcDateTime),
)
"""One row for each call of a hook of the application that is due, written with the end of the run; deleted after it."""

batches = sa.Table(
    "operation_batches",
    metadata,
    sa.Column("id", Key(40), primary_key=True),
    sa.Column("name", Key(255)),
    sa.Column("status", String(16), nullable=False),
    sa.Column("batch_id", Key(40)),
    sa.Column("trace_id", Key(64)),
    sa.Column("counts", Json()),
    sa.Column("cancelled_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Index("ix_operation_batches_status", "status", "id"),
    sa.Index("ix_operation_batches_outer", "batch_id", "status", "id"),
)
"""One row for each batch; its runs name it in ``batch_id``, and their ends do not update this row."""

batch_callbacks = sa.Table(
    "operation_batch_callbacks",
    metadata,
    sa.Column("batch_id", Key(40), primary_key=True),
    sa.Column("event", Key(8), primary_key=True),
    sa.Column("run_id", Key(40), nullable=False),
    sa.Column("job", Json(), nullable=False),
    sa.Column("enqueued_at", UtcDateTime),
    sa.Index("ix_operation_batch_callbacks_run", "run_id"),
)
"""The callbacks of batches: the columns of a run that is inserted when the batch has ended."""

queues = sa.Table(
    "operation_queues",
    metadata,
    sa.Column("name", Key(64), primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
"""Every queue with messages, so that workers discover queues that no class names."""

pauses = sa.Table(
    "operation_pauses",
    metadata,
    sa.Column("kind", Key(16), primary_key=True),
    sa.Column("name", Key(255), primary_key=True),
    sa.Column("paused_at", UtcDateTime, nullable=False),
    sa.Column("paused_by", String(255)),
    sa.Column("reason", Text),
    sa.Column("paused_until", UtcDateTime),
)
"""One row for each paused queue or operation; ``kind`` is ``queue`` or ``operation``."""

messages = sa.Table(
    "dexpy_messages",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("queue", String(255), nullable=False),
    sa.Column("priority", Integer, nullable=False, server_default="0"),
    sa.Column("due_at", UtcDateTime, nullable=False),
    sa.Column("owner", String(64)),
    sa.Column("leased_until", UtcDateTime),
    sa.Column("message_id", String(255), nullable=False),
    sa.Column("payload", Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"), nullable=False),
    sa.Column("dead", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index("ix_message_next", "queue", "dead", "priority", "due_at", "id"),
    # Ids must not be reused: a late acknowledgement refers to its message by id.
    sqlite_autoincrement=True,
)
"""One row for each waiting, leased or dead message."""
