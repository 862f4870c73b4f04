"""The journeys: files and functions of dexpy that one operation on SQLite passes through, once everything is warm.

A contributor who has to learn how a call, an enqueue or a run works reads these files: the fewer the better, as long
as no guarantee and no clarity is lost. A journey may get shorter, and its limit with it; one that gets longer needs a
reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dexpy
from dexpy import Operation

PACKAGE = f"{Path(dexpy.__file__).parent}{os.sep}"
WARM_UP = 3
LIMITS = {
    "call": (22, 80),
    "enqueue": (22, 90),
    "run": (28, 156),
}
"""Of each journey, so many files and calls of functions."""

Journey = dict[str, dict[str, int]]
"""The functions of each file, with how often each was called."""


class Add(Operation, name="journeys.add"):
    """What each journey is measured with."""

    a: int
    b: int

    def perform(self) -> int:
        return self.a + self.b


def journey_of(action: Callable[[], object]) -> Journey:
    """The files and functions of dexpy that an action passes through, in the order in which it comes to them."""
    calls: dict[str, Counter[str]] = {}

    def note(frame: Any, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            calls.setdefault(code.co_filename.removeprefix(PACKAGE), Counter())[code.co_qualname] += 1

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return {file: dict(functions) for file, functions in calls.items()}


def measured() -> dict[str, Journey]:
    """The three journeys, in the working folder of this process."""
    runtime = dexpy.configure(database="sqlite:///journeys.db")
    add = Add(a=1, b=2)
    for _ in range(WARM_UP):
        add.call()
        add.async_().call()
    journeys = {"call": journey_of(add.call), "enqueue": journey_of(lambda: add.async_().call())}
    broker: Any = runtime.broker
    while (message := broker.claim()) is not None:
        actor = broker.get_actor(message.actor_name)
        broker.emit_before("process_message", message)
        # The last one, when everything is warm.
        journeys["run"] = journey_of(lambda: actor(*message.args, **message.kwargs))  # noqa: B023 - called at once
        broker.emit_after("process_message", message)
        message.ack()
    runtime.close()
    return journeys


@pytest.fixture(scope="module")
def journeys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Journey]:
    """The journeys in a process of their own, which no other test has changed."""
    folder = tmp_path_factory.mktemp("journeys")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEXPY_")}
    process = subprocess.run(
        [sys.executable, __file__], cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    journeys: dict[str, Journey] = json.loads(process.stdout)
    return journeys


@pytest.mark.parametrize("name", LIMITS)
def test_a_journey_stays_within_its_limits(journeys: dict[str, Journey], name: str) -> None:
    journey = journeys[name]

    files, calls = len(journey), sum(sum(functions.values()) for functions in journey.values())

    assert files <= LIMITS[name][0], journey
    assert calls <= LIMITS[name][1], journey


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured()))
