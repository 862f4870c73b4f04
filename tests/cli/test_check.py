"""``dexpy check`` without a server: its words, its status, its options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import test_docs
from click.testing import CliRunner, Result

from dexpy.cli.check import Finding
from dexpy.cli.main import main
from dexpy.database.engine_options import POOL_SIZE
from dexpy.runtime import current_runtime
from dexpy.worker.startup import OWN_CONNECTIONS

Ended = subprocess.CompletedProcess[str]


pytestmark = pytest.mark.usefixtures("no_operations_of_other_tests")


@pytest.fixture
def environment(environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    (tmp_path / "pyproject.toml").touch()
    return environment


def dexpy(environment: dict[str, str], *arguments: str, **variables: str) -> Ended:
    return subprocess.run(
        [sys.executable, "-m", "dexpy", *arguments], env=environment | variables, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def here(*arguments: str, **variables: str) -> Result:
    """The same in this process, which is quicker."""
    ended = CliRunner().invoke(main, arguments, env=variables)
    current_runtime().close()
    return ended


def words(ended: Ended) -> list[str]:
    """The word and the subject of each line."""
    return [" ".join(line.split()[:2]).rstrip(":") for line in ended.stdout.splitlines()]


def test_a_valid_configuration_is_ok(environment: dict[str, str], tmp_path: Path) -> None:
    ended = dexpy(environment, "check", "dexpy.cli.demo_operations")

    assert ended.returncode == 0, ended.stderr
    assert words(ended) == ["ok module", "ok settings", "ok database", "ok broker"]
    assert all(line.startswith("ok   ") for line in ended.stdout.splitlines())
    assert ended.stderr == ""


def test_a_module_that_cannot_be_imported_fails_and_nothing_that_it_may_configure_is_ok(
    environment: dict[str, str],
) -> None:
    ended = dexpy(environment, "check", "no_such_module")

    assert ended.returncode == 1
    assert words(ended) == ["FAIL module", "warn settings"]
    assert "there is no 'no_such_module'" in ended.stdout


def test_operations_without_an_encryptor_are_named(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from dexpy import Operation, prop\n\n"
        "class Pay(Operation):\n    card: str = prop(encrypted=True)\n    def perform(self) -> None: ...\n\n"
        "class Refund(Pay):\n    encrypt = 'vault'\n    def perform(self) -> None: ...\n"
    )

    ended = dexpy(environment, "check", "shop")

    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if "encryptor" in line]
    assert [line.partition(":")[0] for line in lines] == [
        "warn encryptor 'default'",
        "warn encryptor 'vault'",
    ]
    assert "'shop.Pay', 'shop.Refund' require it to be enqueued or run" in lines[0]


def test_check_ends_at_unreadable_settings(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.dexpy]\ndatabse = 'x'\n")

    ended = dexpy(environment, "check")

    assert ended.returncode == 1
    assert words(ended) == ["FAIL settings"]


def test_a_database_that_carries_its_queue_fails_once(environment: dict[str, str]) -> None:
    ended = dexpy(environment, "check", DEXPY_DATABASE="sqlite:////nowhere/at/all.db")

    assert ended.returncode == 1
    assert words(ended) == ["ok settings", "FAIL database"]


def test_a_broker_that_does_not_answer_fails(environment: dict[str, str]) -> None:
    ended = dexpy(environment, "check", DEXPY_DATABASE="sqlite:///a.db", DEXPY_BROKER="redis://:hush@127.0.0.1:1/0")

    assert ended.returncode == 1
    assert words(ended) == ["ok settings", "ok database", "FAIL broker"]
    assert "Check that the server is running" in ended.stdout
    assert "hush" not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hush/h@host:6379/0",
        "redis://me:hush@host:many/0",
        "redis://me:hush@[::1/0",
        "redis://host/0?password=hush&socket_timeout=soon",
        "amqp://me:hush#h@host/shop",
        "amqp://me:hush@host/shop?heartbeat=often",
        "amqps://me:hush@host/shop?ssl_options={'cafile':'/nowhere'}",
        "amqps://me:hush@host/shop?ssl_options={",
        "kafka://me:hush@host",
    ],
)
def test_a_url_of_a_broker_that_cannot_be_read_fails_without_its_password(url: str) -> None:
    ended = here("check", DEXPY_DATABASE="sqlite:///a.db", DEXPY_BROKER=url)

    assert ended.exit_code == 1
    assert ended.output.splitlines()[-1].startswith("FAIL broker")
    assert "hush" not in ended.output


@pytest.mark.parametrize(
    "url",
    [
        "postgresql//me:hush@host/shop",
        "postgresql+psycopg://me:hush@host:many/shop",
        "postgresql+psycopg://me:hu@sh:hush@host/shop",
        "oracel://me:hush@host/shop",
        "postgresql+psycopg://me@127.0.0.1:1/shop?password=hush",
    ],
)
def test_a_url_of_a_database_that_cannot_be_read_fails_without_its_password(url: str) -> None:
    ended = here("check", DEXPY_DATABASE=url)

    assert ended.exit_code == 1
    assert ended.output.splitlines()[-1].startswith("FAIL database")
    assert "hush" not in ended.output


def test_more_threads_than_a_process_opens_connections_for_are_a_warning_that_changes_no_status(
    environment: dict[str, str],
) -> None:
    most = 2 * POOL_SIZE - OWN_CONNECTIONS

    assert words(dexpy(environment, "check", "-t", str(most)))[2:] == ["ok broker"]
    warned = dexpy(environment, "check", "-t", str(most + 1))

    assert warned.returncode == 0
    assert words(warned) == ["warn settings", "ok database", "warn threads", "ok broker"]
    assert f"{most + 1} + {OWN_CONNECTIONS} connections are more than the {2 * POOL_SIZE}" in warned.stdout


@pytest.mark.parametrize("wrong", [["-p", "0"], ["-t", "many"], ["--thread"]])
def test_invalid_arguments_are_refused_with_status_two(environment: dict[str, str], wrong: list[str]) -> None:
    ended = dexpy(environment, "check", *wrong)

    assert ended.returncode == 2
    assert ended.stdout == ""


def test_check_has_the_options_of_the_worker() -> None:
    def facts(command: str) -> dict[str, tuple[list[str], object]]:
        options = [each for each in main.commands[command].params if isinstance(each, click.Option)]
        return {str(each.name): (each.opts, each.help) for each in options}

    worker = facts("worker")
    check = facts("check")
    shared = worker.keys() - {"burst", "reload", "verbose", "dry_run"}
    assert shared >= {"processes", "threads", "queues", "config", "env", "only_groups", "app"}
    assert {name: check[name] for name in shared} == {name: worker[name] for name in shared}


def test_a_finding_is_one_line() -> None:
    assert str(Finding("broker")) == "ok   broker"
    assert str(Finding("clock", "late", "warn")) == "warn clock: late"
    assert str(Finding("database", "gone", "FAIL")) == "FAIL database: gone"
    assert [Finding("x", "y", word).failed for word in ("ok", "warn", "FAIL")] == [False, False, True]


# ------------------------------------------------------------------------------------------------------ on the pages


def commands(group: click.Group, before: str = "dexpy") -> dict[str, click.Command]:
    """Every command by its whole name."""
    commands_by_name: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        commands_by_name |= (
            commands(command, f"{before} {name}") if isinstance(command, click.Group) else {f"{before} {name}": command}
        )
    return commands_by_name


def rows(page: Path, head: str) -> list[list[list[str]]]:
    """The tables of a page that begin with this head, without it."""
    tables = page.read_text("utf-8").split(f"| {head} |")[1:]
    lines = [table.partition("\n\n")[0].splitlines()[2:] for table in tables]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table] for table in lines]


CLI = test_docs.HOME / "docs" / "reference" / "cli.md"


def test_every_command_is_on_the_pages() -> None:
    (table,) = rows(CLI, "command")
    assert sorted(row[0].strip("`") for row in table) == sorted(commands(main))
    (table,) = rows(test_docs.HOME / "README.md", "command")
    assert sorted(row[0].strip("`") for row in table) == sorted(f"dexpy {name}" for name in main.commands)


def test_every_option_is_on_the_page() -> None:
    text = CLI.read_text("utf-8")
    settings = text.partition("\n### Settings\n")[2].partition("\n## ")[0]
    for name, command in commands(main).items():
        part = text.partition(f"\n## {' '.join(name.split()[:2])}\n")[2].partition("\n## ")[0] + settings
        for option in command.params:
            if isinstance(option, click.Option):
                assert any(", ".join(f"`{each}`" for each in option.opts) in line for line in part.splitlines()), (
                    name,
                    option.opts,
                )


def test_the_demo_leaves_only_its_database_in_the_working_folder(environment: dict[str, str]) -> None:
    before = set(os.listdir())
    assert dexpy(environment, "check").returncode == 0

    assert {name.partition("-")[0] for name in set(os.listdir()) - before} == {"dexpy.db"}
