"""Fixtures of the journeys: a folder with a database, and workers that are gone when the test is."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import shop as application
import sqlalchemy as sa
from workers import Shop

import dexpy
from dexpy.runtime import install

sys.path.append(str(Path(__file__).parents[1] / "conformance"))

from pairs import PAIRS, Pair, opened

BARE = "sqlite+sql"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Shop]:
    """A shop of the test's own, with its database configured in this process."""
    place = Shop(tmp_path)
    engine = sa.create_engine(place.url)
    application.furnish(engine)
    engine.dispose()
    monkeypatch.chdir(tmp_path)
    runtime = dexpy.configure(database=place.url)
    yield place
    place.close()
    runtime.close()


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[] if name == BARE else pytest.mark.servers) for name in PAIRS]
)
def pair_name(request: pytest.FixtureRequest) -> str:
    """Every pair of a database and a broker in turn; the one that needs no server is for every machine."""
    return str(request.param)


@pytest.fixture(scope="module")
def open_shop(pair_name: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    """A shop for all tests of a file, with one worker that serves all queues."""
    with opened(pair_name, tmp_path_factory.mktemp("shop"), application) as place:
        place.configure()
        place.start(threads=4)
        yield place
    install(None)


@pytest.fixture(scope="module")
def closed_shop(pair_name: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    """A shop for all tests of a file that nobody serves."""
    with opened(pair_name, tmp_path_factory.mktemp("closed"), application) as place:
        place.configure()
        yield place
    install(None)


@pytest.fixture
def served(open_shop: Pair) -> Generator[Pair]:
    """The shop with the worker, in force for one test."""
    install(open_shop.runtime)
    yield open_shop
    install(None)


@pytest.fixture
def unserved(closed_shop: Pair) -> Generator[Pair]:
    """The shop without one, in force for one test."""
    install(closed_shop.runtime)
    yield closed_shop
    install(None)
