"""Fixtures of the tests of the public interface."""

from __future__ import annotations

import pytest

from dexpy.testing import Isolated

from .shop import Shop


@pytest.fixture
def shop(isolated_runtime: Isolated) -> Shop:
    """Create the shop's empty tables in the database of the records."""
    return Shop(isolated_runtime)
