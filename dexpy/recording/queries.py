"""Reading records: immutable queries that compose, and the records they find."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Row
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from dexpy.declaration.forms import Misfit
from dexpy.declaration.policies import seconds_of
from dexpy.declaration.targets import names_of
from dexpy.foundation.door import store_in_force
from dexpy.foundation.errors import SENSITIVE, OptionsError, did_you_mean, listed
from dexpy.recording.metadata import as_of
from dexpy.recording.sealing import is_sealed, shown
from dexpy.recording.store import Store, facts_of
from dexpy.recording.tables import FAILURES, STATUSES, records
from dexpy.recording.ticket import Ticket


class Record:
    """One recorded run; its attributes are the columns of `operation_records`, as of when it was read.

    Sensitive and encrypted props are not shown in its `params`, nor an encrypted result.

    Example:
        >>> from dexpy import records
        >>> [record.status for record in records.where(queue="nobody")]
        []
    """

    id: str
    name: str
    params: dict[str, Any] | None
    status: str
    error: str | None
    failure: str | None
    error_message: str | None
    error_details: Any
    queue: str
    priority: int
    scheduled_at: datetime | None
    enqueued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None
    num_attempts: int
    num_lost: int
    max_lost: int | None
    claim_token: int
    concurrency_key: str | None
    blocked_key: str | None
    claimed_by: str | None
    parent_id: str | None
    trace_id: str | None
    trace: Any
    actor_type: str | None
    actor_id: str | None
    created_at: datetime
    updated_at: datetime

    def __init__(self, row: Row[Any], store: Store) -> None:
        self._row = row
        self._store = store
        for name, value in facts_of(row).items():
            if name != "result":
                setattr(self, name, value)
        self.params = shown(row.name, row.params)

    def __repr__(self) -> str:
        return f"<Record {self.name} {self.id} {self.status}>"

    @property
    def ticket(self) -> Ticket[Any]:
        """The handle on this run."""
        return Ticket(self.id, self.name, self._store, facts_of(self._row))

    @property
    def result(self) -> Any:
        """The result as JSON; None when there is none, or when it was not stored."""
        return SENSITIVE if is_sealed(self._row.result) else self._envelope.get("value")

    @property
    def result_error(self) -> str | None:
        """Why a done run's result was not stored."""
        return self._envelope.get("unstorable")

    @property
    def _envelope(self) -> dict[str, Any]:
        stored: dict[str, Any] | None = self._row.result
        return stored or {}

    @property
    def duration(self) -> timedelta | None:
        """How long the last attempt took, None while it has not ended."""
        if self.started_at is None or self.completed_at is None:
            return None
        return self.completed_at - self.started_at

    def retry(self, *, from_start: bool = False) -> Record:
        """See `Ticket.retry`."""
        return self._moved(self.ticket.retry(from_start=from_start))

    def cancel(self) -> Record:
        """See `Ticket.cancel`."""
        return self._moved(self.ticket.cancel())

    def expire(self) -> Record:
        """See `Ticket.expire`."""
        return self._moved(self.ticket.expire())

    def fail(self, reason: str) -> Record:
        """See `Ticket.fail`."""
        return self._moved(self.ticket.fail(reason))

    def perform(self) -> Record:
        """See `Ticket.perform`; the record as it is then."""
        ticket = self.ticket
        ticket.perform()
        return self._moved(ticket)

    def reschedule(self, *, at: datetime) -> Record:
        """See `Ticket.reschedule`."""
        return self._moved(self.ticket.reschedule(at=at))

    def _moved(self, ticket: Ticket[Any]) -> Record:
        return Record(self._store.row(ticket.id), self._store)


@attrs.frozen
class Attempt:
    """One attempt of a recorded run.

    Attributes:
        number: From 1.
        worker: Which worker process ran it.
        started_at: When.
        ended_at: When; None while it runs.
        failure: Why it did not end in `done`; None for one that did or that still runs.
        error: Error code or exception class.
        error_message: Redacted.
        traceback: File, line and function of each frame.
    """

    number: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime | None
    failure: str | None
    error: str | None
    error_message: str | None
    traceback: str | None


@attrs.frozen
class Page:
    """Some records, and where the next page begins.

    Attributes:
        records: In order.
        next: Give it to ``page(after=...)``; None when this was the last page.
    """

    records: tuple[Record, ...]
    next: str | None


class _seconds_between(FunctionElement[float]):  # noqa: N801 - reads as a SQL function
    inherit_cache = True
    type = sa.Float()
    name = "dexpy_seconds_between"


