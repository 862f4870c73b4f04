"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import distribution
import pytest

from dexpy.configuration.loading import command_flags
from dexpy.configuration.settings import command_modules
from dexpy.configuration.table import SETTINGS
from dexpy.declaration import registry
from dexpy.runtime import install
from dexpy.testing import Isolated, isolated

# A shell that starts pytest in the background ignores SIGINT for it, and every process of a test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n 4``, run the tests that share a fixture in one process."""
    return distribution.scheduler(config, log)


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[None]:
    """Isolate each test from settings of the machine and of other tests, in its own working folder."""
    monkeypatch.chdir(tmp_path)
    for setting in SETTINGS.values():
        monkeypatch.delenv(setting.variable, raising=False)
    previous = install(None)
    yield
    install(previous)
    command_modules.set(())
    command_flags.set({})


@pytest.fixture
def isolated_runtime() -> Generator[Isolated]:
    """A runtime on a new SQLite file."""
    with isolated() as runtime:
        yield runtime


@pytest.fixture
def no_operations_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the operations of other tests from a command that runs in this process and checks all operations."""
    monkeypatch.setattr(registry, "_by_name", {})


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment for a process that a test starts."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("DEXPY_")}
    return variables | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
