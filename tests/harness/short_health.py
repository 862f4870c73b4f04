"""The ``dexpy`` command whose health reacts within a second or two.

Usage: python short_health.py worker MODULE ...
"""

import sys

from dexpy.cli.main import run
from dexpy.worker import child, health

if __name__ == "__main__":
    health.REPORT_EVERY_S = 0.1
    health.FETCH_LATE_S = 1.0
    child.REPORT_LATE_S = 1.5
    run(sys.argv[1:])
