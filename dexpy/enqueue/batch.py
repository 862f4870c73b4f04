"""`Batch`: groups runs in a block, which stores all of them at its end."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from sqlalchemy.engine import Connection

from dexpy.enqueue.batch_ends import job_of
from dexpy.enqueue.batch_target import BatchTarget, check_operations
from dexpy.enqueue.batch_ticket import BatchTicket, prepare_runs, require_record
from dexpy.enqueue.current_dispatcher import Performs, PerformsAsync, current_dispatcher
from dexpy.enqueue.jobs import PreparedJob
from dexpy.execution.blocking_work import off_loop
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import NotCommitted, NotRecorded, OptionsError
from dexpy.foundation.ids import new_id
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.foundation.trace import current_frame
from dexpy.policies.options import AsyncOptions
from dexpy.recording import batch_rows
from dexpy.recording.ticket import Ticket
from dexpy.transactions.commit_hooks import CommitState
from dexpy.transactions.sessions import EnqueueTransaction, check_session_or_connection, is_async

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    Callback = Performs[Any] | PerformsAsync[Any]

R = TypeVar("R")
WHERE = "dexpy.batch(...)"


@attrs.define
class _Block:
    """The state of an entered block.

    Attributes:
        transaction: The transaction that stores the batch.
        commit_state: The state of that transaction.
        jobs: The runs that were added.
        inner: The batches whose blocks have ended in this block, and that are stored with it.
        is_stored: Whether the batch is stored.
        is_discarded: Whether an exception has ended the block inside of another one, which stores nothing of it.
    """

    transaction: EnqueueTransaction
    commit_state: CommitState
    jobs: list[PreparedJob] = attrs.field(factory=list[PreparedJob])
    inner: list[Batch] = attrs.field(factory=list["Batch"])
    is_stored: bool = False
    is_discarded: bool = False

    @property
    def is_collecting(self) -> bool:
        """Whether runs are stored at the end of the block."""
        return not (self.is_stored or self.is_discarded or self.commit_state.rolled_back)


class Batch(BatchTarget):
    """A batch of runs: a context manager that stores the runs that were added in its block.

    Use `dexpy.batch`, which has the arguments.

    Attributes:
        id: The id of the batch.
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        on_finish: Callback | None = None,
        on_success: Callback | None = None,
        on_failure: Callback | None = None,
        keep_open: bool = False,
        batch: BatchTarget | None = None,
        session: Session | Connection | AsyncSession | AsyncConnection | None = None,
    ) -> None:
        if name is not None and not (is_plain_text(name) and 0 < len(name) <= 255):
            raise OptionsError(f"{WHERE}: name: expected a str of 1 to 255 characters, got {shortened(name)}.")
        if not isinstance(batch, (Batch, BatchTicket, type(None))):
            raise OptionsError(f"{WHERE}: batch: expected a batch or its ticket, got {shortened(batch)}.")
        callbacks = {"finish": on_finish, "success": on_success, "failure": on_failure}
        self.id = new_id("bt")
        self._name = name
        self._callbacks = {event: operation for event, operation in callbacks.items() if operation is not None}
        for event, operation in self._callbacks.items():
            check_operations([operation], f"{WHERE}: on_{event}")
        self._status = "open" if keep_open else "running"
        self._outer = batch
        self._session = None if session is None else check_session_or_connection(session, f"{WHERE}: session")
        self._block: _Block | None = None
        self._ticket: BatchTicket | None = None

    @property
    def ticket(self) -> BatchTicket:
        """The ticket of the batch, after its block.

        Raises:
            NotCommitted: The block has not ended, or an exception has ended it, so that nothing was stored.
        """
        if self._ticket is None:
            raise NotCommitted(
                f"{self.id}: the batch is stored at the end of its block, unless an exception ends it. "
                "Use batch.ticket after the block."
            )
        return self._ticket

    def __enter__(self) -> Batch:
        if self._session is not None and is_async(self._session):
            raise OptionsError(
                f"{WHERE}: expected a Session or Connection, got an {type(self._session).__name__}. "
                "Write: async with dexpy.batch(session=...)."
            )
        self._enter(self._session)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave(kind is None)

    async def __aenter__(self) -> Batch:
        session: Any = self._session
        if session is not None and is_async(session):
            await session.run_sync(self._enter)
        else:
            self._enter(session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        def leave(*_: Any) -> None:
            self._leave(kind is None)

        session: Any = self._session
        if session is not None and is_async(session):
            await session.run_sync(leave)
        else:
            await off_loop(leave)

    def _enter(self, session: Any) -> None:
        if self._block is not None:
            raise OptionsError(f"{WHERE}: the block of {self.id} was entered already. Open a new batch.")
        dispatcher = current_dispatcher.get()
        if dispatcher.store is None:
            raise NotRecorded(
                f"{WHERE}: a batch consists of recorded runs, but nothing is recorded in this process. "
                "Configure a database: dexpy.configure(database=...)."
            )
        if (around := self._block_around) is not None:
            self._block = _Block(around.transaction, around.commit_state)
            return
        # Open until the end of the block: a ticket cannot be awaited before.
        self._block = _Block(dispatcher.transaction_of(session), CommitState(open=True))

    @property
    def _block_around(self) -> _Block | None:
        """The block of the batch around this one, if it stores this one too."""
        block = self._outer._block if isinstance(self._outer, Batch) else None
        return block if block is not None and block.is_collecting else None

    def enqueue(
        self, operations: Sequence[Any], options: AsyncOptions, token: str | None = None, session: Any = None
    ) -> list[Ticket[Any]]:
        """See `BatchTarget.enqueue`; in the block the runs are stored at its end, later at once."""
        block = self._block
        if block is None:
            raise OptionsError(f"{self.id}: the batch has no block. Write: with dexpy.batch(...) as batch:")
        if not block.is_collecting:
            return self.ticket.enqueue(operations, options, token, session)
        if session is not None:
            raise OptionsError(
                f"{self.id}: session: the runs of a block are stored together. Pass it to the batch: "
                "dexpy.batch(session=...)."
            )
        jobs = prepare_runs(self.id, operations, options, token, block.transaction, block.commit_state)
        block.jobs += jobs
        return [job.ticket for job in jobs]

    def _leave(self, is_complete: bool) -> None:
        block, around = self._block, self._block_around
        assert block is not None  # noqa: S101 - the block was entered
        if block.is_discarded:
            return
        if around is not None:
            if is_complete:
                around.inner.append(self)
            else:
                self._discard()
            return
        if not is_complete:
            block.commit_state.roll_back()
            return
        try:
            self._store(block)
        except BaseException:
            # After the commit the publication has failed, and the relay publishes the runs.
            if not block.is_stored:
                block.commit_state.roll_back()
            raise

    def _discard(self) -> None:
        """Store nothing of this block and of those inside of it, because an exception has ended it."""
        for each in self._with_inner():
            assert each._block is not None  # noqa: S101 - the block was entered
            each._block.is_discarded = True
            for job in each._block.jobs:
                job.ticket.become_rolled_back()

    def _store(self, block: _Block) -> None:
        batches = self._with_inner()
        rows = [(each._columns(), each._callback_rows()) for each in batches]

        def write(connection: Connection) -> None:
            if self._outer is not None:
                batch_rows.require_accepting(connection, self._outer.id)
            for columns, callbacks in rows:
                batch_rows.insert_batch(connection, columns)
                batch_rows.insert_callbacks(connection, columns["id"], callbacks)

        block.commit_state.open = False
        jobs = {each.id: each._jobs for each in batches}

        def become_stored() -> None:
            for each, (columns, _) in zip(batches, rows, strict=True):
                each._become_stored(columns)

        dispatcher = current_dispatcher.get()
        accepting = None if self._outer is None else self._outer.id
        dispatcher.enqueue_in_batches(
            jobs, write, block.transaction, block.commit_state, accepting=accepting, on_commit=become_stored
        )
        # In a transaction of the application, before its commit.
        become_stored()

    @property
    def _jobs(self) -> list[PreparedJob]:
        assert self._block is not None  # noqa: S101 - the block was entered
        return self._block.jobs

    def _with_inner(self) -> list[Batch]:
        """Return this batch and those that are stored with it."""
        assert self._block is not None  # noqa: S101 - the block was entered
        return [self, *(each for inner in self._block.inner for each in inner._with_inner())]

    def _columns(self) -> dict[str, Any]:
        """Return the columns of its row."""
        outer_id = None if self._outer is None else self._outer.id
        trace_id = current_frame().trace_id
        return {"id": self.id, "name": self._name, "status": self._status, "batch_id": outer_id, "trace_id": trace_id}

    def _callback_rows(self) -> list[dict[str, Any]]:
        """Return the columns of the rows of its callbacks."""
        assert self._block is not None  # noqa: S101 - the block was entered
        rows: list[dict[str, Any]] = []
        for event, operation in self._callbacks.items():
            job = current_dispatcher.get().prepare(operation, AsyncOptions(), self._block.transaction)
            require_record(job, operation, f"on_{event} of a batch")
            rows.append({"event": event, "run_id": job.ticket.id, "job": job_of(job)})
        return rows

    def _become_stored(self, columns: dict[str, Any]) -> None:
        """Create the ticket."""
        block, store = self._block, current_dispatcher.get().store
        assert block is not None  # noqa: S101 - the block was entered
        assert store is not None  # noqa: S101 - checked when the block was entered
        if block.is_stored:
            return
        block.is_stored = True
        num_runs = sum(not job.ticket.duplicate for job in block.jobs)
        now = clock.now()
        loaded = {**columns, "counts": {"pending": num_runs} if num_runs else {}, "created_at": now, "updated_at": now}
        self._ticket = BatchTicket(self.id, store, loaded, block.commit_state)


def batch(
    *,
    name: str | None = None,
    on_finish: Callback | None = None,
    on_success: Callback | None = None,
    on_failure: Callback | None = None,
    keep_open: bool = False,
    batch: BatchTarget | None = None,
    session: Session | Connection | AsyncSession | AsyncConnection | None = None,
) -> Batch:
    """Open a batch: runs that are stored together, with a ticket for all and operations that run at their end.

    The runs that are added in the block, and the batch, are stored in one transaction at its end: that of the session,
    or else of the session that is current when the block begins, or one of dexpy's own. An exception in the block
    stores nothing.

    Args:
        name: A name to find it by, up to 255 characters; several batches may have it.
        on_finish: The operation that is enqueued once, when all runs have ended.
        on_success: The operation that is enqueued once, when all runs have succeeded.
        on_failure: The operation that is enqueued once, when the first run has failed or expired for good.
        keep_open: Whether it accepts runs after its last run has ended, until `BatchTicket.close`.
        batch: The batch around it, which ends after it, and after its callbacks.
        session: The SQLAlchemy session or connection whose transaction stores it; for an async one use ``async with``.

    Returns:
        The batch: a context manager.

    Raises:
        OptionsError: An argument is invalid.
        NotRecorded: Nothing is recorded in this process, or a callback has no record.
        BatchEnded: The batch around it has ended.

    Example:
        >>> import dexpy
        >>> from dexpy.testing import isolated
        >>> class Charge(dexpy.Operation, name="docs.charge"):
        ...     customer: int
        ...     def perform(self) -> None: ...
        >>> class Report(dexpy.Operation, name="docs.report"):
        ...     month: int
        ...     def perform(self) -> str:
        ...         return f"month {self.month} is charged"
        >>> with isolated() as test:
        ...     with dexpy.batch(name="charges", on_success=Report(month=7)) as batch:
        ...         for customer in range(3):
        ...             _ = batch.add(Charge(customer=customer))
        ...     _ = test.run_pending()
        ...     batch.ticket.callback("success").result(timeout=1)
        'month 7 is charged'
    """
    return Batch(
        name=name,
        on_finish=on_finish,
        on_success=on_success,
        on_failure=on_failure,
        keep_open=keep_open,
        batch=batch,
        session=session,
    )
