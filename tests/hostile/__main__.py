"""``make hostile``: hostile messages in the broker and hostile rows in the database, and their effect.

    make hostile
    make hostile ARGS="--pair postgresql+redis --seconds 300"
    make hostile ARGS="--pair sqlite+sql --seed 7"
    make hostile-quick

One line for each pair. Ends with 0 when no canary was late, nothing was left running, nothing died, and neither CPU nor
log ran away. ``--quick`` is a short run on each pair, and one with the validator taken out, which must not be good.
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
    parser.add_argument("--seconds", type=float, default=60.0, help="how long on each pair  [default: 60]")
    parser.add_argument("--seed", type=int, help="makes a run again  [default: another one each time]")
    parser.add_argument("--control", action="store_true", help="take the validator out: the canary has to be late")
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
        print(f"{pair:18} without the validator: {'; '.join(faults) or 'good, so that this suite proves nothing'}")
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
    """Why a pair cannot be had here."""
    for server in pair.split("+"):
        if server not in ("sqlite", "sql") and (why := servers.absent(server)) is not None:
            return f"no {server}: {why}"
    return None


def shown(outcome: Outcome) -> bool:
    """Print an outcome; whether it is good."""
    print(outcome, flush=True)
    return not list(outcome.faults())


if __name__ == "__main__":
    sys.exit(main())
