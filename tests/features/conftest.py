"""Fixtures of the tests through the public face."""

from __future__ import annotations

import pytest

from dexpy.testing import Isolated

from .shop import Shop


@pytest.fixture
def shop(isolated_runtime: Isolated) -> Shop:
    """The shop's tables, empty, beside the records."""
    return Shop(isolated_runtime)