@compiles(_seconds_between, "sqlite")
def _between_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    return f"((julianday({end}) - julianday({start})) * 86400.0)"


@compiles(_seconds_between, "postgresql")
def _between_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    return f"EXTRACT(EPOCH FROM ({end} - {start}))"


@compiles(_seconds_between, "mysql")
@compiles(_seconds_between, "mariadb")
def _between_mysql(element: Any, compiler: Any, **options: Any) -> str:
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    return f"(TIMESTAMPDIFF(MICROSECOND, {start}, {end}) / 1000000.0)"


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
            names = _names_of(operation)
            found.append(table.name == names[0] if len(names) == 1 else table.name.in_(names))
        if method is not None and target is None:
            raise OptionsError(f"where(method={method!r}) is the method of a target: give target=OrderClient too.")
        if target is not None:
            found.append(table.name.in_(names_of(target, method)))
        if status is not None:
            found.append(table.status.in_(_words(status, STATUSES, "status")))
        if failure is not None:
            found.append(table.failure.in_(_words(failure, FAILURES, "failure")))
        for column, value in (("queue", queue), ("error", error), ("trace_id", trace), ("parent_id", parent)):
            if value is not None:
                found.append(table[column] == value)
        if since is not None:
            found.append(table.created_at >= _moment(since, "since"))
        if until is not None:
            found.append(table.created_at < _moment(until, "until"))
        if actor is not None:
            described = {"type": actor} if isinstance(actor, str) else actor
            found.append(table.actor_type == str(described.get("type")))
            if described.get("id") is not None:
                found.append(table.actor_id == str(described["id"]))
        for name, value in (params or {}).items():
            found.append(_param_is(operation, name, value))
        took = _seconds_between(table.started_at, table.completed_at)
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


def _names_of(operation: Any) -> tuple[str, ...]:
    if isinstance(operation, str):
        return (operation,)
    contract = getattr(operation, "contract", None)
    if contract is None:
        raise OptionsError(f"where(operation={operation!r}) wants an operation class or its name.")
    return (contract.name, *contract.aliases)


def _words(given: str | Collection[str], known: tuple[str, ...], filter_name: str) -> list[str]:
    words = [given] if isinstance(given, str) else list(given)
    for word in words:
        if word not in known:
            raise OptionsError(
                f"where({filter_name}={word!r}): there is no such {filter_name}. They are {listed(known)}."
                f"{did_you_mean(word, known)}"
            )
    return words


def _moment(given: datetime | timedelta, filter_name: str) -> Any:
    if isinstance(given, timedelta):
        return as_of(-given.total_seconds())
    if not isinstance(given, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionsError(f"where({filter_name}={given!r}) wants an aware datetime, or a timedelta back from now.")
    if given.tzinfo is None:
        raise OptionsError(f"where({filter_name}={given!r}) is naive. Say which zone, or give a timedelta.")
    return given


def _param_is(operation: Any, name: str, value: Any) -> sa.ColumnElement[bool]:
    contract = getattr(operation, "contract", None)
    if contract is not None:
        props = {one.name: one for one in contract.props}
        if name not in props:
            raise OptionsError(f"where(params=): {contract.name} has no prop {name!r}.{did_you_mean(name, props)}")
        if name in contract.sealed_props:
            raise OptionsError(
                f"where(params=): {contract.name}.{name} is stored encrypted, so that no database can compare it. "
                "Give a prop that is not, or idempotence tokens and keys of your own."
            )
        try:
            value = props[name].form.encode(props[name].form.parse(value))
        except Misfit as misfit:
            wanted = "; ".join(str(problem.under("." + name)) for problem in misfit.problems)
            raise OptionsError(f"where(params=): {contract.name} has no run with such params: {wanted}.") from None
    # The column is JSON, and the comparator of JSON is typed as that of any column.
    stored: Any = records.c.params[name]
    same: sa.ColumnElement[bool]
    if value is None:
        same = stored.as_string().is_(None)
    elif isinstance(value, bool):
        same = stored.as_boolean() == value
    elif isinstance(value, int):
        same = stored.as_integer() == value
    elif isinstance(value, float):
        same = stored.as_float() == value
    elif isinstance(value, str):
        same = stored.as_string() == value
    else:
        raise OptionsError(
            f"where(params={{{name!r}: ...}}) compares text, numbers, booleans, None and keys, "
            f"not {type(value).__name__}."
        )
    return same
