"""The part of version 4 for batches: their tables, and the column of a record."""

from __future__ import annotations

from dexpy.database.migrations.migration import Statement, lacks_column, lacks_table

_BATCHES = """CREATE TABLE {exists}{schema}operation_batches (
    id VARCHAR(40){by_bytes} NOT NULL,
    name VARCHAR(255){by_bytes},
    status VARCHAR(16) NOT NULL,
    batch_id VARCHAR(40){by_bytes},
    trace_id VARCHAR(64){by_bytes},
    counts JSON,
    cancelled_at {moment},
    finished_at {moment},
    created_at {moment} NOT NULL,
    updated_at {moment} NOT NULL,
    PRIMARY KEY (id){indexes}
)"""
_BATCH_INDEXES = {
    "ix_operation_batches_status": "operation_batches (status, id)",
    "ix_operation_batches_outer": "operation_batches (batch_id, status, id)",
}
_CALLBACKS = """CREATE TABLE {exists}{schema}operation_batch_callbacks (
    batch_id VARCHAR(40){by_bytes} NOT NULL,
    event VARCHAR(8){by_bytes} NOT NULL,
    run_id VARCHAR(40){by_bytes} NOT NULL,
    job JSON NOT NULL,
    enqueued_at {moment},
    PRIMARY KEY (batch_id, event){indexes}
)"""
_CALLBACK_INDEXES = {"ix_operation_batch_callbacks_run": "operation_batch_callbacks (run_id)"}
_COLUMN = "ALTER TABLE {schema}operation_records ADD COLUMN batch_id VARCHAR(40)"
_RECORDS_INDEX = (
    "CREATE INDEX ix_operation_batch ON {schema}operation_records (batch_id, status, id) WHERE batch_id IS NOT NULL"
)


def _table(sql: str, moment: str, *, exists: str = "", by_bytes: str = "", indexes: str = "") -> str:
    for name, text in {"moment": moment, "exists": exists, "by_bytes": by_bytes, "indexes": indexes}.items():
        sql = sql.replace("{" + name + "}", text)
    return sql


def changes(moment: str) -> tuple[str, ...]:
    """Return the statements for a database with transactional DDL; *moment* is the type of a time."""
    indexes = _BATCH_INDEXES | _CALLBACK_INDEXES
    return (
        _table(_BATCHES, moment),
        _table(_CALLBACKS, moment),
        *(f"CREATE INDEX {name} ON {{schema}}{columns}" for name, columns in indexes.items()),
        _COLUMN,
        _RECORDS_INDEX,
    )


def changes_on_mariadb(by_bytes: str) -> tuple[Statement, ...]:
    """Return the statements for MariaDB and MySQL; *by_bytes* is the binary collation."""
    tables = (
        ("operation_batches", _BATCHES, _BATCH_INDEXES),
        ("operation_batch_callbacks", _CALLBACKS, _CALLBACK_INDEXES),
    )
    statements: list[Statement] = []
    for name, sql, indexes in tables:
        inside = "".join(f",\n    INDEX {index} {on.partition(' ')[2]}" for index, on in indexes.items())
        table = _table(sql, "DATETIME(6)", exists="IF NOT EXISTS ", by_bytes=by_bytes, indexes=inside)
        statements.append(Statement(table, is_needed=lacks_table(name)))
    column = f"{_COLUMN}{by_bytes}, ADD INDEX ix_operation_batch (batch_id, status, id)"
    return *statements, Statement(column, is_needed=lacks_column("operation_records", "batch_id"))
