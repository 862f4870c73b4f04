"""The audit of a run: effects are counted from the tables and files of the application, without the records.

Then the records are compared with the effects, and the durations of recoveries are measured.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import attrs
import sqlalchemy as sa

from chaos.fleet import Death
from chaos.journal import CALLS, COMMITTED, DELIVERIES, FETCHED, HANDED, MARKED, REPEATED, ROLLED_BACK, Journal
from chaos.stage import Stage

WORKER_PID = re.compile(r":(\d+):")
"""The parts of a worker id: host, pid, and a unique suffix."""
AFTER_THAW_S = 1.0
"""Seconds after its resumption within which a frozen process reads the messages pushed to it."""
NEARBY_S = 1.0
"""Two runs that start within this time, in seconds, count as in the same queue."""
TOLD = (
    "id", "operation", "status", "failure", "error_message", "queue", "priority", "created_at", "scheduled_at",
    "enqueued_at", "send_count", "started_at", "completed_at", "num_attempts", "num_lost", "claim_token", "claimed_by",
)  # fmt: skip
"""The columns of a record that are printed if it has a problem."""


@attrs.frozen
class Wait:
    """The time until a run was started.

    Attributes:
        seconds: The time since the fault or since the due time, without outages of the database.
        faults: The faults that may have affected it; each costs at most the recovery interval.
        run: The id of the record.
        began: When it was started.
        queued: The wait of unaffected runs at that time, in seconds: a busy machine starts offered runs late.
    """

    seconds: float
    faults: int
    run: str
    began: float
    queued: float = 0.0

    def is_late(self, bound_s: float) -> bool:
        """Whether it took longer than all its faults and the queue together may take."""
        return self.seconds - self.queued > bound_s * max(1, self.faults)


@attrs.define
class Count:
    """The counts; each list has keys of wishes.

    Attributes:
        committed: All committed wishes.
        expected: The number of wishes that must have an effect.
        done: The number of wishes with an effect.
        lost: Committed wishes without their expected effect.
        doubled: Wishes with several effects.
        ghosts: Effects of failed runs or rolled back wishes.
        unsaid: Wishes with an effect but without an external call.
        vanished: Wishes whose commit was confirmed, and that are not in the database.
        disagreeing: Wishes whose record contradicts their effect.
        failed_as_meant: Wishes that have no effect, as expected.
        not_final: Wishes whose record is not final.
        running: Wishes whose record is running.
        unpaid: The difference between the payments and the balances of the accounts.
        attempts: Started runs, by their external calls.
        sends: All published messages.
        redeliveries: Redelivered messages.
        turns: Waits for a worker: one per run, and one more after each retry and recovery.
        recoveries: Times from each kill or freeze until its run was started again.
        waits: Times from when an operation was due until its first start.
        unprovoked: Attempts recovered from a worker without a fault.
    """

    committed: list[str] = attrs.field(factory=list)
    expected: int = 0
    done: int = 0
    lost: list[str] = attrs.field(factory=list)
    doubled: list[str] = attrs.field(factory=list)
    ghosts: list[str] = attrs.field(factory=list)
    unsaid: list[str] = attrs.field(factory=list)
    vanished: list[str] = attrs.field(factory=list)
    disagreeing: list[str] = attrs.field(factory=list)
    failed_as_meant: int = 0
    not_final: list[str] = attrs.field(factory=list)
    running: list[str] = attrs.field(factory=list)
    unpaid: int = 0
    attempts: int = 0
    sends: int = 0
    redeliveries: int = 0
    turns: int = 0
    recoveries: list[Wait] = attrs.field(factory=list)
    waits: list[Wait] = attrs.field(factory=list)
    unprovoked: list[str] = attrs.field(factory=list)


@attrs.frozen
class HeldMessage:
    """A period in which a process held a message that its death may have lost.

    Attributes:
        pid: The process.
        since: The start.
        until: The end; None if unknown.
    """

    pid: int
    since: float
    until: float | None = None


@attrs.frozen
class Faults:
    """The faults of processes and servers, and the records that they may have affected.

    Attributes:
        deaths: Kills and freezes.
        emptied: When the broker was emptied, which affects all waiting runs.
        outages: When the database was unavailable.
        holds: For each record, the processes that held or published a message of it.
        makers: For each record, the process that enqueued it.
    """

    deaths: Sequence[Death]
    emptied: Sequence[float]
    outages: Sequence[tuple[float, float]]
    holds: Mapping[str, Sequence[HeldMessage]]
    makers: Mapping[str, int]

    def wait(self, at: float, began: float, run: str, *, after_fault: bool) -> Wait:
        """Return the time until a start, with the faults that may have lost a message of the record in between.

        Args:
            at: The time of the fault, or the due time.
            began: When the run was started.
            run: The record.
            after_fault: Whether `at` is a fault.
        """
        moments = [*self.emptied, *(until for _, until in self.outages)]
        moments += [death.at for death in self.deaths if self._hits(death, run)]
        further = sum(at < moment < began for moment in moments)
        away = sum(max(0.0, min(began, until) - max(at, since)) for since, until in self.outages)
        return Wait(began - at - away, further + after_fault, run, began)

    def _hits(self, death: Death, run: str) -> bool:
        if death.pid == self.makers.get(run):
            return True
        # A server pushes messages to a frozen process too, which reads them after it is resumed.
        last = death.at if death.until is None else death.until + AFTER_THAW_S
        return any(
            hold.pid == death.pid and hold.since < last and (hold.until is None or hold.until > death.at)
            for hold in self.holds.get(run, ())
        )


class Audit:
    """One audit of a run.

    Args:
        engine: A separate engine of the database.
        folder: The folder of the run.
    """

    def __init__(self, engine: sa.Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder

    def ask(self, query: str, **named: Any) -> Sequence[sa.Row[Any]]:
        """Execute plain SQL."""
        with self._engine.connect() as connection:
            return connection.execute(sa.text(query), named).all()

    def number(self, query: str) -> int:
        """Execute a query for a number."""
        return int(self.ask(query)[0][0])

    @property
    def committed(self) -> int:
        """Return the number of wishes."""
        return self.number("SELECT count(*) FROM chaos_wishes")

    @property
    def open_records(self) -> int:
        """Return the number of records that have not ended."""
        return self.number("SELECT count(*) FROM operation_records WHERE status IN ('pending', 'running')")

    def count(self, stage: Stage, events: Sequence[Death], emptied: Sequence[float]) -> Count:
        """Count everything.

        Args:
            stage: The database and broker of the run.
            events: Kills and freezes.
            emptied: When the broker was emptied.
        """
        count = Count()
        self._count_effects(count)
        self._compare_records(count)
        self._count_messages(count)
        makers = {row.run: row.made_by for row in self.ask("SELECT run, made_by FROM chaos_wishes")}
        faults = Faults(events, emptied, stage.outages, self._holds(), makers)
        self._measure_recoveries(count, events, faults)
        self._measure_waits(count, faults)
        smooth = [wait for wait in count.waits if not wait.faults]
        count.waits, count.recoveries = _beside(count.waits, smooth), _beside(count.recoveries, smooth)
        return count

    def _holds(self) -> dict[str, list[HeldMessage]]:
        holds: dict[str, list[HeldMessage]] = {}
        for run, pid, at in Journal(FETCHED, self._folder).lines():
            holds.setdefault(run, []).append(HeldMessage(int(pid), float(at)))
        handed: dict[tuple[str, str], list[float]] = {}
        for run, pid, at in Journal(HANDED, self._folder).lines():
            handed.setdefault((run, pid), []).append(float(at))
        for run, pid, at in Journal(MARKED, self._folder).lines():
            later = [moment for moment in handed.get((run, pid), ()) if moment >= float(at)]
            holds.setdefault(run, []).append(HeldMessage(int(pid), float(at), min(later, default=None)))
        return holds

    def _count_effects(self, count: Count) -> None:
        wishes = {row.wish: row for row in self.ask("SELECT wish, expected FROM chaos_wishes")}
        effects = Counter(row[0] for row in self.ask("SELECT wish FROM chaos_effects"))
        num_calls = Counter(words[0] for words in Journal(CALLS, self._folder).lines())
        committed_keys = {key for *keys, _ in Journal(COMMITTED, self._folder).lines() for key in keys}
        rolled_back = {key for *keys, _ in Journal(ROLLED_BACK, self._folder).lines() for key in keys}
        count.committed = list(wishes)
        for key, wish in wishes.items():
            if wish.expected == "effect":
                count.expected += 1
                if not effects[key]:
                    count.lost.append(key)
            elif wish.expected == "nothing":
                if effects[key]:
                    count.ghosts.append(key)
                else:
                    count.failed_as_meant += 1
            if effects[key] and not num_calls[key]:
                count.unsaid.append(key)
        count.done = sum(1 for key in effects if key in wishes)
        count.doubled = [key for key, times in effects.items() if times > 1]
        count.ghosts += [key for key in effects if key not in wishes or key in rolled_back]
        count.ghosts += [key for key in num_calls if key in rolled_back]
        count.vanished = [key for key in committed_keys if key not in wishes]
        count.attempts = sum(num_calls.values())
        paid = sum(times for key, times in effects.items() if key.startswith("pay-"))
        count.unpaid = abs(paid - self.number("SELECT sum(balance) FROM chaos_accounts"))

    def _compare_records(self, count: Count) -> None:
        query = """
            SELECT w.wish, r.status, (SELECT count(*) FROM chaos_effects e WHERE e.wish = w.wish) AS effects
            FROM chaos_wishes w LEFT JOIN operation_records r ON r.id = w.run
        """
        for row in self.ask(query):
            if row.status is None:
                count.vanished.append(row.wish)
            elif row.status in ("pending", "running"):
                count.not_final.append(row.wish)
                if row.status == "running":
                    count.running.append(row.wish)
            if (row.status == "done") != (row.effects > 0):
                count.disagreeing.append(row.wish)

    def _count_messages(self, count: Count) -> None:
        repeated = len(Journal(REPEATED, self._folder).lines())
        delivered = [words[0] for words in Journal(DELIVERIES, self._folder).lines()]
        distinct = len(set(delivered))
        num_sends = self.number("SELECT coalesce(sum(send_count), 0) FROM operation_records")
        # On the SQL broker a record does not count the messages of its retries.
        count.sends = max(num_sends, distinct - repeated)
        count.redeliveries = len(delivered) - distinct
        again = "SELECT count(*) FROM operation_attempts a JOIN operation_records r ON r.id = a.record_id"
        later = self.number(f"{again} WHERE a.claim_token < r.claim_token OR r.status IN ('pending', 'running')")
        count.turns = len(count.committed) + later

    def _measure_recoveries(self, count: Count, events: Sequence[Death], faults: Faults) -> None:
        query = """
            SELECT a.record_id, a.claim_token, a.worker, a.ended_at,
                   r.claim_token AS last_token, r.started_at AS last_start
            FROM operation_attempts a JOIN operation_records r ON r.id = a.record_id WHERE a.failure = 'lost'
        """
        starts: dict[str, list[tuple[int, float]]] = {}
        for row in self.ask("SELECT record_id, claim_token, started_at FROM operation_attempts"):
            starts.setdefault(row.record_id, []).append((row.claim_token, _seconds(row.started_at)))
        # A released attempt is not in the table of attempts, but its external call is recorded.
        calls: dict[str, list[float]] = {}
        for _, run, _, at in Journal(CALLS, self._folder).lines():
            calls.setdefault(run, []).append(float(at))
        for row in self.ask(query):
            matched = WORKER_PID.search(row.worker or "")
            pid = int(matched[1]) if matched else 0
            causes = [event.at for event in events if event.pid == pid and event.at <= _seconds(row.ended_at)]
            later = [start for token, start in starts[row.record_id] if token > row.claim_token]
            if row.last_token > row.claim_token and row.last_start is not None:
                later.append(_seconds(row.last_start))
            if not causes:
                count.unprovoked.append(row.record_id)
            elif later:
                at = max(causes)
                began = min(later + [call for call in calls.get(row.record_id, ()) if call > at])
                count.recoveries.append(faults.wait(at, began, row.record_id, after_fault=True))

    def _measure_waits(self, count: Count, faults: Faults) -> None:
        query = """
            SELECT id, created_at, scheduled_at, started_at FROM operation_records r
            WHERE started_at IS NOT NULL AND num_attempts = 1 AND claim_token = 1
        """
        for row in self.ask(query):
            due = max(_seconds(row.created_at), _seconds(row.scheduled_at or row.created_at))
            count.waits.append(faults.wait(due, _seconds(row.started_at), row.id, after_fault=False))

    def story(self, key: str) -> list[str]:
        """Return all known facts of one wish."""
        of_run = "(SELECT run FROM chaos_wishes WHERE wish = :key)"
        queries = {
            "wish": "SELECT * FROM chaos_wishes WHERE wish = :key",
            "effect": "SELECT * FROM chaos_effects WHERE wish = :key",
            "record": f"SELECT {', '.join(TOLD)} FROM operation_records WHERE id IN {of_run}",
            "attempt": f"SELECT * FROM operation_attempts WHERE record_id IN {of_run} ORDER BY claim_token",
        }
        lines = [f"{key}:"]
        for name, query in queries.items():
            for row in self.ask(query, key=key):
                facts = {column: value for column, value in row._mapping.items() if column != "traceback"}
                lines.append(f"    {name}: " + " ".join(f"{column}={value}" for column, value in facts.items()))
        calls = (words for words in Journal(CALLS, self._folder).lines() if words[0] == key)
        lines += [f"    call: {' '.join(words)}" for words in calls]
        runs = [row[0] for row in self.ask("SELECT run FROM chaos_wishes WHERE wish = :key", key=key)]
        fetched = (words for words in Journal(FETCHED, self._folder).lines() if words[0] in runs)
        lines += [f"    fetched: by pid {pid} {at}" for _, pid, at in fetched]
        for log in sorted(self._folder.glob("*.log")):
            log_lines = [
                line for line in log.read_text(errors="replace").splitlines() if any(run in line for run in runs)
            ]
            lines += [f"    {log.name}: {line}" for line in log_lines]
        return lines


def _beside(waits: Sequence[Wait], smooth: Sequence[Wait]) -> list[Wait]:
    """Sort the longest first, each with the wait of unaffected runs at that time."""
    compared: list[Wait] = []
    for wait in waits:
        others = [other.seconds for other in smooth if abs(other.began - wait.began) < NEARBY_S]
        compared.append(attrs.evolve(wait, queued=max(0.0, statistics.median(others)) if others else 0.0))
    return sorted(compared, key=lambda wait: -wait.seconds)


def _seconds(moment: Any) -> float:
    """Convert a UTC time of plain SQL to seconds since 1970."""
    parsed = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()
