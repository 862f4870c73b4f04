"""The ``dexpy`` command with a wrong clock.

Usage: python shifted_clock.py SECONDS worker MODULE ...
"""

import sys

from dexpy.cli.main import run
from dexpy.foundation.clock import clock

if __name__ == "__main__":
    clock.advance(float(sys.argv[1]))
    run(sys.argv[2:])
