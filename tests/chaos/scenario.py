"""Scenarios, and their expected results."""

from __future__ import annotations

import attrs

from chaos.director import Plan, places_of
from chaos.stage import Stage

RECOVER_WITHIN_S = 5.0
"""The recovery interval, in seconds: the lowest possible one."""
HARM = {"fence": "doubled", "relay": "lost", "claim-count": "doubled"}
"""Disabled guarantee to the expected harm."""

SETTLE_S = 60.0
"""The time in which all runs must end, in seconds."""

MIX = {
    "booking": 36.0, "delayed": 8.0, "urgent": 8.0, "loud": 8.0, "parent": 7.0, "await": 6.0, "pay": 8.0,
    "flaky": 5.0, "refuse": 4.0, "crash": 3.0, "cancelled": 3.0, "expiring": 2.0,
}  # fmt: skip
"""Kinds of operations, with weights; see `chaos.producer`."""


@attrs.frozen
class Scenario:
    """The parameters of one run.

    Attributes:
        plan: The faults of processes and servers.
        rate: Operations per second.
        min_operations: The minimum number of operations.
        takes_s: The average duration of an operation, in seconds.
        mix: Kinds of operations, with weights.
        workers: The number of workers, of one process each.
        producers: The number of producers.
        threads: The number of threads of each worker.
        long: The share of operations that take some seconds.
        rolled_back: The share of transactions that are rolled back.
        repeated: The share of operations whose message is sent twice.
        settle_s: The longest time that the workers continue after the producers have stopped.
        control: The guarantee that is tested, without it and with it; None for all of them.
        broken: Whether that guarantee is disabled.
    """

    plan: Plan
    rate: float
    min_operations: int = 0
    takes_s: float = 0.2
    mix: dict[str, float] = attrs.field(factory=lambda: dict(MIX))
    workers: int = 4
    producers: int = 1
    threads: int = 4
    long: float = 0.1
    rolled_back: float = 0.08
    repeated: float = 0.03
    settle_s: float = SETTLE_S
    control: str | None = None
    broken: bool = False


def under_fire(stage: Stage, seconds: float, operations: int, kills: int, freezes: int | None = None) -> Scenario:
    """Return a scenario with all kinds of faults at once.

    Args:
        stage: The database and the broker.
        seconds: The length of the run.
        operations: The minimum number of operations.
        kills: The minimum number of kills.
        freezes: The number of freezes; by default one every 40 seconds.
    """
    plan = Plan(
        seconds,
        kills,
        places_of(stage),
        # On SQLite a frozen process keeps its liveness lock and its runs.
        freezes=0 if stage.is_sqlite else max(1, round(seconds / 40)) if freezes is None else freezes,
        # Longer than the recovery interval, so that a run that waits for the frozen process is late; shorter with
        # RabbitMQ, which may push the same message to a frozen process repeatedly.
        frozen_s=RECOVER_WITHIN_S * (0.8 if stage.pushes else 1.6),
        empties=0 if stage.empty is None else 2,
        shakes=0 if stage.shake is None else 1,
        dooms=round(seconds / 60),
        deploys=round(seconds / 20),
    )
    rate = 1.25 * operations / seconds
    return Scenario(plan, rate, min_operations=operations, producers=2 if seconds >= 60 else 1)


def broken(stage: Stage, promise: str, seconds: float) -> Scenario:
    """Return a scenario that must show harm without a guarantee.

    Args:
        stage: The database and the broker.
        promise: A key of `HARM`.
        seconds: The length of the run.
    """
    quiet = {"booking": 1.0}
    calm = Scenario(
        Plan(seconds, 0, {}), 10.0, mix=quiet, workers=2, long=0.0, rolled_back=0.0, repeated=0.0,
        control=promise, broken=True,
    )  # fmt: skip
    if promise == "fence":
        # Runs are frozen before their first statement, when they have no session that the recovery can end.
        plan = Plan(seconds / 2, 0, {}, freezes=1, frozen_s=RECOVER_WITHIN_S * 1.1)
        # The other worker has enough threads to start all recovered runs before the frozen one is resumed.
        return attrs.evolve(calm, plan=plan, rate=15.0, takes_s=2.0, threads=40)
    if promise == "claim-count":
        return attrs.evolve(calm, rate=20.0, takes_s=0.02, repeated=0.5)
    places = {place: weight for place, weight in places_of(stage).items() if place in ("in_perform", "after_claim")}
    mix = {"booking": 2.0, "delayed": 1.0, "flaky": 1.0}
    # Little more than the recovery interval, after which open runs count as lost.
    return attrs.evolve(calm, plan=Plan(seconds, 3, places), mix=mix, settle_s=RECOVER_WITHIN_S * 1.2)


def whole(stage: Stage, promise: str, seconds: float) -> Scenario:
    """Return the same scenario with the guarantee, which must show no harm."""
    return attrs.evolve(broken(stage, promise, seconds), broken=False, settle_s=SETTLE_S)
