"""Fixtures of the journeys: a folder with a database, and workers that are gone when the test is."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import shop as application
import sqlalchemy as sa
from workers import Shop

import dexpy
from dexpy.runtime import install


def furnish(place: Shop) -> None:
    """The application's own tables, with a few rows."""
    engine = sa.create_engine(place.url)
    application.Model.metadata.create_all(engine)
    with engine.begin() as connection:
        people = [{"id": 7, "name": "Ada"}, {"id": 8, "name": "Ben"}, {"id": 9, "name": "Cy"}]
        connection.execute(sa.insert(application.Customer), people)
        connection.execute(sa.insert(application.Order), [{"shop": "north", "number": 3, "customer_id": 7}])
    engine.dispose()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Shop]:
    """A shop of the test's own, with its database configured in this process."""
    place = Shop(tmp_path)
    furnish(place)
    monkeypatch.chdir(tmp_path)
    runtime = dexpy.configure(database=place.url)
    yield place
    place.close()
    runtime.close()


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shop]:
    """A shop for all tests of a file, with one worker that serves all queues."""
    place = Shop(tmp_path_factory.mktemp("shop"))
    furnish(place)
    place.start(threads=4)
    yield place
    place.close()


@pytest.fixture
def served(open_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Generator[Shop]:
    """The shop with the worker, its database configured in this process for one test."""
    monkeypatch.chdir(open_shop.folder)
    runtime = dexpy.configure(database=open_shop.url)
    yield open_shop
    install(None)
    runtime.close()
