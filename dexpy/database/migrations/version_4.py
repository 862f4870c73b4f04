"""Version 4: the column of the batch of a run."""

from __future__ import annotations

from dexpy.database.migrations.migration import Migration, Statement, lacks_column, statements

# Last, and in one statement: a database without a row of a version is recognised by this column.
_BATCHES = "ALTER TABLE {schema}operation_records ADD COLUMN batch_id VARCHAR(40)"
# MariaDB ignores comments for MySQL 8, and MySQL those for MariaDB: each database has its own binary collation.
_BY_BYTES = " /*M! COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */"

MIGRATION = Migration(
    version=4,
    summary="adds the column batch_id to records",
    statements={
        "sqlite": statements(_BATCHES),
        "postgresql": statements(_BATCHES),
        "mariadb": statements(
            Statement(_BATCHES + _BY_BYTES, is_needed=lacks_column("operation_records", "batch_id")),
        ),
    },
)
"""See `Migration`."""
