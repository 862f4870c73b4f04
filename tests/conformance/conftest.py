"""Fixtures of the conformance suite: a pair of database and broker for all tests of a file, or for one."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "journeys"))

from pairs import PAIRS, Pair, opened

from dexpy.runtime import install

REDIS_ALONE = "sqlite+redis"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs servers, but for a part that needs only a Redis: those are for every machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not is_for_every_machine(item):
            item.add_marker(pytest.mark.servers)


def is_for_every_machine(item: pytest.Item) -> bool:
    """Whether a test says so, and this time is on nothing but SQLite and Redis."""
    given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return item.get_closest_marker("anywhere") is not None and given.get("served_pair", REDIS_ALONE) == REDIS_ALONE


@pytest.fixture(scope="module", params=PAIRS)
def served_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    """Every pair in turn, with two worker processes that serve all queues."""
    with opened(request.param, tmp_path_factory.mktemp("pair")) as found:
        found.configure()
        found.start(processes=2, threads=4)
        yield found
    install(None)


@pytest.fixture
def pair(served_pair: Pair) -> Generator[Pair]:
    """The served pair, in force for one test."""
    install(served_pair.runtime)
    yield served_pair
    install(None)


@pytest.fixture
def own_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Pair]:
    """A pair for one test, named by an indirect parameter; nothing serves it yet."""
    with opened(request.param, tmp_path) as found:
        found.configure()
        yield found
    install(None)
