"""The table `operation_records`, where one row is one run, and `operation_attempts` beside it.

The row is the truth; a broker message is only a hint that there may be something to do.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from dexpy.recording.metadata import UtcDateTime, metadata

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


def _json() -> sa.JSON:
    # `json`, not `jsonb`, on PostgreSQL, and text elsewhere: jsonb rewrites numbers. NULL in Python is NULL in SQL.
    return sa.JSON(none_as_null=True)


def _key(length: int) -> sa.String:
    # Compared by their bytes: MariaDB would otherwise take "A" for "a".
    return sa.String(length).with_variant(mysql.VARCHAR(length, collation="utf8mb4_bin"), "mysql", "mariadb")


records = sa.Table(
    "operation_records",
    metadata,
    sa.Column("id", _key(40), primary_key=True),
    sa.Column("name", _key(255), nullable=False),
    sa.Column("params", _json()),
    sa.Column("result", _json()),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("error", sa.String(255)),
    sa.Column("failure", sa.String(16)),
    sa.Column("error_message", sa.Text),
    sa.Column("error_details", _json()),
    sa.Column("queue", _key(64), nullable=False, server_default="default"),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("scheduled_at", UtcDateTime),
    sa.Column("enqueued_at", UtcDateTime),
    sa.Column("send_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("started_at", UtcDateTime),
    sa.Column("completed_at", UtcDateTime),
    sa.Column("expires_at", UtcDateTime),
    sa.Column("num_attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_attempts", sa.Integer),
    sa.Column("retry_counts", _json()),
    sa.Column("claim_token", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claimed_by", sa.String(64)),
    sa.Column("claimed_backend", sa.String(64)),
    sa.Column("once_key", _key(64), unique=True),
    sa.Column("once_expires_at", UtcDateTime),
    sa.Column("unique_key", _key(64), unique=True),
    sa.Column("idempotence_token", _key(255)),
    sa.Column("concurrency_key", _key(255)),
    sa.Column("recurring_key", _key(255)),
    sa.Column("run_at", UtcDateTime),
    sa.Column("parent_id", _key(40)),
    sa.Column("trace_id", _key(64)),
    sa.Column("trace", _json()),
    sa.Column("actor_type", sa.String(64)),
    sa.Column("actor_id", _key(255)),
    sa.Column("tags", _json()),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.CheckConstraint(f"status IN ({', '.join(repr(status) for status in STATUSES)})", name="ck_operation_status"),
    sa.UniqueConstraint("name", "idempotence_token", name="uq_operation_token"),
    sa.UniqueConstraint("recurring_key", "run_at", name="uq_operation_tick"),
    sa.Index("ix_operation_due", "status", "queue", "scheduled_at"),
    sa.Index("ix_operation_owed", "status", "enqueued_at", "scheduled_at"),
    sa.Index("ix_operation_name", "name", "status", "id"),
    sa.Index("ix_operation_trace", "trace_id"),
    sa.Index("ix_operation_actor", "actor_type", "actor_id"),
    sa.Index("ix_operation_completed", "completed_at"),
)
"""One row for each run."""

attempts = sa.Table(
    "operation_attempts",
    metadata,
    sa.Column("record_id", _key(40), primary_key=True),
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

queues = sa.Table(
    "operation_queues",
    metadata,
    sa.Column("name", _key(64), primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
)
"""Every queue that something was sent to, for workers to find those that no class names."""
