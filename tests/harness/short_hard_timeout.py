"""``dexpy`` as it is, but giving up soon on runs that nothing gets into: what is stuck in a test is stuck for seconds.

Usage: python short_hard_timeout.py HARD_AFTER_S worker MODULE ...
"""

import sys

from dexpy.cli.main import run
from dexpy.worker import watchdog

if __name__ == "__main__":
    watchdog.HARD_AFTER_S = float(sys.argv[1])
    run(sys.argv[2:])
