"""Queries over records, which are immutable and composable."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.database.tables import FAILURES, STATUSES, records
from dexpy.database.unreadable_rows import report_unreadable
from dexpy.declaration.deferred_targets import names_of
from dexpy.foundation.errors import OptionsError
from dexpy.foundation.redaction import class_path
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.policies.options import delay_seconds
from dexpy.recording import filters
from dexpy.recording.current_store import current_store
from dexpy.recording.durations import seconds_between
from dexpy.recording.json_members import LARGEST
from dexpy.recording.own_columns import column_filters
from dexpy.recording.record import Page, Record
from dexpy.recording.store import Store


@attrs.frozen
class RecordQuery:
    """A query over records; each method returns a new query, and iteration executes it."""

    _conditions: tuple[sa.ColumnElement[bool], ...] = ()
    _newest_first: bool = False
    _limit: int | None = None
    # None for the store of the runtime that is current when the query is executed.
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
        error: str | type[BaseException] | None = None,
        actor: Mapping[str, Any] | str | None = None,
        trace: str | None = None,
        parent: str | None = None,
        batch: Any = None,
        params: Mapping[str, Any] | None = None,
        min_duration: timedelta | None = None,
        max_duration: timedelta | None = None,
        min_attempts: int | None = None,
        max_attempts: int | None = None,
        **columns: Any,
    ) -> RecordQuery:
        """Return a query that also has all of these conditions.

        Args:
            operation: An operation class, or its stable name.
            target: A class, instance, module or function registered with `deferrable`, or its dotted name.
            method: One method of the target.
            status: One status, or several.
            failure: One reason of a failure, or several.
            queue: The name of the queue.
            since: The earliest creation time; a timedelta counts back from now.
            until: The end of the creation times, exclusive; a timedelta counts back from now.
            error: An error code, an exception class or its class path.
            actor: The type of the actor, or a mapping with ``type`` and ``id``.
            trace: A trace id.
            parent: The id of the run that started them.
            batch: A batch, its ticket or its id.
            params: The values of props, by name: text, numbers, booleans, None, or references by key.
            min_duration: The minimum duration.
            max_duration: The maximum duration.
            min_attempts: The minimum number of attempts.
            max_attempts: The maximum number of attempts.
            columns: Values of the application's columns (`RecordColumn`) by name: ``tenant="acme"``; None for rows
                without a value, a list for several values.

        Raises:
            OptionsError: A filter is invalid.
        """
        table = records.c
        conditions: list[sa.ColumnElement[bool]] = []
        if operation is not None:
            conditions.append(filters.is_operation(operation))
        if method is not None and target is None:
            raise OptionsError(f"where(method={method!r}): expected target= too. Pass for example target=OrderClient.")
        if target is not None:
            conditions.append(table.operation.in_(names_of(target, method)))
        if status is not None:
            conditions.append(table.status.in_(filters.check_choices(status, STATUSES, "status")))
        if failure is not None:
            conditions.append(table.failure.in_(filters.check_choices(failure, FAILURES, "failure")))
        texts = {"queue": queue, "trace": trace, "parent": parent, "batch": getattr(batch, "id", batch)}
        for filter_name, value in texts.items():
            if value is not None:
                column = filter_name if filter_name == "queue" else f"{filter_name}_id"
                conditions.append(filters.text_is(column, value, filter_name))
        if error is not None:
            conditions.append(filters.error_is(error))
        if since is not None:
            conditions.append(table.created_at >= filters.check_moment(since, "since"))
        if until is not None:
            conditions.append(table.created_at < filters.check_moment(until, "until"))
        if actor is not None:
            conditions += filters.actor_is(actor)
        if params is not None and not isinstance(params, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionsError(f"where(params=): expected a mapping, got {type(params).__name__}.")
        for name, value in (params or {}).items():
            conditions.append(filters.param_is(operation, name, value))
        duration = seconds_between(table.started_at, table.completed_at)
        if min_duration is not None:
            conditions.append(duration >= delay_seconds(min_duration, "min_duration", "where()"))
        if max_duration is not None:
            conditions.append(duration <= delay_seconds(max_duration, "max_duration", "where()"))
        if min_attempts is not None:
            conditions.append(table.num_attempts >= filters.check_attempts(min_attempts, "min_attempts"))
        if max_attempts is not None:
            conditions.append(table.num_attempts <= filters.check_attempts(max_attempts, "max_attempts"))
        if columns:
            own = self._require_store().record_columns
            conditions += column_filters(own, columns, [name for name in _FILTERS if name not in ("self", "columns")])
        return attrs.evolve(self, conditions=(*self._conditions, *conditions))

    def pending(self) -> RecordQuery:
        """Only pending runs."""
        return self.where(status="pending")

    def running(self) -> RecordQuery:
        """Only running runs."""
        return self.where(status="running")

    def done(self) -> RecordQuery:
        """Only runs that succeeded."""
        return self.where(status="done")

    def failed(self) -> RecordQuery:
        """Only runs that failed."""
        return self.where(status="failed")

    def expired(self) -> RecordQuery:
        """Only runs that were not started in time, or were expired by hand."""
        return self.where(status="expired")

    def cancelled(self) -> RecordQuery:
        """Only runs that were cancelled."""
        return self.where(status="cancelled")

    def for_trace(self, trace_id: str) -> RecordQuery:
        """Only runs of one trace."""
        return self.where(trace=trace_id)

    def for_actor(self, actor: Mapping[str, Any] | str) -> RecordQuery:
        """Only runs of one actor."""
        return self.where(actor=actor)

    def newest_first(self) -> RecordQuery:
        """Order by id, the newest first."""
        return attrs.evolve(self, newest_first=True)

    def oldest_first(self) -> RecordQuery:
        """Order by id, the oldest first; the default."""
        return attrs.evolve(self, newest_first=False)

    def limit(self, count: int) -> RecordQuery:
        """Limit the number of returned records.

        Raises:
            OptionsError: *count* is not an int of at least 1.
        """
        _check_count(count, "limit")
        return attrs.evolve(self, limit=count)

    def select(self) -> sa.Select[Any]:
        """Return the query as a SQLAlchemy Select."""
        order = records.c.id.desc() if self._newest_first else records.c.id
        query = sa.select(records).where(*self._conditions).order_by(order)
        return query if self._limit is None else query.limit(min(self._limit, LARGEST))

    def _require_store(self) -> Store:
        return self._store or current_store.get()

    def __iter__(self) -> Iterator[Record]:
        store = self._require_store()
        rows = store.decodable_rows(self.select())
        return iter([record for row in rows if (record := _record(row, store)) is not None])

    def first(self) -> Record | None:
        """Return the first record, or None."""
        return next(iter(self.limit(1)), None)

    def count(self) -> int:
        """Return the number of records."""
        counted = sa.select(sa.func.count()).select_from(self.select().order_by(None).subquery())
        # A file without tables has no rows.
        rows = self._require_store().rows(counted)
        count: int = rows[0][0] if rows else 0
        return count

    def page(self, size: int = 50, *, after: str | None = None) -> Page:
        """Return one page by keyset pagination, which takes the same time for every page.

        Args:
            size: The number of records on a page.
            after: The `next` of the previous page.

        Raises:
            OptionsError: *size* is not an int of at least 1, or *after* is not an id.
        """
        _check_count(size, "page")
        if after is not None and not is_plain_text(after):
            raise OptionsError(f"page(after=): expected the `next` of the previous page, got {shortened(after)}.")
        query = self
        if after is not None:
            is_after = records.c.id < after if self._newest_first else records.c.id > after
            query = attrs.evolve(self, conditions=(*self._conditions, is_after))
        fetched = tuple(query.limit(size + 1))
        page_records = fetched[:size]
        return Page(page_records, page_records[-1].id if len(fetched) > size else None)


_FILTERS = tuple(inspect.signature(RecordQuery.where).parameters)
"""The parameters of `where`."""


def _record(row: Row[Any], store: Store) -> Record | None:
    try:
        return Record(row, store)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        report_unreadable(row.id, [class_path(error)])
        return None


def _check_count(count: object, method: str) -> None:
    if type(count) is not int or count < 1:
        raise OptionsError(f"{method}(): expected an int of at least 1, got {count!r}.")
