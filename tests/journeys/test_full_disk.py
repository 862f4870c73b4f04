"""A SQLite database on a full disk: an enqueue raises one error, workers wait and continue, and nothing is lost.

A limit on the size of the files of a process stands for the full disk: SQLite gets an error at the same writes.
"""

from __future__ import annotations

import contextlib
import resource
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
import sqlalchemy as sa
from apps.shop import Count
from harness.pairs import open_pair
from harness.workers import eventually

from dexpy.database.tables import records
from dexpy.errors import DatabaseUnavailable
from dexpy.runtime import install

FULL_AT_BYTES = 16 * 1024
"""No file of the process grows beyond this size; the write-ahead log of SQLite reaches it after a few commits."""


@contextlib.contextmanager
def full_disk(pid: int) -> Generator[None]:
    """Let no write of a process enlarge its files."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL_AT_BYTES, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_stops_workers_only_while_it_is_full(tmp_path: Path) -> None:
    with open_pair("sqlite+sql", tmp_path) as pair:
        try:
            pair.configure()
            worker = pair.start(processes=1, threads=2)
            (child,) = worker.children()
            with full_disk(child):
                for number in range(20):
                    Count(number=number).async_().call()
                num_unfinished = sa.select(sa.func.count()).where(records.c.status != "done")
                eventually(lambda: "Free disk space" in worker.output(), "the worker waits", 30, worker.output)
                assert pair.sql(num_unfinished) != [(0,)]
            eventually(lambda: pair.sql(num_unfinished) == [(0,)], "all are done", 60, pair.output)
            assert Counter(pair.effects()) == Counter(f"count {number}" for number in range(20))
            assert set(pair.sql(sa.select(records.c.num_lost))) == {(0,)}
            assert worker.children() == [child], "the process has survived"
        finally:
            install(None)


def test_an_enqueue_on_a_full_disk_raises_one_error_and_stores_nothing(tmp_path: Path) -> None:
    with open_pair("sqlite+sql", tmp_path) as pair:
        try:
            pair.configure()
            Count(number=0).async_().call()
            with full_disk(0), pytest.raises(DatabaseUnavailable, match="Cannot write to sqlite:.*Free disk space"):
                for number in range(1, 20):
                    Count(number=number).async_().call()
            num_stored = pair.sql(sa.select(sa.func.count(records.c.id)))[0][0]
            assert num_stored == pair.sql("SELECT count(*) FROM dexpy_messages")[0][0] < 20
            Count(number=20).async_().call()
            assert pair.sql(sa.select(sa.func.count(records.c.id))) == [(num_stored + 1,)]
        finally:
            install(None)
