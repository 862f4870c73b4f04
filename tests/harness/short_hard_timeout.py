"""The ``dexpy`` command that fails runs soon after their timeout if no exception can interrupt them.

Usage: python short_hard_timeout.py HARD_AFTER_S worker MODULE ...
"""

import sys

from dexpy.cli.main import run
from dexpy.worker import watchdog

if __name__ == "__main__":
    watchdog.HARD_AFTER_S = float(sys.argv[1])
    run(sys.argv[2:])
