"""Fixtures of the journeys: deployments whose workers end with the test."""

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
    """Yield a deployment for one test, with its database configured in this process."""
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
    """The name of each pair of a database and a broker; all but one need servers."""
    return str(request.param)


@pytest.fixture(scope="module")
def served_deployment(pair_name: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    """Yield a deployment for all tests of a file, with one worker that serves all queues."""
    with open_pair(pair_name, tmp_path_factory.mktemp("shop"), application) as deployment:
        deployment.configure()
        deployment.start(threads=4)
        yield deployment
    install(None)


@pytest.fixture(scope="module")
def unserved_deployment(pair_name: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    """Yield a deployment for all tests of a file, without a worker."""
    with open_pair(pair_name, tmp_path_factory.mktemp("closed"), application) as deployment:
        deployment.configure()
        yield deployment
    install(None)


@pytest.fixture
def served(served_deployment: Pair) -> Generator[Pair]:
    """Yield the deployment with a worker, with its runtime installed for one test."""
    install(served_deployment.runtime)
    yield served_deployment
    install(None)


@pytest.fixture
def unserved(unserved_deployment: Pair) -> Generator[Pair]:
    """Yield the deployment without a worker, with its runtime installed for one test."""
    install(unserved_deployment.runtime)
    yield unserved_deployment
    install(None)
