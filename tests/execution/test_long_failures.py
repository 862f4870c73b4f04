"""The end of a run is stored even if the details of its failure are long."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dexpy import Operation, records
from dexpy.database.tables import records as table
from dexpy.testing import Isolated

MOST_BYTES = 65_535
"""The size limit of a text column in MariaDB."""


class Deep(Operation):
    """Recurses until its traceback is longer than the column."""

    def perform(self) -> int:
        # The name of the file is as long as that of a file in a virtual environment.
        scope: dict[str, Any] = {}
        exec(compile("def fall(n): return fall(n + 1)", f"/srv/{'lib/' * 30}deep.py", "exec"), scope)  # noqa: S102
        return int(scope["fall"](0))


class Wide(Operation):
    numbers: list[int]

    def perform(self) -> int:
        return sum(self.numbers)


def test_a_run_that_recurses_too_deeply_fails_and_its_frames_are_cut(isolated_runtime: Isolated) -> None:
    ticket = Deep().async_().call()
    isolated_runtime.run_pending()

    assert (ticket.reload().status, ticket.failure) == ("failed", "crash")
    (attempt,) = records.attempts(ticket.id)
    assert attempt.error == "RecursionError"
    assert attempt.traceback is not None
    assert 1000 < len(attempt.traceback.encode()) < MOST_BYTES
    assert attempt.traceback.splitlines()[0].endswith(" perform"), "the first frame is kept"
    assert attempt.traceback.splitlines()[-1].endswith(" fall"), "the last frame is kept"


def test_params_with_thousands_of_problems_produce_a_message_of_limited_length(isolated_runtime: Isolated) -> None:
    ticket = Wide(numbers=[1]).async_().call()
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.update(table).values(params={"numbers": ["one"] * 5000}))
    isolated_runtime.run_pending()

    assert (ticket.reload().status, ticket.failure) == ("failed", "undecodable")
    assert len((records.get(ticket.id).error_message or "").encode()) < MOST_BYTES
