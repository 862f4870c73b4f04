"""Version 2: the columns `operation` and `loss_limit`, the status `cancelled`, and the table of the versions."""

from __future__ import annotations

from dexpy.database.migrations.migration import Migration, Rebuild, Statement, has_column, statements

_STATUSES = "'pending', 'running', 'done', 'failed', 'expired', 'cancelled'"
_CANCELLED = (
    "UPDATE {schema}operation_records SET status = 'cancelled' WHERE status = 'expired' AND failure = 'cancelled'"
)
_VERSIONS = """CREATE TABLE {exists}{schema}operation_schema (
    version INTEGER NOT NULL,
    applied_at {moment} NOT NULL,
    PRIMARY KEY (version)
)"""

_COLUMNS = (
    "id",
    "operation",
    "params",
    "result",
    "status",
    "error",
    "failure",
    "error_message",
    "error_details",
    "queue",
    "priority",
    "scheduled_at",
    "enqueued_at",
    "send_count",
    "started_at",
    "completed_at",
    "expires_at",
    "num_attempts",
    "num_lost",
    "loss_limit",
    "retry_counts",
    "claim_token",
    "claimed_by",
    "once_key",
    "once_digest",
    "once_expires_at",
    "unique_key",
    "unique_digest",
    "unique_until",
    "unique_expires_at",
    "idempotence_token",
    "concurrency_key",
    "blocked_key",
    "recurring_key",
    "run_at",
    "parent_id",
    "trace_id",
    "trace",
    "actor_type",
    "actor_id",
    "tags",
    "created_at",
    "updated_at",
)
_SQLITE_RECORDS = """CREATE TABLE operation_records_2 (
    id VARCHAR(40) NOT NULL,
    operation VARCHAR(255) NOT NULL,
    params JSON,
    result JSON,
    status VARCHAR(16) NOT NULL,
    error VARCHAR(255),
    failure VARCHAR(16),
    error_message TEXT,
    error_details JSON,
    queue VARCHAR(64) DEFAULT 'default' NOT NULL,
    priority INTEGER DEFAULT '0' NOT NULL,
    scheduled_at DATETIME,
    enqueued_at DATETIME,
    send_count INTEGER DEFAULT '0' NOT NULL,
    started_at DATETIME,
    completed_at DATETIME,
    expires_at DATETIME,
    num_attempts INTEGER DEFAULT '0' NOT NULL,
    num_lost INTEGER DEFAULT '0' NOT NULL,
    loss_limit INTEGER,
    retry_counts JSON,
    claim_token INTEGER DEFAULT '0' NOT NULL,
    claimed_by VARCHAR(64),
    once_key VARCHAR(64),
    once_digest VARCHAR(64),
    once_expires_at DATETIME,
    unique_key VARCHAR(64),
    unique_digest VARCHAR(64),
    unique_until VARCHAR(8),
    unique_expires_at DATETIME,
    idempotence_token VARCHAR(255),
    concurrency_key VARCHAR(64),
    blocked_key VARCHAR(64),
    recurring_key VARCHAR(255),
    run_at DATETIME,
    parent_id VARCHAR(40),
    trace_id VARCHAR(64),
    trace JSON,
    actor_type VARCHAR(64),
    actor_id VARCHAR(255),
    tags JSON,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT ck_operation_status CHECK (status IN ('pending', 'running', 'done', 'failed', 'expired', 'cancelled')),
    CONSTRAINT uq_operation_token UNIQUE (operation, idempotence_token),
    CONSTRAINT uq_operation_tick UNIQUE (recurring_key, run_at),
    UNIQUE (once_key),
    UNIQUE (unique_key)
)"""
_SQLITE_COPY = "INSERT INTO operation_records_2 ({columns}) SELECT {columns} FROM operation_records".replace(
    "{columns}", ", ".join(_COLUMNS)
)
# The indexes of the replaced table.
_SQLITE_INDEXES = (
    "CREATE INDEX ix_operation_trace ON operation_records (trace_id)",
    "CREATE INDEX ix_operation_actor ON operation_records (actor_type, actor_id)",
    "CREATE INDEX ix_operation_expires ON operation_records (expires_at)",
    "CREATE INDEX ix_operation_name ON operation_records (operation, status, id)",
    "CREATE INDEX ix_operation_blocked ON operation_records (blocked_key, priority, id) WHERE blocked_key IS NOT NULL",
    "CREATE INDEX ix_operation_owed ON operation_records (status, enqueued_at, scheduled_at)",
    "CREATE INDEX ix_operation_completed ON operation_records (completed_at)",
    "CREATE INDEX ix_operation_slots ON operation_records (concurrency_key, status) WHERE concurrency_key IS NOT NULL",
    "CREATE INDEX ix_operation_due ON operation_records (status, queue, priority, scheduled_at)",
)

MIGRATION = Migration(
    version=2,
    summary="operation_records: name becomes operation, max_lost loss_limit; cancelled runs get the status cancelled",
    statements={
        "sqlite": statements(
            _VERSIONS.replace("{exists}", "").replace("{moment}", "DATETIME"),
            # Before the copy: it renames the column in views and triggers too.
            "ALTER TABLE operation_records RENAME COLUMN name TO operation",
            "ALTER TABLE operation_records RENAME COLUMN max_lost TO loss_limit",
            _SQLITE_RECORDS,
            _SQLITE_COPY,
            "DROP TABLE operation_records",
            # References of other tables, views and triggers already have the new name: do not rewrite them.
            "PRAGMA legacy_alter_table = ON",
            "ALTER TABLE operation_records_2 RENAME TO operation_records",
            "PRAGMA legacy_alter_table = OFF",
            *_SQLITE_INDEXES,
            _CANCELLED,
        ),
        "postgresql": statements(
            _VERSIONS.replace("{exists}", "").replace("{moment}", "TIMESTAMP WITH TIME ZONE"),
            "ALTER TABLE {schema}operation_records DROP CONSTRAINT ck_operation_status",
            "ALTER TABLE {schema}operation_records"
            f" ADD CONSTRAINT ck_operation_status CHECK (status IN ({_STATUSES}))",
            "ALTER TABLE {schema}operation_records RENAME COLUMN name TO operation",
            "ALTER TABLE {schema}operation_records RENAME COLUMN max_lost TO loss_limit",
            # This is last: a table with changed rows may have pending triggers, and then refuses ALTER.
            _CANCELLED,
        ),
        "mariadb": statements(
            _VERSIONS.replace("{exists}", "IF NOT EXISTS ").replace("{moment}", "DATETIME(6)"),
            "ALTER TABLE {schema}operation_records DROP CONSTRAINT ck_operation_status,"
            f" ADD CONSTRAINT ck_operation_status CHECK (status IN ({_STATUSES}))",
            _CANCELLED,
            Statement(
                "ALTER TABLE {schema}operation_records RENAME COLUMN max_lost TO loss_limit",
                is_needed=has_column("operation_records", "max_lost"),
            ),
            # Last: a database without a row of a version is recognised by this column.
            Statement(
                "ALTER TABLE {schema}operation_records RENAME COLUMN name TO operation",
                is_needed=has_column("operation_records", "name"),
            ),
        ),
    },
    rebuilds=(Rebuild("operation_records", _COLUMNS, tuple(sql.split()[2] for sql in _SQLITE_INDEXES)),),
)
"""See `Migration`."""
