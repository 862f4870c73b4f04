"""The director of a run triggers kills, freezes, outages of the database and losses of messages."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

import attrs

from chaos import kill_orders
from chaos.fleet import Fleet, Member
from chaos.journal import CALLS, Journal
from chaos.stage import Stage

WORKER_PLACES = {"in_perform": 22, "before_ack": 10, "after_claim": 9, "before_commit": 9}
"""The failpoints of workers, with weights."""
RELAY_PLACES = {"relay_rows_marked": 5}
"""The failpoints that exist only with a message broker, with weights."""
PRODUCER_PLACES = {"after_insert": 4, "after_commit": 5}
SENDING_PLACES = {"before_publish": 4, "after_publish": 2}
OUTSIDE = {"at random": 18, "supervisor and process": 8, "supervisor, alone": 3, "producer, at random": 4}
"""The kills from outside, at any time, with weights."""
AT_LEAST = {"in_perform": 0.1, "before_ack": 0.02}
"""Minimum shares of the kills in the middle of `perform`, and between commit and acknowledgement."""
FIRST = ("in_perform", "before_ack", "at random")
"""The first places, before random ones, so that short runs have them too."""
FORGOTTEN_AFTER_S = 4.0
"""The time after which a kill order that no process has executed is withdrawn, in seconds."""
SPARED = 0.6
"""The share of the workers that must be running before one is killed, so that others can take over."""
OVERTIME = 1.5
"""The factor by which the time may be exceeded, if a busy machine starts workers too slowly."""
TIRED_AFTER = 3
"""The number of dead processes after which a supervisor is killed, because it would delay the next process."""


@attrs.frozen
class Plan:
    """The faults of a run.

    Attributes:
        seconds: The length of the run.
        kills: How many processes are killed.
        places: The kinds of kills, with weights.
        freezes: How often a worker is stopped for longer than its lease, and resumed.
        frozen_s: For how long.
        empties: How often the broker is emptied.
        shakes: How often the database is restarted or cut off.
        dooms: How many operations kill every worker that runs them.
        deploys: How often a worker is stopped gracefully and replaced.
    """

    seconds: float
    kills: int
    places: dict[str, int]
    freezes: int = 0
    frozen_s: float = 4.0
    empties: int = 0
    shakes: int = 0
    dooms: int = 0
    deploys: int = 0


def places_of(stage: Stage) -> dict[str, int]:
    """Return the kinds of kills that are possible on a stage, with weights."""
    places = {**WORKER_PLACES, **PRODUCER_PLACES, **OUTSIDE}
    return places if stage.broker is None else {**places, **RELAY_PLACES, **SENDING_PLACES}


class Director:
    """Executes a plan.

    Args:
        plan: The faults.
        fleet: The processes.
        stage: The database and the broker.
    """

    def __init__(self, plan: Plan, fleet: Fleet, stage: Stage) -> None:
        self._plan = plan
        self._fleet = fleet
        self._stage = stage
        self._ends_at = self._latest_end = 0.0
        self._next_kill_at = 0.0
        self._first = [place for place in FIRST if place in plan.places]
        self._open: dict[str, float] = {}
        self._agenda: list[tuple[float, Callable[[], bool]]] = []
        self.emptied: list[float] = []

    def begin(self) -> None:
        """Start the time of the plan."""
        now, plan = time.monotonic(), self._plan
        self._ends_at = now + plan.seconds
        self._latest_end = now + plan.seconds * OVERTIME
        self._next_kill_at = now + 0.5
        self._spread(plan.empties, self._empty, 0.15)
        self._spread(plan.shakes, self._shake, 0.0)
        self._spread(plan.freezes, self._freeze, 0.05)
        self._spread(plan.dooms, self._doom, 0.25)
        self._spread(plan.deploys, self._deploy, -0.3)

    def _spread(self, times: int, action: Callable[[], bool], shift: float) -> None:
        now = time.monotonic()
        for number in range(times):
            share = min(0.85, (number + 0.5 + shift) / times)
            self._agenda.append((now + share * self._plan.seconds, action))

    def is_over(self, has_enough: Callable[[], bool]) -> bool:
        """Whether the planned time has passed, and no process is frozen.

        Args:
            has_enough: Returns whether enough was enqueued; called when the planned time has passed.
        """
        now = time.monotonic()
        if now < self._ends_at:
            return False
        if now < self._latest_end and (self._kills_left() > 0 or not has_enough()):
            self._ends_at = now + 1.0
            return False
        return not self._fleet.frozen

    def _kills_left(self) -> int:
        return self._plan.kills - len(self._fleet.kills)

    def act(self) -> None:
        """Trigger the faults that are due."""
        now = time.monotonic()
        for item in [item for item in self._agenda if item[0] <= now]:
            self._agenda.remove(item)
            if not item[1]():
                self._agenda.append((now + 0.3, item[1]))
        self._fleet.thaw(self._plan.frozen_s)
        self._withdraw_kill_orders()
        num_left = self._kills_left()
        if num_left > 0 and self._next_kill_at <= now < self._ends_at and self._kill():
            # Spread the remaining kills over the remaining time, including replacements of failed ones.
            self._next_kill_at = now + max(0.25, (self._ends_at - now) / (num_left + 1)) * random.uniform(0.5, 1.3)

    def end(self) -> None:
        """Withdraw all kill orders, and resume all frozen processes."""
        for place in list(self._open):
            kill_orders.withdraw(self._fleet.folder, place)
        kill_orders.withdraw(self._fleet.folder, kill_orders.DOOM)
        self._fleet.thaw()

    def _withdraw_kill_orders(self) -> None:
        for place, since in list(self._open.items()):
            if any(death.place == place and death.at >= since for death in self._fleet.deaths):
                del self._open[place]
            elif time.time() - since > FORGOTTEN_AFTER_S:
                kill_orders.withdraw(self._fleet.folder, place)
                del self._open[place]

    def _kill(self) -> bool:
        ready = self._fleet.ready()
        # One kill order at a time: two could end the last worker.
        if self._open or not self._spares_one():
            return False
        if tired := [worker for worker in ready if worker.deaths >= TIRED_AFTER]:
            self._fleet.kill_supervisor(tired[0], alone=False)
            return True
        place = self._first.pop(0) if self._first else self._drawn()
        if place == "at random":
            self._fleet.kill(random.choice(ready), place)
        elif place.startswith("supervisor"):
            self._fleet.kill_supervisor(random.choice(ready), alone=place.endswith("alone"))
        elif place == "producer, at random":
            self._fleet.kill(random.choice(self._fleet.of("producer")), place)
        else:
            kill_orders.issue(self._fleet.folder, place)
            self._open[place] = time.time()
        return True

    def _drawn(self) -> str:
        """Choose a place with less than its minimum share, otherwise a random one."""
        kills = self._fleet.kills
        for place, share in AT_LEAST.items():
            if place in self._plan.places and sum(kill.place.startswith(place) for kill in kills) <= share * len(kills):
                return place
        return random.choices(list(self._plan.places), list(self._plan.places.values()))[0]

    def _empty(self) -> bool:
        if self._stage.empty is not None:
            self._stage.empty()
            self.emptied.append(time.time())
        return True

    def _shake(self) -> bool:
        if self._stage.shake is not None:
            self._stage.shake_database()
        return True

    def _doom(self) -> bool:
        kill_orders.issue(self._fleet.folder, kill_orders.DOOM)
        return True

    def _deploy(self) -> bool:
        if self._open or not self._spares_one():
            return False
        self._fleet.deploy(self._busiest(self._fleet.ready()))
        return True

    def _freeze(self) -> bool:
        if self._open or not self._spares_one():
            return False
        self._fleet.freeze(self._busiest(self._fleet.ready()))
        return True

    def _spares_one(self) -> bool:
        return len(self._fleet.ready()) >= max(2, SPARED * len(self._fleet.of("worker")))

    def _busiest(self, workers: list[Member]) -> Member:
        """Return the worker with most of the last runs: freezing an idle worker tests nothing."""
        started = Counter(int(words[2]) for words in Journal(CALLS, self._fleet.folder).lines()[-20:])
        return max(workers, key=lambda worker: started[worker.pid or 0])
