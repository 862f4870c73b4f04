"""Fixtures of the conformance suite: a pair of a database and a broker for each file, or for each test."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from harness.pairs import PAIRS, Pair, open_pair

from dexpy.runtime import install

REDIS_ALONE = "sqlite+redis"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder with ``servers``, except those that also run on every machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not is_for_every_machine(item):
            item.add_marker(pytest.mark.servers)


def is_for_every_machine(item: pytest.Item) -> bool:
    """Whether a test has the mark ``anywhere`` and its parameter needs no server except the tests' own Redis."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return item.get_closest_marker("anywhere") is not None and params.get("served_pair", REDIS_ALONE) == REDIS_ALONE


@pytest.fixture(scope="module", params=PAIRS)
def served_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    """Yield each pair, with two worker processes that serve all queues."""
    with open_pair(request.param, tmp_path_factory.mktemp("pair")) as pair:
        pair.configure()
        pair.start(processes=2, threads=4)
        yield pair
    install(None)


@pytest.fixture
def pair(served_pair: Pair) -> Generator[Pair]:
    """Yield the pair with workers, with its runtime installed for one test."""
    install(served_pair.runtime)
    yield served_pair
    install(None)


@pytest.fixture
def own_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Pair]:
    """Yield a pair without a worker for one test; the parameter is its name."""
    with open_pair(request.param, tmp_path) as pair:
        pair.configure()
        yield pair
    install(None)
