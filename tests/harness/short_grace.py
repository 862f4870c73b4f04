"""The ``dexpy`` command with short intervals for unknown operations, so that tests of deploys take seconds.

Usage: python short_grace.py SHUTDOWN_GRACE_S worker MODULE ...
"""

import sys

from dexpy.cli.main import run
from dexpy.worker import unknown_operations

if __name__ == "__main__":
    grace_s = float(sys.argv[1])
    unknown_operations.DEFAULT_POLICY = unknown_operations.UnknownPolicy(
        first_wait_s=0.2, longest_wait_s=0.5, grace_s=grace_s
    )
    run(sys.argv[2:])
