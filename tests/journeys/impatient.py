"""``dexpy`` as it is, but giving up soon on runs that nothing gets into: what is stuck in a test is stuck for seconds.

Usage: python impatient.py HARD_AFTER_S worker MODULE ...
"""

import sys

from dexpy.background import watch
from dexpy.cli.main import run

if __name__ == "__main__":
    watch.HARD_AFTER_S = float(sys.argv[1])
    run(sys.argv[2:])
