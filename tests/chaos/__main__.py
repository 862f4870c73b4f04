"""``make chaos``: kills workers and producers at random and at failpoints, and counts the effects.

    make chaos
    make chaos ARGS="--pair mariadb+rabbitmq --seconds 300 --operations 3000 --kills 100"
    make chaos ARGS="--break fence"
    make chaos-quick

The exit status is 0 if nothing was lost, doubled or late. ``--break`` makes one run without a guarantee of dexpy and
one with it: the exit status is 0 only if the first run shows the expected harm, and the second one none.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chaos.run import run
from chaos.scenario import HARM, Scenario, broken, under_fire, whole
from chaos.stage import PAIRS, Stage, missing, open_stage
from chaos.table import is_good, show

OPERATIONS_EACH_S = 10
"""The default number of operations per second."""
KILL_EVERY_S = 3
"""The default interval of kills, in seconds."""
BREAK_S = 6.0
"""How long a guarantee is disabled, in seconds."""
BROKEN_ON = "postgresql+redis"

Made = Callable[[Stage], Scenario]


def arguments() -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(prog="make chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", choices=PAIRS, default="postgresql+redis", metavar="PAIR", help=", ".join(PAIRS))
    parser.add_argument("--seconds", type=float, help="the duration of the run  [default: 60]")
    parser.add_argument("--operations", type=int, help="minimum number of operations  [default: 10 a second]")
    parser.add_argument("--kills", type=int, help="minimum number of kills  [default: one every 3 seconds]")
    parser.add_argument("--freezes", type=int, help="number of freezes, on a server  [default: one every 40 seconds]")
    parser.add_argument("--break", dest="broken", choices=HARM, help="disable a guarantee; harm is expected")
    parser.add_argument(
        "--isolation", default="", help="isolation level of runs on a server, for example 'REPEATABLE READ'"
    )
    parser.add_argument("--quick", action="store_true", help="two short runs and all breaks, in about two minutes")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[tuple[str, list[Made]]]:
    """Return the chosen pairs and their scenarios."""
    if options.quick:
        first: Made = lambda stage: under_fire(stage, 15, 150, 6)  # noqa: E731
        second: Made = lambda stage: under_fire(stage, 9, 90, 3)  # noqa: E731
        controls = [scenario for promise in HARM for scenario in controlled(promise, BREAK_S)]
        return [(BROKEN_ON, [first, *controls]), ("sqlite+sql", [second])]
    if options.broken:
        return [(options.pair, controlled(options.broken, options.seconds or BREAK_S))]
    seconds = options.seconds or 60.0
    operations = options.operations if options.operations is not None else round(seconds * OPERATIONS_EACH_S)
    kills = options.kills if options.kills is not None else round(seconds / KILL_EVERY_S)
    return [(options.pair, [lambda stage: under_fire(stage, seconds, operations, kills, options.freezes)])]


def controlled(promise: str, seconds: float) -> list[Made]:
    """Return a scenario without a guarantee, and the same with it."""
    return [lambda stage: broken(stage, promise, seconds), lambda stage: whole(stage, promise, seconds)]


def main() -> int:
    """Run the chosen scenarios, and print the tables."""
    options = arguments()
    began = time.monotonic()
    # Exit normally, so that the servers and processes of the run are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    runs = chosen(options)
    for pair, _ in runs:
        if (why := missing(pair)) is not None:
            print(f"{pair} cannot be tested here: {why}", file=sys.stderr)
            return 2
        if options.broken == "fence" and pair.startswith("sqlite"):
            print(
                "On SQLite a frozen worker keeps its runs, so no fence is needed. Choose another pair.", file=sys.stderr
            )
            return 2
    decisions: list[str] = []
    # Read by the application; see `chaos.application.sessions`.
    os.environ["CHAOS_ISOLATION"] = options.isolation
    for pair, scenarios in runs:
        with contextlib.ExitStack() as stack:
            home = Path(tempfile.mkdtemp(prefix="chaos-"))
            if options.keep:
                print(f"logs in {home}", flush=True)
            else:
                stack.enter_context(_removed(home))
            stage = stack.enter_context(open_stage(pair, home))
            for number, make in enumerate(scenarios):
                folder = home / str(number)
                folder.mkdir()
                decisions.append(show(run(make(stage), stage, folder)))
    print("\n" + "\n".join(decisions))
    print(f"\n{time.monotonic() - began:.0f} s in all.")
    return 0 if all(map(is_good, decisions)) else 1


@contextlib.contextmanager
def _removed(folder: Path):  # type: ignore[no-untyped-def]
    import shutil

    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
