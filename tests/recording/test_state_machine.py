"""A model of records under events in any order: no run is lost, none has two effects, and each event is counted once.

Hypothesis enqueues operations, delivers their messages to two workers, ends runs in every possible way, kills workers,
resumes runs of killed workers (zombies), advances the clock and cancels runs, and compares each row with a model.
Workers and clock are simulated; claims, runs, transactions, locks, messages and the relay are the real ones.
Each run is a thread that waits inside its transaction until the test chooses its end.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import attrs
import dramatiq
import pytest
import sqlalchemy as sa
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage, Shutdown
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dexpy import Error, Operation, Retry, Ticket, TimedOut, guard
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.configuration.settings import Settings
from dexpy.database.tables import FINAL, attempts, records, signals, workers
from dexpy.database.tables import messages as message_table
from dexpy.errors import InvalidTransition
from dexpy.foundation.clock import clock
from dexpy.liveness import worker_registry
from dexpy.liveness.heartbeat import HeldRecords
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.maintenance.relay import Relay
from dexpy.recording.end_writer import EndWriter
from dexpy.runtime import Runtime, install
from dexpy.worker.record_job import RecordJob
from dexpy.worker.unknown_operations import UnknownRecords, unknown_policy
from dexpy.worker.watchdog import Watchdog

BOUNDS = settings(
    max_examples=20,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PATIENCE_S = 20.0
WAIT_S = 30.0
"""The wait between the attempts of `Task`, in seconds."""
HEALED_AFTER = 12
"""The number of relay polls, hours apart, after which every run has ended."""

effects = sa.Table("effects", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("run", sa.Text))


class Flaky(Exception):
    """Is retried."""


class Hopeless(Exception):
    """Is not retried."""


class Gone(Exception):
    """Discards the run."""


class Task(Operation):
    """Waits until the test chooses its end, and writes an effect in its transaction."""

    retry_on = (Retry(Flaky, attempts=3, wait=WAIT_S, jitter=0),)
    discard_on = (Gone,)

    @guard("The test chose it")
    def refused(self) -> bool:
        Attempt.of_this_thread().begin(self.run_id)
        return Attempt.of_this_thread().ending == "reject"

    def perform(self) -> str:
        self.session.execute(sa.insert(effects).values(run=self.run_id))
        raised = ENDINGS[Attempt.of_this_thread().ending].raised
        if raised is not None:
            raise raised()
        return "done"


@attrs.frozen
class Ending:
    """One way for an attempt to end.

    Attributes:
        event: The event of the row, if the attempt still has its claim.
        raised: What `perform` raises; None returns a result.
    """

    event: str
    raised: Any = None


ENDINGS = {
    "finish": Ending("succeed"),
    "business error": Ending("refuse", lambda: Error("no_balance")),
    "reject": Ending("reject"),
    "crash": Ending("crash", Hopeless),
    "time out": Ending("crash", TimedOut),
    "discard": Ending("crash", Gone),
    "retry": Ending("retry", Flaky),
    "shutdown": Ending("release", Shutdown),
}


@attrs.frozen
class Effect:
    """The expected change of a row by an event.

    Attributes:
        target: The status that the row enters.
        num_attempts: The number of rows added to the table of attempts.
        counted: The change of `num_attempts`; None resets it.
        lost: The change of `num_lost`.
        frees: The keys of the row that it clears.
    """

    target: str
    num_attempts: int = 0
    counted: int | None = 0
    lost: int = 0
    frees: frozenset[str] = frozenset()


UNIQUE = frozenset({"unique_key"})
BOTH = frozenset({"unique_key", "once_key"})
TABLE = {
    "claim": Effect("running", counted=1),
    "succeed": Effect("done", frees=UNIQUE),
    "refuse": Effect("failed", num_attempts=1, frees=UNIQUE),
    "reject": Effect("failed", num_attempts=1, frees=BOTH),
    "crash": Effect("failed", num_attempts=1, frees=BOTH),
    "retry": Effect("pending", num_attempts=1),
    "cancel_running": Effect("cancelled", num_attempts=1, frees=BOTH),
    "release": Effect("pending", counted=-1),
    "recover": Effect("pending", num_attempts=1, lost=1),
    "lose": Effect("failed", num_attempts=1, lost=1, frees=BOTH),
    "expire": Effect("expired", frees=BOTH),
    "cancel": Effect("cancelled", frees=BOTH),
    "fail": Effect("failed", frees=BOTH),
    "revive": Effect("pending", counted=None),
}


@attrs.define(eq=False)
class Model:
    """The expected state of a record."""

    id: str
    loss_limit: int
    status: str = "pending"
    attempts: int = 0
    token: int = 0
    lost: int = 0
    num_attempts: int = 0
    retries: int = 0
    keys: frozenset[str] = BOTH
    is_cancel_requested: bool = False

    def happen(self, event: str) -> None:
        """Apply an event."""
        effect = TABLE[event]
        self.status = effect.target
        self.num_attempts += effect.num_attempts
        self.lost += effect.lost
        self.keys -= effect.frees
        if event == "claim":
            self.token += 1
        if event == "retry":
            self.retries += 1
        if effect.counted is None:
            self.attempts = self.lost = self.retries = 0
            self.is_cancel_requested = False
        else:
            self.attempts += effect.counted


class Attempt:
    """One delivery of a message, in its own thread.

    Args:
        worker: The worker that received it.
        message: The delivered message.
    """

    _by_thread: ClassVar[dict[int, Attempt]] = {}

    def __init__(self, worker: Worker, message: Any) -> None:
        self.worker = worker
        self.message = message
        self.run_id: str | None = None
        self.token = 0
        self.ending = ""
        self.error: BaseException | None = None
        self.is_over = False
        self._stirred = threading.Event()
        self._is_ending_chosen = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._stirred.wait(PATIENCE_S), "the run has neither started nor ended"
        if self.run_id is None:
            self._thread.join(PATIENCE_S)

    def __repr__(self) -> str:
        return f"claim {self.token} of {self.run_id} on {self.worker}"

    @classmethod
    def of_this_thread(cls) -> Attempt:
        """Return the attempt of the current thread."""
        return cls._by_thread[threading.get_ident()]

    def _run(self) -> None:
        self._by_thread[threading.get_ident()] = self
        CurrentMessage().before_process_message(None, self.message)
        try:
            self.worker.jobs.run(**self.message.kwargs)
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True
            del self._by_thread[threading.get_ident()]
            self._stirred.set()

    def begin(self, run_id: str) -> None:
        """Register the run from its thread, and wait until the test chooses its end."""
        self.run_id = run_id
        self._stirred.set()
        assert self._is_ending_chosen.wait(PATIENCE_S)

    def complete(self, ending: str = "crash") -> None:
        """Let the run end, and wait until it has ended."""
        self.ending = ending
        self._is_ending_chosen.set()
        self._thread.join(PATIENCE_S)

    def end(self, ending: str) -> None:
        """Let the run end, and check how it has ended."""
        self.complete(ending)
        assert self.is_over, f"the run has not ended by {ending!r}"
        assert self.error is None or (ending == "shutdown" and isinstance(self.error, Shutdown)), repr(self.error)


class Worker:
    """A simulated worker process: a row, a liveness lock and claims. It is also the heartbeat of its `RecordJob`.

    Args:
        runtime: The runtime whose operations it runs.
        number: The number in its worker id, and its pid.
    """

    def __init__(self, runtime: Runtime, number: int) -> None:
        self.worker_id = f"worker:{number}"
        self.worker_ids = (self.worker_id,)
        self.may_recover = True
        self.liveness_locks = worker_registry.SqliteLivenessLocks(runtime.store.database)
        self.is_alive = True
        self.held_records = HeldRecords()
        self._store = runtime.store
        self.watchdog = Watchdog(runtime.store.cancelled_among, lambda run: None)
        self.jobs: Any = RecordJob(
            runtime.dispatcher,
            runtime.store,
            runtime.redactor,
            self,  # type: ignore[arg-type]
            EndWriter(runtime.store),
            UnknownRecords(runtime.dispatcher, unknown_policy(None), runtime.store),
            self.watchdog,
        )
        self.liveness_locks.acquire(self.worker_id)
        with self._store.begin() as connection:
            worker_registry.register(
                connection, self.worker_id, WAIT_S, host="here", pid=number, threads=1, queues=None
            )

    def __repr__(self) -> str:
        return self.worker_id

    def start(self) -> str:
        """Return the worker id, as `Heartbeat.start` does."""
        return self.worker_id

    def require_lease(self, **facts: Any) -> None:
        """Do nothing: the lease of a simulated worker never expires."""

    def die(self) -> None:
        """Kill the worker: it does not unregister."""
        self.is_alive = False
        self.liveness_locks.release(self.worker_id)

    def leave(self) -> None:
        """Stop the worker: it releases its runs and unregisters."""
        self.jobs.release_runs()
        with self._store.begin() as connection:
            worker_registry.unregister(connection, self.worker_ids)
        self.die()


class SqlMessages:
    """Messages in the database; each worker has its own broker object for them."""

    forgets = False

    def __init__(self) -> None:
        self._brokers: dict[Worker, SqlBroker] = {}

    def take(self, runtime: Runtime, worker: Worker) -> Any:
        """Claim a message for a worker; None if there is none."""
        if worker not in self._brokers:
            self._brokers[worker] = SqlBroker(runtime.store.database, lease_s=2 * WAIT_S)
        return self._brokers[worker].claim()

    def is_due(self, lives: Lives) -> bool:
        """Whether a message can be taken."""
        free = "owner IS NULL OR leased_until <= :now"
        return bool(lives.sql(f"SELECT 1 FROM dexpy_messages WHERE due_at <= :now AND ({free}) LIMIT 1", now()))

    def has_way_to(self, lives: Lives, row: Any, held_ids: set[str]) -> bool:
        """Whether a pending row has a message that no current run holds."""
        query = "SELECT message_id FROM dexpy_messages WHERE NOT dead AND payload LIKE ?"
        return any(message_id not in held_ids for (message_id,) in lives.sql(query, f"%{row['id']}%"))

    def forget(self, runtime: Runtime) -> None:
        """Do nothing: the database loses no messages."""


class StubMessage(dramatiq.MessageProxy):
    """A message that the stub broker no longer has."""

    def ack(self) -> None:
        """Do nothing: the broker does not wait for it."""


class StubMessages:
    """Messages of a broker outside the transactions, which may lose them."""

    forgets = True

    def take(self, runtime: Runtime, worker: Worker) -> Any:
        """Return the next message; None if there is none."""
        broker: Any = runtime.broker
        queue = broker.queues["default"]
        return None if queue.empty() else StubMessage(dramatiq.Message.decode(queue.get_nowait()))

    def is_due(self, lives: Lives) -> bool:
        """Whether a message can be taken."""
        broker: Any = lives.runtime.broker
        return not broker.queues["default"].empty()

    def has_way_to(self, lives: Lives, row: Any, held_ids: set[str]) -> bool:
        """Whether the relay can publish a row: it is unpublished with a due time, or was published before."""
        return row["enqueued_at"] is not None or row["scheduled_at"] is not None

    def forget(self, runtime: Runtime) -> None:
        """Lose all queued messages."""
        runtime.broker.flush("default")


def now() -> str:
    """The current time, as SQLite stores it."""
    return clock.now().replace(tzinfo=None).isoformat(" ", "microseconds")


class Lives(RuleBasedStateMachine):
    """The events, in any order. Subclasses define the transport."""

    carry: ClassVar[type[Any]]
    runtime: ClassVar[Runtime]

    def __init__(self) -> None:
        super().__init__()
        self.store = self.runtime.store
        with self.store.begin() as connection:
            for table in (records, attempts, signals, workers, message_table, effects):
                connection.execute(sa.delete(table))
        self.reader = sqlite3.connect(str(self.store.database.path), isolation_level=None)
        self.reader.row_factory = sqlite3.Row
        self.messages = self.carry()
        self.messages.forget(self.runtime)
        self.relay = Relay(self.runtime.dispatcher, _Onlooker(self.store), RecoveryIntervals())  # type: ignore[arg-type]
        self.models: dict[str, Model] = {}
        self.live: dict[str, Attempt] = {}
        self.zombies: list[Attempt] = []
        self.workers: list[Worker] = []

    # ------------------------------------------------------------------------------------------------- helpers

    def sql(self, query: str, *parameters: Any) -> list[sqlite3.Row]:
        """Query the file without dexpy, which is faster."""
        return self.reader.execute(query, parameters).fetchall()

    def rows(self) -> dict[str, Any]:
        return {row["id"]: row for row in self.sql("SELECT * FROM operation_records")}

    def is_due(self, row: Any) -> bool:
        return row["scheduled_at"] is None or row["scheduled_at"] <= now()

    def is_late(self, row: Any) -> bool:
        return row["expires_at"] is not None and row["expires_at"] <= now()

    def lose_claims_of(self, worker: Worker) -> None:
        """Make the runs of a dead worker zombies: they may continue after their recovery."""
        for run_id, attempt in list(self.live.items()):
            if attempt.worker is worker:
                self.zombies.append(self.live.pop(run_id))

    def deliver_next(self, worker: Worker) -> bool:
        """Deliver the next message to a worker; False if there is none."""
        message = self.messages.take(self.runtime, worker)
        if message is None:
            return False
        before = self.rows()
        attempt = Attempt(worker, message)
        record_id = message.kwargs["record_id"]
        if attempt.run_id is None:
            assert attempt.error is None, repr(attempt.error)
            message.ack()
            row = before[record_id]
            if row["status"] == "pending" and self.is_late(row):
                self.models[record_id].happen("expire")
            elif row["status"] == "pending" and self.is_due(row):
                # The run was claimed, and cancelled before any code of the operation ran.
                assert self.models[record_id].is_cancel_requested
                self.models[record_id].happen("claim")
                self.models[record_id].happen("cancel_running")
            return True
        row = before[attempt.run_id]
        assert row["status"] == "pending", "only pending records are started"
        assert self.is_due(row)
        assert not self.is_late(row)
        assert attempt.run_id == record_id or not self.runtime.dispatcher.transactional
        if attempt.run_id != record_id and before[record_id]["status"] == "pending" and self.is_late(before[record_id]):
            # The message's own record has expired, so the message starts an unpublished one.
            self.models[record_id].happen("expire")
        assert attempt.run_id not in self.live, "a record has one live claim at a time"
        self.models[attempt.run_id].happen("claim")
        attempt.token = self.models[attempt.run_id].token
        self.live[attempt.run_id] = attempt
        return True

    def finish(self, attempt: Attempt, ending: str) -> None:
        """End an attempt; its row changes only if the attempt still has its claim."""
        model = self.models[str(attempt.run_id)]
        holds = model.status == "running" and model.token == attempt.token
        was_seen = any(run.cancel_token.is_cancelled for run in attempt.worker.watchdog.runs if run.id == model.id)
        event = ENDINGS[ending].event
        if event == "retry" and model.retries == 2:
            event = "crash"
        if (was_seen and ending != "reject") or (model.is_cancel_requested and event in ("retry", "release")):
            # A run sees its cancellation at the next use of its session, which a refusing guard does not reach,
            # or before it is started again.
            event = "cancel_running"
        attempt.end(ending)
        attempt.message.ack()
        if holds:
            model.happen(event)

    # -------------------------------------------------------------------------------------------------- events

    @initialize()
    def open(self) -> None:
        """Start one worker and enqueue two operations."""
        self.start_worker()
        self.send(0, None, loss_limit=1)
        self.send(0, None, loss_limit=2)

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """Trigger an event; a single rule, because Hypothesis disables some of several rules in each example."""
        event = data.draw(st.sampled_from(self.possible()), "event")
        if event == "send":
            delay = data.draw(st.sampled_from([0, 0, 40]), "delay")
            expires_in = data.draw(st.sampled_from([None, None, 90]), "expires_in")
            self.send(delay, expires_in, data.draw(st.integers(1, 2), "loss_limit"))
        elif event == "advance":
            self.advance(data.draw(st.sampled_from([1, 35, 61, 100]), "seconds"))
        elif event in ("end", "zombie_ends"):
            candidates = (
                self.zombies if event == "zombie_ends" else sorted(self.live.values(), key=lambda one: one.token)
            )
            attempt = data.draw(st.sampled_from(candidates), "whose")
            getattr(self, event)(attempt, data.draw(st.sampled_from(sorted(ENDINGS)), "ending"))
        elif event in ("deliver", "kill", "stop"):
            getattr(self, event)(data.draw(st.sampled_from(self.alive), "worker"))
        elif event in ("send_twice", "cancel", "expire", "fail", "revive", "reschedule"):
            fits = {"revive": ("failed", "expired", "cancelled"), "cancel": ("pending", "running"), "send_twice": ()}
            states = fits.get(event, ("pending",))
            fitting = [id for id, model in self.models.items() if model.status in states] or sorted(self.models)
            getattr(self, event)(self.models[data.draw(st.sampled_from(fitting), "record")])
        else:
            getattr(self, event)()

    def possible(self) -> list[str]:
        """Return the possible events; an event that is listed several times is more likely."""
        states = [model.status for model in self.models.values()]
        unseen = [zombie for zombie in self.zombies if self.models[str(zombie.run_id)].token == zombie.token]
        events = ["recover_and_expire", "advance", "send_twice", "cancel", "tell_runs"]
        events += ["expire", "fail", "reschedule"] * ("pending" in states)
        events += ["revive", "revive"] * (not {"failed", "expired", "cancelled"}.isdisjoint(states))
        events += ["send"] * 4 * (len(states) - sum(state in FINAL for state in states) < 3)
        events += ["start_worker"] * 6 * (len(self.alive) < 2)
        events += ["kill", "stop"] * bool(self.alive)
        events += ["kill", "end", "end", "end"] * bool(self.live)
        events += ["deliver"] * 8 * bool(self.alive and self.messages.is_due(self))
        events += ["zombie_ends"] * 3 * bool(self.zombies) + ["recover_and_expire"] * 3 * bool(unseen)
        return events + ["forget", "publish_unpublished"] * self.messages.forgets

    @property
    def alive(self) -> list[Worker]:
        """Return the workers that were neither killed nor stopped."""
        return [worker for worker in self.workers if worker.is_alive]

    def start_worker(self) -> None:
        self.workers.append(Worker(self.runtime, len(self.workers) + 1))

    def send(self, delay: int, expires_in: int | None, loss_limit: int) -> None:
        ticket = Task().async_(in_=delay, expires_in=expires_in).call()
        with self.store.begin() as connection:
            values = {"loss_limit": loss_limit} | {name: f"{name} {ticket.id}" for name in BOTH}
            connection.execute(sa.update(records).where(records.c.id == ticket.id).values(**values))
        self.models[ticket.id] = Model(ticket.id, loss_limit)

    def deliver(self, worker: Worker) -> None:
        self.deliver_next(worker)

    def send_twice(self, model: Model) -> None:
        self.runtime.broker.enqueue(self.runtime.dispatcher.message_of(self.store.row(model.id)))

    def end(self, attempt: Attempt, ending: str) -> None:
        del self.live[str(attempt.run_id)]
        self.finish(attempt, ending)

    def zombie_ends(self, attempt: Attempt, ending: str) -> None:
        """End a run of a killed worker, before or after its recovery."""
        self.zombies.remove(attempt)
        self.finish(attempt, ending)

    def kill(self, worker: Worker) -> None:
        worker.die()
        self.lose_claims_of(worker)

    def stop(self, worker: Worker) -> None:
        for run_id, attempt in self.live.items():
            if attempt.worker is worker:
                model = self.models[run_id]
                model.happen("cancel_running" if model.is_cancel_requested else "release")
        worker.leave()
        self.lose_claims_of(worker)

    def recover_and_expire(self) -> None:
        before = self.rows()
        assert self.relay.run_once()
        alive = {worker.worker_id for worker in self.alive}
        for id, row in before.items():
            model = self.models[id]
            if row["status"] == "running" and row["claimed_by"] not in alive:
                is_last = model.lost + 1 >= model.loss_limit
                model.happen("cancel_running" if model.is_cancel_requested else "lose" if is_last else "recover")
            # Recovery comes first: a recovered run whose expiry has passed is expired by the same poll.
            if model.status == "pending" and self.is_late(row):
                model.happen("expire")

    def publish_unpublished(self) -> None:
        assert self.relay.publish_unpublished()

    def forget(self) -> None:
        self.messages.forget(self.runtime)

    def advance(self, seconds: int) -> None:
        clock.advance(seconds)

    def tell_runs(self) -> None:
        """Let the workers check for cancellations."""
        for worker in self.workers:
            assert worker.watchdog.check()

    def cancel(self, model: Model) -> None:
        if model.status in FINAL:
            with pytest.raises(InvalidTransition):
                Ticket.get(model.id).cancel()
            return
        ticket = Ticket.get(model.id).cancel()
        if model.status == "pending":
            model.happen("cancel")
        else:
            assert ticket.running
            model.is_cancel_requested = True

    def expire(self, model: Model) -> None:
        self.ask(model, "expire", lambda ticket: ticket.expire())

    def fail(self, model: Model) -> None:
        self.ask(model, "fail", lambda ticket: ticket.fail("not today"))

    def revive(self, model: Model) -> None:
        self.ask(model, "revive", lambda ticket: ticket.retry(), "failed", "expired", "cancelled")

    def reschedule(self, model: Model) -> None:
        self.ask(model, None, lambda ticket: ticket.reschedule(at=clock.now() + timedelta(seconds=30)))

    def ask(self, model: Model, event: str | None, ask: Callable[[Any], Any], *allowed: str) -> None:
        """Call a method of a ticket, and expect `InvalidTransition` if the record's status does not allow it."""
        if model.status not in (allowed or ("pending",)):
            with pytest.raises(InvalidTransition):
                ask(Ticket.get(model.id))
            return
        ask(Ticket.get(model.id))
        if event is not None:
            model.happen(event)

    # ---------------------------------------------------------------------------------------------- invariants

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        rows = self.rows()
        self.rows_are_as_the_table_says(rows)
        self.no_run_is_lost(rows)
        self.attempts_are_kept()
        self.effects_are_there_once_with_done_and_not_without()

    def rows_are_as_the_table_says(self, rows: dict[str, Any]) -> None:
        assert rows.keys() == self.models.keys()
        for id, row in rows.items():
            model = self.models[id]
            shown = (row["status"], row["num_attempts"], row["claim_token"], row["num_lost"])
            assert shown == (model.status, model.attempts, model.token, model.lost), id
            assert {name for name in BOTH if row[name] is not None} == model.keys, id
            assert (row["completed_at"] is not None) == (row["status"] in FINAL), id
            assert (row["claimed_by"] is not None) == (row["status"] == "running"), id
            assert (row["failure"] is not None) or row["status"] not in ("failed", "expired", "cancelled"), id
            assert (row["result"] == '{"value": "done"}') == (row["status"] == "done"), id

    def no_run_is_lost(self, rows: dict[str, Any]) -> None:
        at_work = [*self.live.values(), *self.zombies]
        held_ids = {attempt.message.message_id for attempt in at_work}
        for id, row in rows.items():
            if row["status"] == "pending":
                assert self.messages.has_way_to(self, row, held_ids), f"{id} is pending, and no message will start it"
            if row["status"] == "running":
                holders = [one for one in at_work if (one.run_id, one.token) == (id, row["claim_token"])]
                assert [one.worker.worker_id for one in holders] == [row["claimed_by"]], id

    def attempts_are_kept(self) -> None:
        counts = dict(map(tuple, self.sql("SELECT record_id, count(*) FROM operation_attempts GROUP BY record_id")))
        assert counts == {model.id: model.num_attempts for model in self.models.values() if model.num_attempts}

    def effects_are_there_once_with_done_and_not_without(self) -> None:
        rows = [run for (run,) in self.sql("SELECT run FROM effects ORDER BY run")]
        assert rows == sorted(model.id for model in self.models.values() if model.status == "done")

    # --------------------------------------------------------------------------------------------------- the end

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.come_to_an_end()
        finally:
            for attempt in (*self.live.values(), *self.zombies):
                attempt.complete()
            for worker in self.workers:
                worker.liveness_locks.release(worker.worker_id)
            self.reader.close()
            clock.reset()

    def come_to_an_end(self) -> None:
        """Check that one worker and a relay end every record, whatever has happened before."""
        self.start_worker()
        worker = self.workers[-1]
        for _ in range(HEALED_AFTER):
            while self.live:
                self.finish(self.live.popitem()[1], "finish")
            self.recover_and_expire()
            self.publish_unpublished()
            while self.deliver_next(worker):
                while self.live:
                    self.finish(self.live.popitem()[1], "finish")
            if all(model.status in FINAL for model in self.models.values()):
                break
            clock.advance(3601)
        while self.zombies:
            self.finish(self.zombies.pop(), "finish")
        self.everything_is_as_it_should_be()
        assert {model.id: model.status for model in self.models.values() if model.status not in FINAL} == {}


