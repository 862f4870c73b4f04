"""Which tests of a run with several processes (``pytest -n 4``) run in the same process.

A fixture of a whole file, e.g. a pair of servers with its workers, is made once if the tests that share it run in
one process; so are the parsed files of the package. All other tests go to any process, the largest groups first.
"""

from __future__ import annotations

import re
from typing import Any

SHARING = (
    "test_pairs.py",
    "test_rabbitmq_servers.py",
    "test_dexkit_async_page.py",
    "test_timeouts_and_cancellation.py",
    "test_checkers.py",
    "test_hostile_messages.py",
    "test_workers_and_the_process.py",
    "test_forks_inside_runs.py",
    "test_ends_of_runs.py",
    "test_architecture.py",
    "test_journeys.py",
    "test_log_catalog.py",
    "test_style.py",
)
"""Files whose tests share a fixture of the file, made once for each of its parameters, or read the same files."""
MANY_PROCESSES = "test_server_kills.py"
"""A file whose tests start up to nine worker processes: two at once need more connections than PostgreSQL allows."""
PARAMETER = re.compile(r"(sqlite|postgresql|mariadb)\+(sql|redis|rabbitmq|quorum)|mypy|pyright")
"""The parameter of such a fixture, in the ids of tests."""


def group_of(test_id: str) -> str:
    """Return the group of a test: tests of one group run in one process, one after another."""
    file, _, name = test_id.partition("::")
    if file.endswith(MANY_PROCESSES) and "postgresql" in name:
        return f"{MANY_PROCESSES} postgresql"
    if not file.endswith(SHARING):
        return test_id
    parameter = PARAMETER.search(name.partition("[")[2])
    return f"{file} {parameter[0] if parameter else ''}"


def scheduler(config: Any, log: Any) -> Any:
    """Return the scheduler for pytest-xdist, whose own groups by a mark do not work with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)
