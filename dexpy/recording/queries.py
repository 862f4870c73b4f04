"""Queries over records: immutable, and composed of one another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs
import sqlalchemy as sa

from dexpy.declaration.policies import seconds_of
from dexpy.declaration.targets import names_of
from dexpy.foundation.door import store_in_force
from dexpy.foundation.errors import OptionsError
from dexpy.recording import filters
from dexpy.recording.durations import seconds_between
from dexpy.recording.record import Page, Record
from dexpy.recording.store import Store
from dexpy.recording.tables import FAILURES, STATUSES, records


@attrs.frozen
class RecordQuery:
    """A query over records. Each method gives a new one; iterating runs it."""

    _conditions: tuple[sa.ColumnElement[bool], ...] = ()
    _newest_first: bool = False
    _limit: int | None = None
    _store: Store | None = None

    def where(
        self,
        *,
        operation: Any = None,
        target: Any = None,
        method: str | None = None,
        status: str | Collection[str] | None = None,
        failure: str | Collection[str] | None = None,
        queue: str | None = None,
        since: datetime | timedelta | None = None,
        until: datetime | timedelta | None = None,
        error: str | None = None,
        actor: Mapping[str, Any] | str | None = None,
        trace: str | None = None,
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        min_duration: timedelta | None = None,
        max_duration: timedelta | None = None,
        min_attempts: int | None = None,
        max_attempts: int | None = None,
    ) -> RecordQuery:
        """Only those that fit all of these.

        Args:
            operation: An operation class, or its stable name.
            target: What was registered with `deferrable`: a class, instance, module or function, or its dotted name.
            method: One method of the target.
            status: One of the states, or several.
            failure: Why a run failed, or several reasons.
            queue: The queue's name.
            since: Made at this moment or later; a timedelta counts back from now.
            until: Made before this moment; a timedelta counts back from now.
            error: An error code, or the class path of an exception.
            actor: Its type, or a mapping with ``type`` and ``id``.
            trace: A trace id.
            parent: The id of the run that called them.
            params: Values of props, by name: text, numbers, booleans, None, or references by key.
            min_duration: Took at least this long.
            max_duration: Took at most this long.
            min_attempts: Were tried at least so often.
            max_attempts: Were tried at most so often.

        Raises:
            OptionsError: A filter that cannot be.
        """
        table = records.c
        found: list[sa.ColumnElement[bool]] = []
        if operation is not None:
            found.append(filters.is_operation(operation))
        if method is not None and target is None:
            raise OptionsError(f"where(method={method!r}) is the method of a target: give target=OrderClient too.")
        if target is not None:
            found.append(table.name.in_(names_of(target, method)))
        if status is not None:
            found.append(table.status.in_(filters.words(status, STATUSES, "status")))
        if failure is not None:
            found.append(table.failure.in_(filters.words(failure, FAILURES, "failure")))
        for column, value in (("queue", queue), ("error", error), ("trace_id", trace), ("parent_id", parent)):
            if value is not None:
                found.append(table[column] == value)
        if since is not None:
            found.append(table.created_at >= filters.moment(since, "since"))
        if until is not None:
            found.append(table.created_at < filters.moment(until, "until"))
        if actor is not None:
            described = {"type": actor} if isinstance(actor, str) else actor
            found.append(table.actor_type == str(described.get("type")))
            if described.get("id") is not None:
                found.append(table.actor_id == str(described["id"]))
        for name, value in (params or {}).items():
            found.append(filters.param_is(operation, name, value))
        took = seconds_between(table.started_at, table.completed_at)
        if min_duration is not None:
            found.append(took >= seconds_of(min_duration, "min_duration", "where()"))
        if max_duration is not None:
            found.append(took <= seconds_of(max_duration, "max_duration", "where()"))
        if min_attempts is not None:
            found.append(table.num_attempts >= min_attempts)
        if max_attempts is not None:
            found.append(table.num_attempts <= max_attempts)
        return attrs.evolve(self, conditions=(*self._conditions, *found))

    def pending(self) -> RecordQuery:
        """Only those that wait."""
        return self.where(status="pending")

    def running(self) -> RecordQuery:
        """Only those that run."""
        return self.where(status="running")

    def done(self) -> RecordQuery:
        """Only those that ended well."""
        return self.where(status="done")

    def failed(self) -> RecordQuery:
        """Only those that failed."""
        return self.where(status="failed")

    def expired(self) -> RecordQuery:
        """Only those that will never run."""
        return self.where(status="expired")

    def for_trace(self, trace_id: str) -> RecordQuery:
        """Only those of one trace."""
        return self.where(trace=trace_id)

    def for_actor(self, actor: Mapping[str, Any] | str) -> RecordQuery:
        """Only those that one actor set off."""
        return self.where(actor=actor)

    def newest_first(self) -> RecordQuery:
        """The latest ones first."""
        return attrs.evolve(self, newest_first=True)

    def oldest_first(self) -> RecordQuery:
        """The earliest ones first, as it is anyway."""
        return attrs.evolve(self, newest_first=False)

    def limit(self, count: int) -> RecordQuery:
        """At most so many.

        Raises:
            OptionsError: Not an int of at least 1.
        """
        _check_count(count, "limit")
        return attrs.evolve(self, limit=count)

    def select(self) -> sa.Select[Any]:
        """The SQLAlchemy Select underneath, to go on from."""
        order = records.c.id.desc() if self._newest_first else records.c.id
        query = sa.select(records).where(*self._conditions).order_by(order)
        return query if self._limit is None else query.limit(self._limit)

    def _asked(self) -> Store:
        return self._store or store_in_force()

    def __iter__(self) -> Iterator[Record]:
        store = self._asked()
        return iter([Record(row, store) for row in store.rows(self.select())])

    def first(self) -> Record | None:
        """The first of them, or None."""
        return next(iter(self.limit(1)), None)

    def count(self) -> int:
        """How many there are."""
        counted = sa.select(sa.func.count()).select_from(self.select().order_by(None).subquery())
        # No row at all from a file that nothing was ever recorded in.
        found = self._asked().rows(counted)
        number: int = found[0][0] if found else 0
        return number

    def page(self, size: int = 50, *, after: str | None = None) -> Page:
        """One page, found by key: as fast in the middle of millions of rows as at their beginning.

        Args:
            size: Records on a page.
            after: The `next` of the page before.

        Raises:
            OptionsError: The size is not an int of at least 1.
        """
        _check_count(size, "page")
        query = self
        if after is not None:
            beyond = records.c.id < after if self._newest_first else records.c.id > after
            query = attrs.evolve(self, conditions=(*self._conditions, beyond))
        found = tuple(query.limit(size + 1))
        shown = found[:size]
        return Page(shown, shown[-1].id if len(found) > size else None)


def _check_count(count: object, method: str) -> None:
    if type(count) is not int or count < 1:
        raise OptionsError(f"{method}({count!r}) wants an int of at least 1.")
