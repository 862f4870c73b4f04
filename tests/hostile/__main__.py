"""``make hostile``: send hostile messages and rows, and measure their effect on a worker.

    make hostile
    make hostile ARGS="--pair postgresql+redis --seconds 300"
    make hostile ARGS="--pair sqlite+sql --seed 7"
    make hostile-quick

Prints one line for each pair. The exit status is 0 if no canary was late, no record is left running, no thread or
process died, and CPU and log stayed within their limits.
``--quick`` makes a short run on each pair, and a control without the validator, which must have faults.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import servers

from hostile.run import Outcome, run
from hostile.stage import PAIRS

QUICK_S = 5.0
CONTROL_S = 30.0


def arguments() -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(prog="make hostile", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", choices=PAIRS, action="append", metavar="PAIR", help=", ".join(PAIRS))
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds on each pair  [default: 60]")
    parser.add_argument("--seed", type=int, help="repeat the run with this seed  [default: a new seed]")
    parser.add_argument("--control", action="store_true", help="disable the validator; a fault is expected")
    parser.add_argument("--quick", action="store_true", help="each pair and the control, in about a minute")
    parser.add_argument("--keep", action="store_true", help="keep the folders with the logs")
    return parser.parse_args()


def main() -> int:
    """Run the chosen pairs, and return the exit status."""
    options = arguments()
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    is_good = True
    for pair in options.pair or PAIRS:
        if (why := missing(pair)) is not None:
            print(f"{pair:18} not run: {why}", flush=True)
            is_good = False
            continue
        if not options.control:
            is_good &= shown(attempt(options, pair, QUICK_S if options.quick else options.seconds, seed))
    if options.control or options.quick:
        pair = (options.pair or PAIRS)[0]
        control = attempt(options, pair, CONTROL_S, seed, validates=False)
        faults = list(control.faults())
        print(f"{pair:18} without the validator: {'; '.join(faults) or 'good, but a fault was expected'}")
        is_good &= bool(faults)
    return 0 if is_good else 1


def attempt(options: argparse.Namespace, pair: str, seconds: float, seed: int, *, validates: bool = True) -> Outcome:
    """Run once, in a new folder."""
    folder = Path(tempfile.mkdtemp(prefix="dexpy-hostile-"))
    try:
        return run(pair, seconds, seed, folder, validates=validates)
    finally:
        if options.keep:
            print(f"{pair:18} {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def missing(pair: str) -> str | None:
    """Return why a pair cannot be tested here; None if it can."""
    for server in pair.split("+"):
        if server not in ("sqlite", "sql") and (why := servers.absent(server)) is not None:
            return f"no {server}: {why}"
    return None


def shown(outcome: Outcome) -> bool:
    """Print an outcome; return whether it has no faults."""
    print(outcome, flush=True)
    return not list(outcome.faults())


if __name__ == "__main__":
    sys.exit(main())
