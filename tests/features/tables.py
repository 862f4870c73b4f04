"""The tables of a test's runtime, read by plain SQL."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from dexpy.testing import Isolated


def sql(isolated_runtime: Isolated, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    """Return the rows of a statement; none if its table does not exist."""
    connection = sqlite3.connect(str(isolated_runtime.runtime.store.database.path), timeout=10)
    connection.row_factory = sqlite3.Row
    try:
        rows = [dict(row) for row in connection.execute(statement, parameters)]
        connection.commit()
        return rows
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return []
    finally:
        connection.close()


def rows(isolated_runtime: Isolated) -> list[dict[str, Any]]:
    """Return all records in the order of their creation."""
    return sql(isolated_runtime, "SELECT * FROM operation_records ORDER BY id")


def row(isolated_runtime: Isolated, id: str) -> dict[str, Any]:
    """Return one record."""
    (stored,) = sql(isolated_runtime, "SELECT * FROM operation_records WHERE id = ?", id)
    return stored


def messages(isolated_runtime: Isolated) -> list[dict[str, Any]]:
    """Return all messages in the order of their publishing, each with its content as `message`."""
    rows = sql(isolated_runtime, "SELECT * FROM dexpy_messages ORDER BY id")
    return [each | {"message": json.loads(each["payload"])} for each in rows]


def attempts(isolated_runtime: Isolated, id: str) -> list[dict[str, Any]]:
    """Return the stored attempts of a record."""
    return sql(isolated_runtime, "SELECT * FROM operation_attempts WHERE record_id = ? ORDER BY claim_token", id)


def nothing_is_stored(isolated_runtime: Isolated) -> bool:
    """Whether neither a record nor a message exists."""
    return not rows(isolated_runtime) and not messages(isolated_runtime)