class _Onlooker:
    """The heartbeat of a relay in a process without a worker."""

    worker_ids = ()
    may_recover = True

    def __init__(self, store: Any) -> None:
        self.liveness_locks = worker_registry.SqliteLivenessLocks(store.database)


def _in_haste(driver: Any, _record: Any) -> None:
    # Waiting for the disk would take most of the time, and no power failure is tested.
    driver.execute("PRAGMA synchronous = OFF")


@pytest.mark.timeout(400)  # for the search for the shortest failing example
@pytest.mark.parametrize("carry", [SqlMessages, StubMessages], ids=["messages in the database", "messages on a server"])
def test_every_order_of_events_keeps_the_invariants(carry: type[Any], tmp_path: Path) -> None:
    broker = StubBroker() if carry is StubMessages else None
    runtime = Runtime(Settings(database=f"sqlite:///{tmp_path / 'records.db'}"), broker=broker)
    runtime.start().dispatcher.broker.declare_queue("default")
    sa.event.listen(runtime.store.database.engine, "connect", _in_haste)
    with runtime.store.begin() as connection:
        effects.create(connection)
    before = install(runtime)
    try:
        machine = type(f"LivesWith{carry.__name__}", (Lives,), {"carry": carry, "runtime": runtime})
        run_state_machine_as_test(machine, settings=BOUNDS)
    finally:
        install(before)
        runtime.close()
