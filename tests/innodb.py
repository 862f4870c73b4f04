"""The current transactions of InnoDB in MariaDB and MySQL.

They are read from its status: `innodb_trx` and `innodb_lock_waits` of the information schema are not refreshed while
a client reads one of them every tenth of a second, as tests do that wait for a transaction or a lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_OPEN = re.compile(r"^---TRANSACTION (\S+), ACTIVE.*\n(?:(?!---).*\n)*?MariaDB thread id (\d+)", re.MULTILINE)
_WAITING = re.compile(r"^-+ TRX HAS BEEN WAITING .*\n.* of table `([^`]+)`\.", re.MULTILINE)


def open_but_idle(ask: Callable[[str], Any]) -> list[Any]:
    """Return the sessions of a database that are idle in a transaction, with the name of the transaction.

    Args:
        ask: Executes a query on a connection to the database, and returns the rows.
    """
    names = {int(number): name for name, number in _OPEN.findall(_status(ask))}
    idle = ask("SELECT id, host FROM information_schema.processlist WHERE db = database() AND command = 'Sleep'")
    return [(row.id, row.host, names[row.id]) for row in idle if row.id in names]


def is_waited(ask: Callable[[str], Any]) -> bool:
    """Whether a transaction waits for a lock on a row of the database."""
    ((database,),) = ask("SELECT database()")
    return database in _WAITING.findall(_status(ask))


def _status(ask: Callable[[str], Any]) -> str:
    (row,) = ask("SHOW ENGINE INNODB STATUS")
    return str(row.Status)
