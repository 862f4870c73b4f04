"""``dexpy check --show``: each setting with its value and its origin, and no secret."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dexpy.cli.main import main
from dexpy.configuration.table import QUEUES, RECURRING, SETTINGS, WORKERS
from dexpy.runtime import install

pytestmark = pytest.mark.usefixtures("no_operations_of_other_tests")

SECRET = "hunter2"
KEY = "NmI2YjZiNmI2YjZiNmI2YjZiNmI2YjZiNmI2YjZiNmI="
FILE = f"""
broker = "redis://:{SECRET}@cache.internal:6379/1?namespace=shop"

[[workers]]
name = "fast"
queues = ["critical", "default"]

[[workers]]
threads = 3

[queues.mailers]
max_pending = 100

[recurring.sync]
class = "shop.Sync"
schedule = "every 15 minutes"
args = {{ token = "{SECRET}" }}
"""


def show(*arguments: str, **variables: str) -> dict[str, list[str]]:
    """The value and the origin of each printed setting."""
    before = install(None)
    try:
        ended = CliRunner().invoke(main, ["check", "--show", *arguments], env=variables)
    finally:
        runtime = install(before)
    if runtime is not None:
        runtime.close()
    assert ended.exit_code == 0, ended.output
    assert SECRET not in ended.output
    assert KEY not in ended.output
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in ended.stdout.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_every_setting_is_printed_once_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "dexpy.toml").write_text(FILE)

    shown = show(DEXPY_ENCRYPTION_KEYS=KEY, DEXPY_DATABASE=f"postgresql+psycopg://shop:{SECRET}@db.internal/shop")

    groups = [f"{WORKERS}.{group}." for group in ("fast", "2")]
    expected = [
        name
        for key, setting in SETTINGS.items()
        if key != "workers.name"
        for name in (
            [f"{group}{setting.name}" for group in groups] if setting.table == WORKERS
            else [f"{RECURRING}.sync.{setting.name}"] if setting.table == RECURRING
            else [f"{QUEUES}.mailers.{setting.name}"] if setting.table == QUEUES
            else [key]
        )
    ]  # fmt: skip
    assert sorted(shown) == sorted(expected)
    file = f"{tmp_path}/dexpy.toml"
    assert {
        name: shown[name] for name in ("config", "env", "database", "broker", "encryption_keys", "recover_within")
    } == {
        "config": [file, "default"],
        "env": ["default", "default"],
        "database": ["postgresql+psycopg://db.internal/shop", "DEXPY_DATABASE"],
        "broker": ["redis://cache.internal:6379/1", f"{file}:2"],
        "encryption_keys": ["<redacted>", "DEXPY_ENCRYPTION_KEYS"],
        "recover_within": ["1m", "default"],
    }
    assert shown["workers.fast.queues"] == ["critical,default", f"{file}:6"]
    assert shown["workers.fast.threads"] == ["8", "default"]
    assert (shown["workers.2.queues"], shown["workers.2.threads"]) == (["*, all", "default"], ["3", f"{file}:9"])
    assert shown["recurring.sync.args"] == ["{token = ...}", f"{file}:17"]
    assert shown["queues.mailers.max_pending"] == ["100", f"{file}:12"]
    assert shown["recurring.sync.zone"] == ["UTC", "default"]


def test_what_the_application_configures_is_printed_with_its_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "dexpy.toml").write_text('database = "sqlite:///file.db"\nrecover_within = "2m"\n')
    (tmp_path / "kiosk_shown.py").write_text(
        "import dexpy\nfrom dramatiq.brokers.stub import StubBroker\n"
        "dexpy.configure(database='sqlite:///code.db', broker=StubBroker(), recover_within=90)\n"
    )

    shown = show("kiosk_shown")

    assert shown["database"] == ["sqlite:///code.db", "dexpy.configure()"]
    assert shown["broker"] == ["StubBroker", "dexpy.configure()"]
    assert shown["recover_within"] == ["90s", "dexpy.configure()"]
    shown = show("kiosk_shown", "--database", "sqlite:///flag.db")
    assert shown["database"] == ["sqlite:///flag.db", "--database"]
    sys.modules.pop("kiosk_shown", None)


def test_without_a_file_the_defaults_are_printed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()

    shown = show()

    assert {origin for *_, origin in shown.values()} == {"default"}
    assert shown["database"] == [f"sqlite:///{tmp_path}/dexpy.db", "default"]
    assert (shown["config"][0], shown["broker"][0]) == ("none", "the database of the records")
    assert show("--broker", f"redis://:{SECRET}@h/0")["database"] == [
        "none, because only a broker is configured", "default",
    ]  # fmt: skip


def test_the_command_names_the_file_and_the_environment_of_the_check(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('database = "sqlite:///old.db"\n[staging]\n')
    before = install(None)

    ended = CliRunner().invoke(main, ["db", "check", "--config", "other.toml", "--env", "staging"])

    runtime = install(before)
    assert runtime is not None
    runtime.close()
    assert ended.exit_code == 1
    assert "dexpy db init --config other.toml --env staging" in ended.output
