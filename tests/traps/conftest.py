"""Fixtures of the trap tests: most run in this process, some need real worker processes."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from apps import mailer
from harness.trap_workers import RECOVER_WITHIN_S, TrapDeployment

import dexpy
from dexpy.runtime import install
from dexpy.testing import Isolated


@pytest.fixture
def deployment(tmp_path: Path) -> Generator[TrapDeployment]:
    """A deployment for one test, with its database configured in this process."""
    trap_deployment = TrapDeployment(tmp_path)
    runtime = dexpy.configure(database=trap_deployment.url, recover_within=RECOVER_WITHIN_S)
    yield trap_deployment
    install(None)
    trap_deployment.close()
    runtime.close()


@pytest.fixture
def mailer_tables(isolated_runtime: Isolated) -> None:
    """Create the application's tables in the database of an isolated runtime."""
    mailer.create_tables(isolated_runtime.runtime.database_url)
