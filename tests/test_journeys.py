"""Journeys: the files and functions of dexpy that one operation on SQLite passes through after a warm-up.

A contributor reads these files to learn how a call, an enqueue or a run works, so they should be few. When a journey
becomes shorter, lower its limit; a longer journey needs a reason.
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
"""The limits of files and of function calls of each journey."""

Journey = dict[str, dict[str, int]]
"""File to its functions and the number of their calls."""


class Add(Operation, name="journeys.add"):
    """The operation of each journey."""

    a: int
    b: int

    def perform(self) -> int:
        return self.a + self.b


def journey_of(action: Callable[[], object]) -> Journey:
    """Return the files and functions of dexpy that an action passes through, in order."""
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
    """Measure the three journeys, with a database in the working folder."""
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
        # The journey of the last run is kept, after the warm-up.
        journeys["run"] = journey_of(lambda: actor(*message.args, **message.kwargs))  # noqa: B023 - called at once
        broker.emit_after("process_message", message)
        message.ack()
    runtime.close()
    return journeys


@pytest.fixture(scope="module")
def journeys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Journey]:
    """The journeys, measured in a separate process that no other test has changed."""
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
