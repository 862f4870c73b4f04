"""``dexpy`` as it is, but looking again soon at what it does not know: a deploy in a test takes seconds.

Usage: python hasty.py GRACE_S worker MODULE ...
"""

import sys

from dexpy.background import unknown
from dexpy.cli.main import run

if __name__ == "__main__":
    unknown.PATIENCE = unknown.Patience(first_wait_s=0.2, longest_wait_s=0.5, grace_s=float(sys.argv[1]))
    run(sys.argv[2:])
