"""The store, which reads and writes records.

A `Recorder` writes the row of a run; `transitions` has the state machine. This long class has every read and write of
records that more than one package needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import IntegrityError, StatementError, UnboundExecutionError
from sqlalchemy.orm import Session, sessionmaker

from dexpy.database.column_types import FromNow, after, as_of, seconds_parameter
from dexpy.database.current_transaction import CurrentTransaction
from dexpy.database.engine import Database
from dexpy.database.schema_check import SchemaCheck
from dexpy.database.self_deadlock import current_writer
from dexpy.database.tables import FINAL, attempts, records
from dexpy.database.tables import signals as signals_table
from dexpy.database.unreadable_rows import read_rows
from dexpy.foundation.errors import InvalidTransition, KeyTaken, RecordNotFound
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.locks.backends import Locks
from dexpy.policies.record_column import RecordColumn
from dexpy.recording import batch_locks, batch_rows, concurrency_slots, durable_steps, keys, rate_limits, run_signals
from dexpy.recording.keys import KeyClaim, KeyHolder
from dexpy.recording.pauses import KnownPauses, Paused, read_active
from dexpy.recording.transitions import TRANSITIONS, apply
from dexpy.transactions import commit_hooks
from dexpy.transactions.run_sessions import RunSessions

PUBLIC_METHODS = {"discard": "fail", "revive": "retry"}
"""The public method for an event, if its name differs."""


def row_dict(row: Row[Any]) -> dict[str, Any]:
    """Return a row as a dict."""
    return dict(row._mapping)  # pyright: ignore[reportPrivateUsage] - public, in spite of its name


@functools.lru_cache(maxsize=128)
def _insertion(*timestamps: str) -> sa.Insert:
    """Return the cached insert of a record: building one takes longer than executing it.

    Args:
        timestamps: Columns whose parameter is in seconds from now, as ``from_now_<column>``.
    """
    return sa.insert(records).values({name: after(seconds_parameter("from_now_" + name)) for name in timestamps})


_CREATED_NOW: Final = {"created_at": FromNow(), "updated_at": FromNow()}


def insert_record(connection: Connection, values: Mapping[str, Any]) -> None:
    """Insert a row, with default times of the database's clock.

    Args:
        connection: A connection in a transaction.
        values: The columns of the row; a time may be a `FromNow`.
    """
    parameters: dict[str, Any] = {}
    timestamps: list[str] = []
    for name, value in {**_CREATED_NOW, **values}.items():
        if isinstance(value, FromNow):
            timestamps.append(name)
            parameters["from_now_" + name] = value
        else:
            parameters[name] = value
    try:
        connection.execute(_insertion(*timestamps), parameters)
    except StatementError as error:
        # The parameters contain props, which errors of an application's engine would show.
        error.hide_parameters = True
        raise


def insert_records(connection: Connection, rows: Sequence[Mapping[str, Any]], now: datetime) -> None:
    """Insert rows in one statement, without SQL expressions among their values.

    Args:
        connection: A connection in a transaction.
        rows: The columns of each row; a missing column is null.
        now: The creation time.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    stamped = [{"created_at": now, "updated_at": now, **dict.fromkeys(names), **row} for row in rows]
    try:
        connection.execute(sa.insert(records), stamped)
    except StatementError as error:
        error.hide_parameters = True
        raise


def with_progress(query: sa.Select[Any]) -> sa.Select[Any]:
    """Return a query over records with the column ``progress``."""
    joined = records.outerjoin(signals_table, signals_table.c.record_id == records.c.id)
    return query.add_columns(signals_table.c.progress).select_from(joined)


class Sender(Protocol):
    """The part of the dispatcher that the store uses."""

    @property
    def transactional(self) -> bool:
        """Whether a message is part of the transaction that stores its record."""
        ...

    def publish_with(self, connection: Connection, row: Row[Any]) -> None:
        """Publish the message of a pending row with the connection's commit, or leave it to the relay."""

    def wake_workers(self) -> None:
        """Wake the workers of this process after a commit."""

    def check_batch(self, batch_id: str, status: str) -> None:
        """Write the end of a batch after a commit if the run that ended with this status was its last one."""


