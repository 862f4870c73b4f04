"""What remains in the database after all runs have ended: rows, transactions, locks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from chaos.stage import Stage

IDLE_AFTER_S = 2
"""The time after which an idle transaction counts as left open, in seconds."""


def idle_transactions(engine: sa.Engine) -> int:
    """Return the number of open transactions that are idle."""
    queries = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' "
        f"AND datname = current_database() AND now() - state_change > interval '{IDLE_AFTER_S} seconds'",
        "mysql": "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
        "ON p.id = t.trx_mysql_thread_id WHERE p.db = database() AND p.command = 'Sleep' "
        f"AND p.time > {IDLE_AFTER_S}",
    }
    query = queries.get("mysql" if engine.dialect.name == "mariadb" else engine.dialect.name)
    if query is None:
        return int(_is_locked(engine))
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())


def _is_locked(engine: sa.Engine) -> bool:
    """Whether SQLite's write lock is held for longer than a transaction takes."""
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute(f"PRAGMA busy_timeout = {IDLE_AFTER_S * 1000}")
        try:
            driver.execute("BEGIN IMMEDIATE")
        except Exception as error:
            return "locked" in str(error)
        driver.rollback()
    return False


def rows_left(engine: sa.Engine, stage: Stage) -> dict[str, int]:
    """Return the numbers of rows about workers, and of keys and claims of ended runs."""
    queries = {
        "rows in operation_workers": "SELECT count(*) FROM operation_workers",
        "rows in operation_worker_sessions": "SELECT count(*) FROM operation_worker_sessions",
        "keys held by ended runs": "SELECT count(*) FROM operation_records WHERE unique_key IS NOT NULL "
        "AND status NOT IN ('pending', 'running')",
        "claims held by ended runs": "SELECT count(*) FROM operation_records WHERE claimed_by IS NOT NULL "
        "AND status <> 'running'",
    }
    with engine.connect() as connection:
        counts = {name: int(connection.execute(sa.text(query)).scalar_one()) for name, query in queries.items()}
    if stage.is_sqlite:
        folder = Path(f"{sa.make_url(stage.database).database}-workers")
        counts["lock files of workers"] = len(list(folder.iterdir())) if folder.exists() else 0
    return counts
