"""One run of the hostile suite on one pair: random messages and rows, with a canary after each batch."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from dexpy.foundation.errors import WaitTimeout
from hostile import messages
from hostile.application import Canary
from hostile.rows import Rows
from hostile.sender import SqlSender, sender
from hostile.stage import RECOVER_WITHIN_S, Stage, open_stage, wait_for

MESSAGES = 40
ROWS = 20
URGENT = 10
"""The canary's priority, so that valid runs do not delay it."""
LATEST_S = 8.0
"""The limit of a canary's duration, in seconds; usual are milliseconds, or a second on a busy machine."""
IDLE_S = 3.0
"""The time for which the idle worker is measured, in seconds."""
MOST_CPU = 0.5
"""The limit of the idle worker's CPU usage, as a share of one core."""
MOST_LOG = 64_000
"""The limit of the idle worker's log, in bytes."""
LOG_PER_THING = 1500
"""The average limit of log for each message, row and canary, in bytes."""
SETTLED_WITHIN_S = 4 * RECOVER_WITHIN_S
OPERATIONS = ("hostile.kept", "hostile.plain", "unknown.operation")


@attrs.define
class Outcome:
    """The result of a run.

    Attributes:
        pair: The pair of database and broker.
        seed: The seed that reproduces it.
        messages: The number of hostile messages.
        rows: The number of changed rows.
        canaries: The number of canary runs.
        latest_s: The longest delay of a canary, in seconds.
        running: Records that were left running.
        deaths: Dead threads and processes of the worker.
        threads: Additional threads.
        cpu: The share of a core after the end.
        log: The size of the log in bytes.
        log_after: The growth of the log after the end.
    """

    pair: str
    seed: int
    messages: int = 0
    rows: int = 0
    canaries: int = 0
    latest_s: float = 0.0
    running: int = 0
    deaths: int = 0
    threads: int = 0
    cpu: float = 0.0
    log: int = 0
    log_after: int = 0

    def faults(self) -> Iterator[str]:
        """Describe the exceeded limits."""
        if self.latest_s > LATEST_S:
            yield f"a canary took {self.latest_s:.1f} s"
        if self.running:
            yield f"{self.running} records are left running"
        if self.deaths:
            yield f"{self.deaths} threads or processes died"
        if self.threads > 0:
            yield f"{self.threads} more threads than before"
        if self.cpu > MOST_CPU:
            yield f"{self.cpu:.0%} of a core while idle"
        if self.log_after > MOST_LOG or self.log > 100_000 + LOG_PER_THING * (
            self.messages + self.rows + self.canaries
        ):
            yield f"{self.log} bytes of log, {self.log_after} of them while idle"

    def __str__(self) -> str:
        faults = "; ".join(self.faults())
        return (
            f"{self.pair:18} seed {self.seed}: {self.messages} messages, {self.rows} rows, {self.canaries} canaries, "
            f"latest {self.latest_s:.2f} s, {self.running} left running, {self.deaths} deaths, cpu {self.cpu:.0%}, "
            f"log {self.log / 1000:.0f} kB: {'BAD: ' + faults if faults else 'good'}"
        )


def run(pair: str, seconds: float, seed: int, folder: Path, *, validates: bool = True) -> Outcome:
    """Attack a pair, and measure the outcome.

    Args:
        pair: One of `stage.PAIRS`.
        seconds: The duration of the attack.
        seed: The seed of the random numbers.
        folder: The folder of the log and a SQLite file.
        validates: Whether messages are validated; otherwise the outcome must have faults.
    """
    rng = random.Random(seed)
    outcome = Outcome(pair, seed)
    with open_stage(pair, folder, validates=validates) as stage:
        sending, rows = sender(stage.database, stage.broker), Rows(stage.database, rng)
        _canary(outcome)
        threads = _settled(stage)
        until = time.monotonic() + seconds
        while time.monotonic() < until and outcome.latest_s <= LATEST_S:
            if rng.random() < 0.5:
                outcome.rows += rows.change(ROWS)
            else:
                bodies = [messages.mutated(rng, rng.choice(OPERATIONS))[1] for _ in range(MESSAGES)]
                is_delayed = rng.random() < 0.1 and not isinstance(sending, SqlSender)
                sending.send(*bodies, queue="default.DQ" if is_delayed else "default")
                outcome.messages += len(bodies)
            _canary(outcome)
        # Runs of the backlog may be running at a check; a run that never ends is running at every check.
        is_late = outcome.latest_s > LATEST_S
        if is_late or not wait_for(lambda: rows.running() == 0, SETTLED_WITHIN_S):
            outcome.running = rows.running()
        _watch(outcome, stage, max(SETTLED_WITHIN_S, seconds))
        outcome.deaths = stage.deaths()
        if not outcome.deaths:
            wait_for(lambda: stage.threads() <= threads, IDLE_S)
            outcome.threads = stage.threads() - threads
    return outcome


def _settled(stage: Stage) -> int:
    """Wait until the worker has started no thread for a second, and return the number of its threads."""
    most, since = stage.threads(), time.monotonic()
    while time.monotonic() - since < 1.0:
        time.sleep(0.05)
        if (now := stage.threads()) > most:
            most, since = now, time.monotonic()
    return most


def _canary(outcome: Outcome) -> None:
    outcome.canaries += 1
    began = time.monotonic()
    try:
        Canary(number=outcome.canaries).async_(priority=URGENT).call().result(2 * LATEST_S, 0.02)
    except WaitTimeout:
        pass
    outcome.latest_s = max(outcome.latest_s, time.monotonic() - began)


def _watch(outcome: Outcome, stage: Stage, within_s: float) -> None:
    """Measure CPU and log of the worker when it is idle.

    It handles the backlog first; a worker in a busy loop does not become idle in time.
    """
    deadline = time.monotonic() + within_s
    while stage.worker.poll() is None:
        cpu_s, size = stage.cpu_s(), stage.log.stat().st_size
        time.sleep(IDLE_S)
        outcome.cpu = (stage.cpu_s() - cpu_s) / IDLE_S
        outcome.log = stage.log.stat().st_size
        outcome.log_after = outcome.log - size
        if outcome.cpu <= MOST_CPU or time.monotonic() > deadline:
            return
