"""``dexpy worker --dry-run``: what a worker would run, and the status with which it would exit."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dexpy.cli.main import main
from dexpy.database.tables import workers
from dexpy.errors import ConfigurationError
from dexpy.runtime import install

pytestmark = pytest.mark.usefixtures("no_operations_of_other_tests")

SHOP = """
import dexpy
from dexpy import Async, Every, Operation


class Greet(Operation, name="shop.Greet"):
    def perform(self) -> None: ...


class Mail(Operation, name="shop.Mail"):
    async_ = Async(queue="mail")

    def perform(self) -> None: ...


class Route(Operation, name="shop.Route"):
    async_ = Async(queue=lambda operation: "default")

    def perform(self) -> None: ...


class Restock(Operation, name="shop.Restock"):
    schedule = Every("15 minutes")

    def perform(self) -> None: ...
"""
GROUPS = """
[[workers]]
name = "fast"
queues = ["default"]
threads = 5
processes = 2
[[workers]]
name = "slow"
queues = ["low"]
threads = 1
processes = 1
[recurring.sync]
class = "shop.Greet"
schedule = "every day at 3am"
[health]
port = 9090
"""


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("shop", None)
    yield tmp_path
    sys.modules.pop("shop", None)


def dry_run(*arguments: str, **variables: str) -> tuple[int, list[str]]:
    """The status and the printed lines."""
    before = install(None)
    try:
        ended = CliRunner().invoke(main, ["worker", "--dry-run", *arguments], env=variables)
    finally:
        runtime = install(before)
    rows = [] if runtime is None or runtime._store is None else _worker_rows(runtime)
    if runtime is not None:
        runtime.close()
    assert rows == [], "no worker was registered"
    if isinstance(ended.exception, ConfigurationError):
        return getattr(ended.exception, "exit_status", 1), [str(ended.exception)]
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.output.splitlines()


def _worker_rows(runtime: object) -> list[object]:
    try:
        with runtime.store.database.begin() as connection:  # type: ignore[attr-defined]
            return list(connection.execute(workers.select()).all())
    except Exception:
        return []


def test_it_prints_groups_operations_and_recurring_tasks_and_starts_nothing(shop: Path) -> None:
    (shop / "dexpy.toml").write_text(GROUPS)

    status, lines = dry_run("shop")

    assert status == 0
    assert lines[0] == "ok   module shop"
    assert lines[lines.index("") :] == [
        "",
        "group fast: 2 processes with 5 threads each, queue default",
        "  shop.Greet (default)",
        "  shop.Restock (default)",
        "  shop.Route (a queue by its function)",
        "group slow: 1 process with 1 thread each, queue low",
        "  shop.Route (a queue by its function)",
        "recurring shop.Restock: every 15 minutes, shop.Restock",
        "recurring sync: every day at 3am, shop.Greet",
        "health: 127.0.0.1 port 9090",
        "Dry run: no process was started; a worker would start.",
    ]
    assert "warn operation shop.Mail: no group serves its queue 'mail'." in lines


def test_options_and_one_group_are_applied(shop: Path) -> None:
    status, lines = dry_run("shop", "-p", "3", "-t", "2", "-Q", "mail,low", "--relay-interval", "2s")
    assert status == 0
    assert "worker: 3 processes with 2 threads each, queues mail, low" in lines
    (shop / "dexpy.toml").write_text(GROUPS)
    status, lines = dry_run("shop", "--group", "slow", "-t", "4")
    assert [line for line in lines if line.startswith("group")] == [
        "group slow: 1 process with 4 threads each, queue low"
    ]


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "message"),
    [
        (("no_such_module",), {}, 2, "FAIL module no_such_module: Cannot import the module 'no_such_module'"),
        (
            ("--app", "shop:app"),
            {},
            2,
            "FAIL app shop:app: Cannot load the application 'shop:app': the module",
        ),
        (("shop", "-t", "0"), {}, 2, ""),
        (("shop", "--group", "fast"), {}, 2, "--group: unknown worker group 'fast'"),
        ((), {}, 2, ""),
        (("shop",), {"DEXPY_DATABASE": "sqlite:////no/such/folder/shop.db"}, 2, "FAIL database"),
        (("shop",), {"DEXPY_BROKER": "redis://127.0.0.1:1/0", "DEXPY_DATABASE": "sqlite:///a.db"}, 1, "FAIL broker"),
        (("shop",), {"DEXPY_DATABASE": "postgresql+psycopg://u@127.0.0.1:1/x"}, 1, "FAIL database"),
    ],
)
def test_the_status_is_that_of_a_worker(
    arguments: tuple[str, ...], variables: dict[str, str], status: int, message: str
) -> None:
    actual, lines = dry_run(*arguments, **variables)

    assert actual == status, lines
    assert any(line.startswith(message) for line in lines)
    if lines[0].startswith(("ok", "FAIL")):
        last = "A worker would not start." if status == 2 else "Dry run: no process was started; a worker would wait"
        assert lines[-1].startswith(last)
