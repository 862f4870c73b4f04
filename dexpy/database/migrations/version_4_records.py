"""The tables of version 4 for the retention of records and for the hooks that are called at their end."""

from __future__ import annotations

from dexpy.database.migrations.migration import Statement, lacks_table

_RETENTION = """CREATE TABLE {exists}{schema}operation_retention (
    operation VARCHAR(255){by_bytes} NOT NULL,
    status VARCHAR(16){by_bytes} NOT NULL,
    keep_s BIGINT NOT NULL,
    seen_at {moment} NOT NULL,
    PRIMARY KEY (operation, status, keep_s)
)"""
_HOOK_CALLS = """CREATE TABLE {exists}{schema}operation_hook_calls (
    id VARCHAR(40){by_bytes} NOT NULL,
    hook VARCHAR(16) NOT NULL,
    record_id VARCHAR(40){by_bytes} NOT NULL,
    operation VARCHAR(255){by_bytes} NOT NULL,
    status VARCHAR(16) NOT NULL,
    failure VARCHAR(16),
    error VARCHAR(255),
    error_message TEXT,
    queue VARCHAR(64){by_bytes} NOT NULL,
    num_attempts INTEGER NOT NULL,
    trace_id VARCHAR(64){by_bytes},
    parent_id VARCHAR(40){by_bytes},
    actor_type VARCHAR(64),
    actor_id VARCHAR(255){by_bytes},
    created_at {moment} NOT NULL,
    started_at {moment},
    completed_at {moment},
    calls INTEGER DEFAULT '0' NOT NULL,
    leased_until {moment},
    PRIMARY KEY (id)
)"""
_TABLES = {"operation_retention": _RETENTION, "operation_hook_calls": _HOOK_CALLS}


def tables(moment: str, *, exists: str = "", by_bytes: str = "") -> tuple[Statement, ...]:
    """Return the statements that create the tables.

    Args:
        moment: The type of a time.
        exists: The clause for a table that exists already.
        by_bytes: The collation of keys.
    """
    return tuple(
        Statement(
            sql.replace("{moment}", moment).replace("{exists}", exists).replace("{by_bytes}", by_bytes),
            is_needed=lacks_table(name),
        )
        for name, sql in _TABLES.items()
    )
