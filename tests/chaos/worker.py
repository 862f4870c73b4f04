"""The ``dexpy worker`` command with failpoints that kill it, and optionally with a disabled guarantee.

Usage: python -m chaos.worker [--die PLACE=PROBABILITY]... [--break PROMISE] -- ARGUMENTS OF dexpy worker
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from chaos.journal import FOLDER
from chaos.kill_orders import FailpointActions, chances
from dexpy.cli.main import run
from dexpy.foundation import failpoints

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--die", action="append", default=[])
    parser.add_argument("--break", dest="broken")
    parser.add_argument("rest", nargs="*")
    options = parser.parse_args()
    failpoints.reached = FailpointActions(Path(os.environ[FOLDER]), chances(options.die))
    # Imported by the worker process, before the application configures dexpy.
    modules = [*([f"chaos.broken.{options.broken.replace('-', '_')}"] if options.broken else []), "chaos.application"]
    sys.exit(run(["worker", *modules, *options.rest]))