class Store:
    """Reads and writes records.

    Args:
        database: The database of the records.
        locks: The advisory locks; by default those of the database.
        session_factory: Creates the sessions of runs; by default sessions on the database.
        run_context: Returns a context manager that is entered around each run in the background.
        redactor: Redacts every text about a failure.
        find_sender: Returns the dispatcher that publishes the messages of records, or None.
        create_tables: Whether missing tables are created on a server too.
        db_command: Returns the command of ``dexpy db`` for an action, for messages.
        record_columns: The application's columns of the records.
    """

    def __init__(
        self,
        database: Database,
        *,
        locks: Locks | None = None,
        session_factory: Callable[[], Session] | None = None,
        run_context: Callable[[], AbstractContextManager[Any]] | None = None,
        redactor: Redactor | None = None,
        find_sender: Callable[[], Sender | None] = lambda: None,
        create_tables: bool = False,
        db_command: Callable[[str], str] = "dexpy db {}".format,
        record_columns: Sequence[RecordColumn] = (),
    ) -> None:
        self.database = database
        self.record_columns = tuple(record_columns)
        self._schema = SchemaCheck(database, create_tables=create_tables, db_command=db_command)
        self.redactor = redactor or Redactor()
        self.locks = locks or Locks(database)
        self._find_sender = find_sender
        self.sessions = None if session_factory is None else RunSessions(session_factory)
        self._run_context: Callable[[], AbstractContextManager[Any]] = run_context or nullcontext
        self.pauses = KnownPauses(self._read_pauses)
        self.on_new_session: Callable[[Session], None] | None = None
        """In a worker: called with each session that is created for a run."""

    def _read_pauses(self) -> Paused:
        with self.begin() as connection:
            return read_active(connection)

    def new_session(self) -> Session:
        """Create the session of one run; its objects stay readable after its commit.

        Raises:
            ConfigurationError: `session_factory` has not returned a session.
        """
        if self.sessions is not None:
            session = self.sessions.create()
        else:
            self.prepare()
            session = sessionmaker(self.database.engine)()
        session.expire_on_commit = False
        if self.on_new_session is not None:
            self.on_new_session(session)
        return session

    def run_context(self) -> AbstractContextManager[None]:
        """Return the context manager around each run in the background, and around a session outside of a call."""
        return nullcontext() if self._run_context is nullcontext and self.sessions is None else self._around_run()

    @contextmanager
    def _around_run(self) -> Generator[None, None, None]:
        with self._run_context(), nullcontext() if self.sessions is None else self.sessions.closing_leftovers():
            yield

    def shares_sessions(self) -> bool:
        """Return whether runs and records share a database, so that effects are committed exactly once.

        Raises:
            ConfigurationError: `session_factory` does not return a working session.
            SQLAlchemyError: A query on the database of the sessions failed.
        """
        if self.sessions is None:
            return True
        with self.run_context(), self.sessions.probe() as session:
            return self.shares_database(session)

    def shares_database(self, session: Session) -> bool:
        """Return whether a session's transaction is in the database of the records."""
        try:
            connection = session.connection()
        except UnboundExecutionError:
            # The session has a bind for each model; the one of the records is unknown.
            return False
        return self.is_own_connection(connection)

    def is_own_connection(self, connection: Connection) -> bool:
        """Return whether a connection is to the database of the records."""
        return self.database.same_as(connection)

    def prepare(self, connection: Connection | None = None) -> None:
        """Require the tables, which are created here on SQLite and by ``dexpy db init`` on a server.

        Args:
            connection: A connection whose transaction may hold SQLite's write lock, and so must create the tables.

        Raises:
            DatabaseUnavailable: The database does not open.
            SchemaMissing: A server has no tables of dexpy, or the schema has another version.
        """
        self._schema.require(connection)

    def begin(self) -> AbstractContextManager[Connection]:
        """Return a connection in a transaction, which is committed at the end of the block."""
        if not self._schema.is_prepared:
            self.prepare()
        return self.database.begin()

    def autocommit(self) -> AbstractContextManager[Connection]:
        """Return a connection for a single statement in autocommit mode, where that saves round trips."""
        if not self._schema.is_prepared:
            self.prepare()
        return self.database.autocommit()

    def insert_attempt(self, connection: Connection, row: Row[Any] | Mapping[str, Any], traceback: str | None) -> None:
        """Insert an attempt that did not end in `done`."""
        record = row_dict(row) if isinstance(row, Row) else row
        values = {
            "record_id": record["id"],
            "number": record["num_attempts"],
            "claim_token": record["claim_token"],
            "worker": record["claimed_by"],
            "started_at": record["started_at"],
            "ended_at": after(0),
            "failure": record["failure"],
            "error": record["error"],
            "error_message": record["error_message"],
            "traceback": traceback,
        }
        columns = attempts.c
        columns_of_attempt = [
            value if isinstance(value, after) else sa.literal(value, columns[name].type)
            for name, value in values.items()
        ]
        # If the row exists already, the end of the run must still be written.
        matches = (columns[name] == values[name] for name in ("record_id", "number", "claim_token"))
        select = sa.select(*columns_of_attempt).where(~sa.exists().where(*matches))
        connection.execute(sa.insert(attempts).from_select(list(values), select))

    def has_unpublished(self, queues: Collection[str] | None) -> bool:
        """Return whether a due record has no published message."""
        table = records.c
        query = sa.select(table.id).where(
            table.status == "pending", table.enqueued_at.is_(None), table.scheduled_at <= as_of(0)
        )
        return bool(self.rows((query if queues is None else query.where(table.queue.in_(queues))).limit(1)))

    def row(self, id: str) -> Row[Any]:
        """Return one record.

        Raises:
            RecordNotFound: No record has this id.
        """
        rows = self.rows(sa.select(records).where(records.c.id == id)) if is_plain_text(id) else ()
        if not rows:
            raise RecordNotFound(
                f"No record has the id {shortened(id)}. It may have been rolled back or pruned; check the id."
            )
        return rows[0]

    def row_on(self, connection: Connection, id: str) -> Row[Any]:
        """Return a record that the transaction of a connection has inserted."""
        return connection.execute(sa.select(records).where(records.c.id == id)).one()

    def has_committed(self, id: str) -> bool:
        """Return whether a record is committed, by another connection.

        False for a database in memory, where all threads share one connection.
        """
        in_memory = not self.database.dialect.has_server and self.database.path is None
        return not in_memory and bool(self.rows(sa.select(records.c.id).where(records.c.id == id)))

    def row_and_progress(self, id: str) -> Row[Any]:
        """Return one record with its progress.

        Raises:
            RecordNotFound: No record has this id.
        """
        if not is_plain_text(id):
            return self.row(id)
        rows = self.rows(with_progress(sa.select(records).where(records.c.id == id)))
        return rows[0] if rows else self.row(id)

    def progress_of(self, id: str) -> Any:
        """Return the stored progress of a run, or None."""
        rows = self.rows(sa.select(signals_table.c.progress).where(signals_table.c.record_id == id))
        return rows[0].progress if rows else None

    def rows(self, query: sa.Select[Any, *tuple[Any, ...]]) -> Sequence[Row[Any]]:
        """Return the rows of a query."""
        if self._schema.is_empty_file():
            return []
        self.prepare()
        connection = self.database.connect()
        try:
            return connection.execute(query).all()
        finally:
            connection.close()

    def decodable_rows(self, query: sa.Select[Any]) -> Sequence[Row[Any]]:
        """Return the records of a query with their progress; log undecodable rows once and leave them out."""
        if self._schema.is_empty_file():
            return []
        self.prepare()
        with self.database.connect() as connection:
            by_id = with_progress(sa.select(records))
            return read_rows(connection, with_progress(query), lambda run_id: by_id.where(records.c.id == run_id))

    def holder(
        self, name: str, once: Sequence[str] | None = None, unique: Sequence[str] | None = None
    ) -> KeyHolder | None:
        """Return the committed holder of one of an operation's keys.

        Args:
            name: The name of the operation.
            once: The digests of the idempotency key: of the current name, then of earlier ones.
            unique: The digests of the unique key, in the same order.
        """
        if self._schema.is_empty_file():
            return None
        self.prepare()
        claim = KeyClaim(
            name,
            once=once[0] if once else None,
            once_earlier=tuple(once[1:]) if once else (),
            unique=unique[0] if unique else None,
            unique_earlier=tuple(unique[1:]) if unique else (),
        )
        connection = self.database.connect()
        try:
            return keys.find_holder(connection, claim)
        finally:
            connection.close()

    def cancelled_among(self, ids: Collection[str]) -> Collection[str]:
        """Return the ids of those records whose cancellation is requested."""
        with self.begin() as connection:
            return run_signals.cancelled_among(connection, ids)

    def concurrency_of(self, key: str) -> tuple[int, int]:
        """Return the numbers of records of a concurrency key that run, and that wait for a slot."""
        rows = self.rows(concurrency_slots.slot_counts(key))
        return (rows[0].running, rows[0].blocked) if rows else (0, 0)

    def rate_of(self, key: str, per_s: float) -> tuple[int, int]:
        """Return the numbers of starts of a rate key in the current window, and of the records that wait."""
        rows = self.rows(rate_limits.counts(key, per_s))
        return (rows[0].started, rows[0].blocked) if rows else (0, 0)

    def clear_once(self, digest: str, transaction: CurrentTransaction | None) -> bool:
        """Release the idempotency key of an ended run, in *transaction* if it is on the same database."""
        if transaction is not None and self.shares_database(transaction.session()):
            connection = transaction.session().connection()
            self.prepare(connection)
            with self.database.with_own_schema(connection):
                return keys.release_once_key(connection, digest)
        with self.begin() as connection:
            return keys.release_once_key(connection, digest)

    def attempts_of(self, id: str) -> Sequence[Row[Any]]:
        """Return the attempts of a record that did not end in `done`, the oldest first."""
        query = sa.select(attempts).where(attempts.c.record_id == id)
        return self.rows(query.order_by(attempts.c.claim_token))

    def cancel(self, id: str, **values: Any) -> Row[Any]:
        """Cancel a pending run, or request the cancellation of a running one.

        Raises:
            RecordNotFound: No record has this id.
            InvalidTransition: The run has ended; nothing was changed.
        """
        while True:
            with self.change() as connection:
                row = apply(connection, "cancel", id, **values)
                if row is None:
                    run_signals.request_cancel(connection, id)
            if row is not None:
                self._check_batch(row)
                return row
            # The run may have ended or become pending again between the two statements.
            row = self._row_now(id)
            if row.status == "running":
                return row
            if row.status != "pending":
                with self.change() as connection:
                    run_signals.withdraw_cancel(connection, id)
                reason = "Expected a record that is pending or running. Nothing was changed."
                raise InvalidTransition(id, "cancel", row.status, reason)

    def _current_writer(self) -> tuple[Session, Connection] | None:
        """Return the current session and its connection if changes on another connection might wait for it.

        It holds the only write lock on the database of the records, or one on the row of a batch.
        """
        has_one_write_lock = self.database.dialect.has_one_write_lock
        return current_writer(self.database.same_as) if has_one_write_lock else batch_locks.current_holder()

    @contextmanager
    def change(self) -> Generator[Connection, None, None]:
        """Return a transaction for a change that a user has requested.

        It is that of the current session if this has added runs to a batch; on SQLite also if it has written at all.
        """
        current = self._current_writer()
        if current is None:
            with self.begin() as connection:
                yield connection
            return
        _, connection = current
        with self.database.with_own_schema(connection), connection.begin_nested():
            yield connection

    def _row_now(self, id: str) -> Row[Any]:
        """Return a record by the connection of `change`."""
        current = self._current_writer()
        if current is None:
            return self.row(id)
        with self.database.with_own_schema(current[1]) as connection:
            row = connection.execute(sa.select(records).where(records.c.id == id)).first()
        return row if row is not None else self.row(id)

    def after_change(self, action: Callable[[], None]) -> bool:
        """Run an action after the commit of `change`; return whether that was now."""
        current = self._current_writer()
        if current is None:
            action()
        else:
            commit_hooks.after_commit(current[0], action)
        return current is None

    def _check_batch(self, row: Row[Any]) -> None:
        """Write the end of the batch of a run that a user has ended, if it was its last one."""
        batch_id: str | None = row.batch_id
        if batch_id is None or row.status not in FINAL:
            return
        if (sender := self._find_sender()) is not None:
            self.after_change(functools.partial(sender.check_batch, batch_id, row.status))

    def apply_event(self, event: str, id: str, *, from_start: bool = False, **values: Any) -> Row[Any]:
        """Apply an event that a user has requested: expire, cancel, discard, revive, reschedule.

        Args:
            event: A key of `TRANSITIONS`.
            id: The record's id.
            from_start: Whether a revived run starts again with its first step.
            values: See `apply`.

        Raises:
            RecordNotFound: No record has this id.
            InvalidTransition: The status does not allow the event; nothing was changed.
        """
        sender = self._find_sender()
        if event in ("revive", "reschedule"):
            values["sent"] = sender is not None and sender.transactional
        before = self._row_now(id)
        if event == "revive" and (before.once_digest or before.unique_digest):
            with self.change() as connection:
                keys.release_expired_for(connection, before)
        with self._unless_taken(before), self.change() as connection:
            row = apply(connection, event, id, **values)
            if row is not None and event == "revive" and row.params is None:
                reason = "Its params are not stored, so it cannot run again. Nothing was changed."
                raise InvalidTransition(id, "retry", before.status, reason)
            if row is not None and event == "revive":
                run_signals.delete_signals(connection, id)
                batch_rows.reopen(connection, row.batch_id)
                if from_start:
                    durable_steps.delete_steps(connection, id)
            if row is not None and row.status == "pending" and sender is not None:
                sender.publish_with(connection, row)
        if row is None:
            *others, last = TRANSITIONS[event].sources
            sources = f"{', '.join(others)} or {last}" if others else last
            reason = f"Expected a record that is {sources}. Nothing was changed."
            raise InvalidTransition(id, PUBLIC_METHODS.get(event, event), self._row_now(id).status, reason)
        if sender is not None:
            self.after_change(sender.wake_workers)
        self._check_batch(row)
        return row

    @contextmanager
    def _unless_taken(self, row: Row[Any]) -> Generator[None, None, None]:
        """Raise `KeyTaken` if another record holds a key of a revived record."""
        try:
            yield
        except IntegrityError:
            with self.change() as connection:
                conflict = keys.find_conflict(connection, row)
            if conflict is None:
                raise
            raise KeyTaken(row.id, *conflict) from None
