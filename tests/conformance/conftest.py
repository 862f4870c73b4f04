"""Fixtures of the conformance suite: a pair of a database and a broker for each file, or for each test."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from harness.pairs import PAIRS, Pair, open_pair

from dexpy.runtime import install

QUORUM = "postgresql+quorum"
"""RabbitMQ with quorum queues, for the tests of ``test_pairs.py`` only."""
REDIS_ALONE = "sqlite+redis"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder with ``servers``, except those that also run on every machine."""
    items[:] = [item for item in items if param_of(item) != QUORUM or item.path.name == "test_pairs.py"]
    for item in items:
        if Path(__file__).parent in item.path.parents and not is_for_every_machine(item):
            item.add_marker(pytest.mark.servers)


def is_for_every_machine(item: pytest.Item) -> bool:
    """Whether a test has the mark ``anywhere`` and its parameter needs no server except the tests' own Redis."""
    return item.get_closest_marker("anywhere") is not None and param_of(item) == REDIS_ALONE


def param_of(item: pytest.Item) -> object:
    """Return the name of the pair that a test is run on."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return params.get("served_pair", REDIS_ALONE)


@pytest.fixture(scope="module", params=[*PAIRS, QUORUM])
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
