"""The ``dexpy`` command; the database ends all connections during the next relay pass after a file was created.

Usage: python cut_connections.py FILE worker MODULE ...

The process deletes FILE, ends the connections and prints their number.
"""

import os
import sys
from pathlib import Path

import servers

from dexpy.cli.main import run
from dexpy.foundation import failpoints

if __name__ == "__main__":
    trigger = Path(sys.argv[1])

    def cut_connections(name: str) -> None:
        if name == "relay_rows_marked" and trigger.exists():
            trigger.unlink()
            with servers.cutting(os.environ["DEXPY_DATABASE"]) as cut_all:
                print(f"the database has cut {cut_all()} connections", file=sys.stderr, flush=True)

    failpoints.reached = cut_connections
    run(sys.argv[2:])
