"""Which tests of a run with several processes (``pytest -n 4``) stay together.

What a fixture of a whole file has made, a pair of servers with its workers for one, is made once if the tests that
share it run in one process. All others go wherever there is room, the largest groups first.
"""

from __future__ import annotations

import re
from typing import Any

SHARING = ("test_pairs.py", "test_dexkit_async_page.py", "test_endings.py", "test_checkers.py")
"""Files whose tests share what a fixture of the file has made, once for each of its parameters."""
PARAMETER = re.compile(r"(sqlite|postgresql|mariadb)\+(sql|redis|rabbitmq)|mypy|pyright")
"""The parameter of such a fixture, in the ids of tests."""


def group_of(test_id: str) -> str:
    """What a test belongs to: it and all others of the same group run in one process, one after another."""
    file, _, name = test_id.partition("::")
    if not file.endswith(SHARING):
        return test_id
    given = PARAMETER.search(name.partition("[")[2])
    return f"{file} {given[0] if given else ''}"


def scheduler(config: Any, log: Any) -> Any:
    """For pytest-xdist. Its own groups are those of a mark, which pytest 9.2 hides from it."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)
