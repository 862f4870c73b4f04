"""Version 4: rate limits and fairness, retention and hooks, pauses, and batches."""

from __future__ import annotations

from dexpy.database.migrations import version_4_batches, version_4_records
from dexpy.database.migrations.migration import Migration, Statement, lacks_column, lacks_table, statements

# MariaDB ignores comments for MySQL 8, and MySQL those for MariaDB: each database has its own binary collation.
_BY_BYTES = " /*M! COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */"
_PAUSES = """CREATE TABLE {exists}{schema}operation_pauses (
    kind VARCHAR(16){by_bytes} NOT NULL,
    name VARCHAR(255){by_bytes} NOT NULL,
    paused_at {moment} NOT NULL,
    paused_by VARCHAR(255),
    reason TEXT,
    paused_until {moment},
    PRIMARY KEY (kind, name)
)"""


def _pauses(moment: str, *, exists: str = "", by_bytes: str = "") -> str:
    return _PAUSES.replace("{moment}", moment).replace("{exists}", exists).replace("{by_bytes}", by_bytes)


_RATES = """CREATE TABLE {exists}{schema}operation_rates (
    {quote}key{quote} VARCHAR(64){by_bytes} NOT NULL,
    num_starts BIGINT DEFAULT '0' NOT NULL,
    window_ms BIGINT DEFAULT '0' NOT NULL,
    created_at {moment} NOT NULL,
    PRIMARY KEY ({quote}key{quote})
)"""
_RATE_STARTS = """CREATE TABLE {exists}{schema}operation_rate_starts (
    {quote}key{quote} VARCHAR(64){by_bytes} NOT NULL,
    number BIGINT NOT NULL,
    started_at {moment} NOT NULL,
    expires_at {moment} NOT NULL,
    PRIMARY KEY ({quote}key{quote}, number)
)"""
_KEY_COLUMNS = ("rate_key", "fair_key", "fair_queue")
_FAIR_INDEXES = (
    ("ix_operation_fair", "fair_queue, priority, fair_key, scheduled_at", "fair_queue IS NOT NULL"),
    (
        "ix_operation_fair_blocked",
        "blocked_key, priority, fair_key, id",
        "blocked_key IS NOT NULL AND fair_key IS NOT NULL",
    ),
)


def _table(sql: str, moment: str, *, exists: str = "", quote: str = "", by_bytes: str = "") -> str:
    for name, text in {"moment": moment, "exists": exists, "quote": quote, "by_bytes": by_bytes}.items():
        sql = sql.replace("{" + name + "}", text)
    return sql


def _limits(moment: str) -> tuple[str, ...]:
    return (
        _table(_RATES, moment),
        _table(_RATE_STARTS, moment),
        *(f"ALTER TABLE {{schema}}operation_records ADD COLUMN {column} VARCHAR(64)" for column in _KEY_COLUMNS),
        *(
            f"CREATE INDEX {name} ON {{schema}}operation_records ({columns}) WHERE {condition}"
            for name, columns, condition in _FAIR_INDEXES
        ),
    )


_LIMITS_ON_MARIADB = (
    *(
        Statement(
            _table(sql, "DATETIME(6)", exists="IF NOT EXISTS ", quote="`", by_bytes=_BY_BYTES),
            is_needed=lacks_table(name),
        )
        for name, sql in (("operation_rates", _RATES), ("operation_rate_starts", _RATE_STARTS))
    ),
    Statement(
        "ALTER TABLE {schema}operation_records "
        + ", ".join(f"ADD COLUMN {column} VARCHAR(64){_BY_BYTES}" for column in _KEY_COLUMNS)
        + "".join(f", ADD INDEX {name} ({columns})" for name, columns, _ in _FAIR_INDEXES),
        is_needed=lacks_column("operation_records", "rate_key"),
    ),
)

MIGRATION = Migration(
    version=4,
    summary="adds tables and columns for rate limits, fairness, retention, hooks, pauses and batches",
    statements={
        "sqlite": statements(
            *_limits("DATETIME"),
            *version_4_records.tables("DATETIME"),
            _pauses("DATETIME"),
            *version_4_batches.changes("DATETIME"),
        ),
        "postgresql": statements(
            *_limits("TIMESTAMP WITH TIME ZONE"),
            *version_4_records.tables("TIMESTAMP WITH TIME ZONE"),
            _pauses("TIMESTAMP WITH TIME ZONE"),
            *version_4_batches.changes("TIMESTAMP WITH TIME ZONE"),
        ),
        "mariadb": statements(
            *_LIMITS_ON_MARIADB,
            *version_4_records.tables("DATETIME(6)", exists="IF NOT EXISTS ", by_bytes=_BY_BYTES),
            Statement(
                _pauses("DATETIME(6)", exists="IF NOT EXISTS ", by_bytes=_BY_BYTES),
                is_needed=lacks_table("operation_pauses"),
            ),
            # Last: a database without a row of a version is recognised by the column of batches.
            *version_4_batches.changes_on_mariadb(_BY_BYTES),
        ),
    },
)
"""See `Migration`."""
