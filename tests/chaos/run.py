"""One run of a scenario, and its result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import attrs

from chaos.audit import Audit, Count
from chaos.director import Director
from chaos.fleet import ROOT, Death, Fleet
from chaos.kill_orders import KILL_ORDERS
from chaos.remains import idle_transactions, rows_left
from chaos.scenario import RECOVER_WITHIN_S, Scenario
from chaos.stage import Stage, create_tables

STEP_S = 0.05
START_S = 40.0
"""The time in which the workers must start, in seconds; generous for busy machines."""
PROBABILITY = 0.5
"""The probability that a process that passes a failpoint checks for a kill order."""
SETTLED_S = 1.0
"""The time without open records after which all runs have ended, in seconds: an ending run may enqueue another."""


@attrs.frozen
class Finding:
    """The result of one run.

    Attributes:
        scenario: The scenario.
        stage: The database and the broker.
        count: The counts of effects and records.
        deaths: Kills, each once.
        freezes: Workers that were frozen for a while.
        deploys: How often a worker was stopped gracefully.
        emptied: When the broker was emptied.
        remains: Remains in the database, by name.
        oddities: Ends of processes that the run has not caused.
        seconds: How long the workers continued after the producers.
        stories: All known facts of some of the problems.
    """

    scenario: Scenario
    stage: Stage
    count: Count
    deaths: list[Death]
    freezes: list[Death]
    deploys: int
    emptied: list[float]
    remains: dict[str, int]
    oddities: list[str]
    seconds: float
    stories: list[str]


def run(scenario: Scenario, stage: Stage, folder: Path) -> Finding:
    """Run a scenario.

    Args:
        scenario: The scenario.
        stage: The database and the broker; the tables are recreated.
        folder: An empty folder for files and logs.
    """
    engine = create_tables(stage)
    stage.outages.clear()
    (folder / KILL_ORDERS).mkdir()
    # Ignore the settings of a project around the folder.
    (folder / "pyproject.toml").touch()
    audit = Audit(engine, folder)
    fleet = Fleet(folder, _environment(stage))
    director = Director(scenario.plan, fleet, stage)
    try:
        _start(scenario, fleet, audit)
        director.begin()
        while not director.is_over(lambda: audit.committed >= scenario.min_operations):
            fleet.tend()
            director.act()
            time.sleep(STEP_S)
        director.end()
        fleet.end_producers()
        settled_s = _settle(scenario, fleet, audit)
        remains = {"idle transactions": idle_transactions(engine)}
        fleet.end_workers()
        remains["idle transactions"] += idle_transactions(engine)
        remains |= rows_left(engine, stage)
    finally:
        fleet.close()
    events = [*fleet.deaths, *fleet.freezes]
    count = audit.count(stage, events, director.emptied)
    bad = [*count.lost, *count.doubled, *count.ghosts, *count.disagreeing, *count.not_final, *count.vanished]
    stories = [line for key in dict.fromkeys(bad[:8]) for line in audit.story(key)]
    late = [wait for wait in (*count.recoveries, *count.waits) if wait.is_late(RECOVER_WITHIN_S)]
    for wait in late[:3]:
        stories.append(f"{wait.seconds:.1f} s until its start, {wait.queued:.1f} s in the queue, {wait.faults} faults:")
        for row in audit.ask("SELECT wish FROM chaos_wishes WHERE run = :run", run=wait.run):
            stories += audit.story(row[0])
    if remains["rows in operation_worker_sessions"]:
        stories += [str(tuple(row)) for row in audit.ask("SELECT * FROM operation_worker_sessions")]
    if stories:
        stories += ["Faults of the run:", *_chronicle(events, director.emptied, stage)]
    return Finding(
        scenario, stage, count, fleet.kills, fleet.freezes, fleet.deploys, director.emptied, remains, fleet.oddities,
        settled_s, stories,
    )  # fmt: skip


def _chronicle(events: list[Death], emptied: list[float], stage: Stage) -> list[str]:
    """Return the faults of the run as lines with times, as in the logs."""
    entries = [(event.at, f"{event.place}, pid {event.pid}") for event in events]
    entries += [(at, "broker emptied") for at in emptied]
    entries += [(since, f"database away for {until - since:.1f} s") for since, until in stage.outages]
    return [
        f"    {time.strftime('%H:%M:%S', time.gmtime(at))}.{at % 1 * 1000:03.0f} {text}" for at, text in sorted(entries)
    ]


def _environment(stage: Stage) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEXPY_")}
    named = {"DEXPY_DATABASE": stage.database, "DEXPY_RECOVER_WITHIN": f"{RECOVER_WITHIN_S:g}s"}
    if stage.broker is not None:
        named["DEXPY_BROKER"] = stage.broker
    return (
        environment | named | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]), "PYTHONUNBUFFERED": "1"}
    )


def _start(scenario: Scenario, fleet: Fleet, audit: Audit) -> None:
    """Start the workers, then the producers, and wait until operations are enqueued."""
    probabilities = [f"--die={place}={PROBABILITY}" for place in scenario.plan.places if " " not in place]
    breaking = [f"--break={scenario.control}"] if scenario.broken else []
    for _ in range(scenario.workers):
        fleet.add_worker([*probabilities, *breaking], scenario.threads)
    _await(fleet, lambda: len(fleet.ready()) >= scenario.workers)
    mix = ",".join(f"{kind}={weight:g}" for kind, weight in scenario.mix.items())
    rate = scenario.rate / scenario.producers
    for _ in range(scenario.producers):
        fleet.add_producer(
            [f"--rate={rate}", f"--mix={mix}", f"--takes={scenario.takes_s}", f"--long={scenario.long}",
             f"--rolled-back={scenario.rolled_back}", f"--repeated={scenario.repeated}", *probabilities]
        )  # fmt: skip
    _await(fleet, lambda: audit.committed >= scenario.producers)


def _await(fleet: Fleet, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not is_there():
        fleet.tend()
        if time.monotonic() > deadline or fleet.oddities:
            logs = "\n".join((fleet.folder / f"{member.name}.log").read_text() for member in fleet.members)
            raise RuntimeError(f"The processes did not start: {fleet.oddities}\n{logs[-3000:]}")
        time.sleep(STEP_S)


def _settle(scenario: Scenario, fleet: Fleet, audit: Audit) -> float:
    """Wait until no record is open, or until the timeout; return the duration in seconds."""
    began = time.monotonic()
    quiet_since: float | None = None
    while (now := time.monotonic()) - began < scenario.settle_s:
        fleet.tend()
        if audit.open_records or len(fleet.ready()) < scenario.workers:
            quiet_since = None
        elif quiet_since is None:
            quiet_since = now
        elif now - quiet_since > SETTLED_S:
            break
        time.sleep(STEP_S * 4)
    return time.monotonic() - began
