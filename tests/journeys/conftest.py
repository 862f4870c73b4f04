"""Fixtures of the journeys: a folder with a database, and workers that are gone when the test is."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import sqlalchemy as sa
from apps import accounts as application
from harness.pairs import PAIRS, Pair, open_pair
from harness.workers import Deployment

import dexpy
from dexpy.runtime import install

BARE = "sqlite+sql"


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Deployment]:
    """A deployment for one test, with its database configured in this process."""
    deployment = Deployment(tmp_path)
    engine = sa.create_engine(deployment.url)
    application.create_tables(engine)
    engine.dispose()
    monkeypatch.chdir(tmp_path)
    runtime = dexpy.configure(database=deployment.url)
    yield deployment
    deployment.close()
    runtime.close()


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[] if name == BARE else pytest.mark.servers) for name in PAIRS]
)
def pair_name(request: pytest.FixtureRequest) -> str:
    """Every pair of a database and a broker in turn; the one that needs no server is for every machine."""
    return str(request.param)


@pytest.fixture(scope="module")
def served_deployment(pair_name: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    """A deployment for all tests of a file, with one worker that serves all queues."""
    with open_pair(pair_name, tmp_path_factory.mktemp("shop"), application) as deployment:
        deployment.configure()
        deployment.start(threads=4)
        yield deployment
    install(None)


@pytest.fixture(scope="module")
def unserved_deployment(pair_name: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    """A deployment for all tests of a file, without a worker."""
    with open_pair(pair_name, tmp_path_factory.mktemp("closed"), application) as deployment:
        deployment.configure()
        yield deployment
    install(None)


@pytest.fixture
def served(served_deployment: Pair) -> Generator[Pair]:
    """The deployment with the worker, current for one test."""
    install(served_deployment.runtime)
    yield served_deployment
    install(None)


@pytest.fixture
def unserved(unserved_deployment: Pair) -> Generator[Pair]:
    """The deployment without a worker, current for one test."""
    install(unserved_deployment.runtime)
    yield unserved_deployment
    install(None)
