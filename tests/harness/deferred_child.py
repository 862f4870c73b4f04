"""A process that defers or performs a call, and is killed at the first failpoint that it reaches.

Usage: python deferred_child.py FOLDER POINTS defer TOKEN
       python deferred_child.py FOLDER POINTS perform ID
"""

from __future__ import annotations

import sys
from pathlib import Path

from apps import shop_deferred

import dexpy
from dexpy.foundation import failpoints
from harness.die_at_failpoints import FailpointActions

if __name__ == "__main__":
    folder, points, action, subject = sys.argv[1:]
    failpoints.reached = FailpointActions(Path(folder), points).reach
    if action == "defer":
        ticket = dexpy.defer(shop_deferred.OrderClient.fulfill, order_number=1, idempotence_token=subject)
        print(ticket.id, ticket.duplicate)
    else:
        print(dexpy.records.get(subject).perform().status)
