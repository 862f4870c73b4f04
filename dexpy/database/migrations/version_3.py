"""Version 3: the table `operation_recurring`, and the columns that recurring tasks add to other tables."""

from __future__ import annotations

from dexpy.database.migrations.migration import Migration, Statement, lacks_column, lacks_table, statements

_RECURRING = """CREATE TABLE {exists}{schema}operation_recurring (
    {quote}key{quote} VARCHAR(255){by_bytes} NOT NULL,
    operation VARCHAR(255){by_bytes} NOT NULL,
    params JSON,
    schedule VARCHAR(255) NOT NULL,
    zone VARCHAR(64),
    queue VARCHAR(64){by_bytes},
    priority INTEGER,
    options JSON,
    source VARCHAR(8) NOT NULL,
    definition VARCHAR(64){by_bytes} NOT NULL,
    declared_at {moment},
    next_at {moment},
    last_at {moment},
    last_run_id VARCHAR(40){by_bytes},
    missed_count INTEGER DEFAULT '0' NOT NULL,
    first_missed_at {moment},
    last_missed_at {moment},
    skipped_count INTEGER DEFAULT '0' NOT NULL,
    last_skipped_at {moment},
    paused_at {moment},
    paused_by VARCHAR(255),
    pause_reason TEXT,
    paused_until {moment},
    until_at {moment},
    remaining INTEGER,
    undeclared_at {moment},
    retired_at {moment},
    created_at {moment} NOT NULL,
    updated_at {moment} NOT NULL,
    PRIMARY KEY ({quote}key{quote}){index}
)"""
# MariaDB ignores comments for MySQL 8, and MySQL those for MariaDB: each database has its own binary collation.
_BY_BYTES = " /*M! COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */"


def _table(moment: str, *, exists: str = "", quote: str = "", by_bytes: str = "", index: str = "") -> str:
    parts = {"moment": moment, "exists": exists, "quote": quote, "by_bytes": by_bytes, "index": index}
    sql = _RECURRING
    for name, text in parts.items():
        sql = sql.replace("{" + name + "}", text)
    return sql


# A schema of an early release may lack the table: it is created afterwards, with the column.
_WORKERS = Statement(
    "ALTER TABLE {schema}operation_worker_names ADD COLUMN recurring_keys JSON",
    is_needed=lacks_column("operation_worker_names", "recurring_keys"),
)
_NEXT_INDEX = "CREATE INDEX ix_operation_recurring_next ON {schema}operation_recurring (next_at)"
_RECORDS_INDEX = (
    "CREATE INDEX ix_operation_recurring ON {schema}operation_records (recurring_key, status, id)"
    " WHERE recurring_key IS NOT NULL"
)
_COLUMNS = (
    "ALTER TABLE {schema}operation_records ADD COLUMN previous_run_at {moment}",
    "ALTER TABLE {schema}operation_records ADD COLUMN run_zone VARCHAR(64)",
)

MIGRATION = Migration(
    version=3,
    summary="adds the table operation_recurring, and columns for recurring tasks to records and workers",
    statements={
        "sqlite": statements(
            _table("DATETIME"),
            _NEXT_INDEX,
            _WORKERS,
            *(sql.replace("{moment}", "DATETIME") for sql in _COLUMNS),
            _RECORDS_INDEX,
        ),
        "postgresql": statements(
            _table("TIMESTAMP WITH TIME ZONE"),
            _NEXT_INDEX,
            _WORKERS,
            *(sql.replace("{moment}", "TIMESTAMP WITH TIME ZONE") for sql in _COLUMNS),
            _RECORDS_INDEX,
        ),
        "mariadb": statements(
            Statement(
                _table(
                    "DATETIME(6)",
                    exists="IF NOT EXISTS ",
                    quote="`",
                    by_bytes=_BY_BYTES,
                    index=",\n    INDEX ix_operation_recurring_next (next_at)",
                ),
                is_needed=lacks_table("operation_recurring"),
            ),
            _WORKERS,
            # Last, and in one statement: a database without a row of a version is recognised by these columns.
            Statement(
                "ALTER TABLE {schema}operation_records ADD COLUMN previous_run_at DATETIME(6),"
                " ADD COLUMN run_zone VARCHAR(64),"
                " ADD INDEX ix_operation_recurring (recurring_key, status, id)",
                is_needed=lacks_column("operation_records", "run_zone"),
            ),
        ),
    },
)
"""See `Migration`."""
