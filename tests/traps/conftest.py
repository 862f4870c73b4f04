"""Fixtures of the trap tests: the real path for most, real worker processes where a trap needs them."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "journeys"))

import harbour
from places import RESCUE_WITHIN_S, Place

import dexpy
from dexpy.runtime import install
from dexpy.testing import Isolated


@pytest.fixture
def place(tmp_path: Path) -> Generator[Place]:
    """A place of the test's own, with its database configured in this process."""
    found = Place(tmp_path)
    runtime = dexpy.configure(database=found.url, rescue_within=RESCUE_WITHIN_S)
    yield found
    install(None)
    found.close()
    runtime.close()


@pytest.fixture
def harbour_tables(test: Isolated) -> None:
    """The application's tables beside the records of an isolated runtime."""
    harbour.furnish(test.runtime.database_url)
