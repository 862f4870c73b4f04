"""A pair of a database and a broker for one test, with workers of the shop that recover lost runs soon."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from apps import shop
from harness.policy_workers import PolicyPair, open_pair

from dexpy.runtime import install


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[PolicyPair]:
    """A pair, configured in this process; the parameter is its name."""
    with open_pair(request.param, tmp_path, shop) as policy_pair:
        policy_pair.configure()
        yield policy_pair
    install(None)
