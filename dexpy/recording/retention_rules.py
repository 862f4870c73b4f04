"""The rules of retention: how long the records of each class are kept, by their final status.

A class declares its rules in code, which not every process has: a relay without the modules of the application, or the
workers of an earlier release. Each process therefore stores the rules of its classes, and the rules of a class are
those of all processes together. The longest one holds, so that no process deletes what another one keeps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from dexpy.database.column_types import after, as_of
from dexpy.database.tables import FINAL, records, retention
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.policies.keep import keep_by_status
from dexpy.recording.retention import deletable
from dexpy.recording.store import Store

STORE_EVERY_S = 3600.0
"""How often a process stores its rules again, in seconds."""
OTHER_RULES_S = 86400.0
"""How long another rule for a class of this process holds after it was stored last, in seconds."""
UNKNOWN_CLASS_S = 7 * 86400.0
"""How long the rules of a class that this process does not declare hold after they were stored last, in seconds."""
FOREVER_S = -1
"""The value of a rule without an end in the table."""
_ALL_STORED = ("", "")
"""The operation and status of the rule that marks that a process with the classes of the application stored its rules.

Without it nothing tells which classes declare a rule, and the defaults may delete what a class keeps for ever.
"""

_c = retention.c
Rules = Mapping[tuple[str, str], float | None]
"""Operation and status to the time in seconds; None is for ever."""


def declared_rules(*, is_worker: bool = False) -> dict[tuple[str, str], float | None]:
    """Return the rules of the classes of this process, for each of their names.

    Args:
        is_worker: Whether this process has the classes of the application even if these are none.
    """
    rules: dict[tuple[str, str], float | None] = {}
    if is_worker:
        rules[_ALL_STORED] = 0.0
    for name in registry.names():
        contract: Contract = registry.contract_of(name)
        if contract.cls.__module__.partition(".")[0] != "dexpy":
            rules[_ALL_STORED] = 0.0
        if contract.record is not None:
            for status, keep_s in keep_by_status(contract.record.keep, "keep").items():
                rules[name, status] = keep_s
    return rules


@attrs.frozen
class Selection:
    """Records with one status and one retention.

    Attributes:
        status: The status.
        keep_s: The time since their end, in seconds.
        operations: Their operations; None for all but *other_than*.
        other_than: Operations that are left out.
    """

    status: str
    keep_s: float
    operations: tuple[str, ...] | None = None
    other_than: tuple[str, ...] = ()

    def query(self) -> sa.Select[str]:
        """Return the query for the ids of the records that may be deleted."""
        query = deletable(self.keep_s, [self.status])
        if self.operations is not None:
            return query.where(records.c.operation.in_(self.operations))
        return query.where(records.c.operation.not_in(self.other_than)) if self.other_than else query


def selections(defaults: Mapping[str, float | None], rules: Rules) -> list[Selection]:
    """Return the records that may be deleted, without those that are kept for ever.

    Args:
        defaults: The time for each status, in seconds; None is for ever. They have no effect before a process with the
            classes of the application has stored its rules.
        rules: The rules of classes.
    """
    chosen: list[Selection] = []
    for status in FINAL:
        by_time: dict[float, list[str]] = defaultdict(list)
        ruled = sorted(name for name, ruled_status in rules if ruled_status == status)
        for name in ruled:
            keep_s = rules[name, status]
            if keep_s is not None:
                by_time[keep_s].append(name)
        default_s = defaults.get(status)
        if default_s is not None and _ALL_STORED in rules:
            chosen.append(Selection(status, default_s, other_than=tuple(ruled)))
        chosen += [Selection(status, keep_s, tuple(names)) for keep_s, names in sorted(by_time.items())]
    return chosen


def read_rules(store: Store, declared: Rules) -> dict[tuple[str, str], float | None]:
    """Return the rules of all processes; of several for one class and status, the longest one.

    Args:
        store: The store of the records.
        declared: The rules of this process.
    """
    known = set(registry.names())
    query = sa.select(_c.operation, _c.status, _c.keep_s, (_c.seen_at > as_of(-OTHER_RULES_S)).label("is_recent"))
    rows = store.rows(query.where(_c.seen_at > as_of(-UNKNOWN_CLASS_S)))
    stored = (
        ((row.operation, row.status), None if row.keep_s == FOREVER_S else float(row.keep_s))
        for row in rows
        if row.is_recent or row.operation not in known
    )
    return _longest((*declared.items(), *stored))


def _longest(rules: Iterable[tuple[tuple[str, str], float | None]]) -> dict[tuple[str, str], float | None]:
    longest: dict[tuple[str, str], float | None] = {}
    for key, keep_s in rules:
        earlier = longest.get(key, 0.0)
        longest[key] = None if earlier is None or keep_s is None else max(earlier, keep_s)
    return longest


def store_rules(store: Store, declared: Rules) -> None:
    """Store the rules of this process, unless that was done lately, and delete those that no longer hold."""
    is_lately = _c.seen_at > as_of(-STORE_EVERY_S)
    lately = {(row.operation, row.status, row.keep_s) for row in store.rows(sa.select(retention).where(is_lately))}
    rows = {(*key, FOREVER_S if keep_s is None else round(keep_s)) for key, keep_s in declared.items()}
    if not (missing := sorted(rows - lately)):
        return
    with store.begin() as connection:
        connection.execute(sa.delete(retention).where(_c.seen_at <= as_of(-UNKNOWN_CLASS_S)))
        for row in missing:
            _store_rule(connection, row)


def _store_rule(connection: Connection, row: tuple[str, str, int]) -> None:
    is_same = (column == value for column, value in zip(retention.primary_key, row, strict=True))
    if connection.execute(sa.update(retention).where(*is_same).values(seen_at=after(0))).rowcount:
        return
    values = {column.name: value for column, value in zip(retention.primary_key, row, strict=True)}
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(retention).values(**values, seen_at=after(0)))
    except IntegrityError:
        # Another process has stored it meanwhile.
        return
