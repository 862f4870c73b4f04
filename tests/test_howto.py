"""The how-to pages: their commands and files for other tools are checked, as far as possible without the tools."""

from __future__ import annotations

import configparser
import doctest
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import servers
import test_docs

from dexpy.cli.main import main
from dexpy.configuration import table as configuration_table
from dexpy.database.engine_options import POOL_SIZE
from dexpy.database.server_info import SKEW_S
from dexpy.declaration.recurring import LONGEST_GRACE
from dexpy.enqueue.transports import SHORT_DELAY_S
from dexpy.foundation.urls import displayed_url
from dexpy.maintenance.recurring_registration import RESTART_GRACE, UNKNOWN_GRACE
from dexpy.maintenance.recurring_ticks import LONGEST_PAUSE_S
from dexpy.worker import signals, startup
from dexpy.worker.supervisor import SHUTDOWN_GRACE_S, StartupError
from dexpy.worker.unknown_operations import DEFAULT_POLICY

HOWTO = test_docs.HOME / "docs" / "howto"
PRODUCTION = (HOWTO / "workers-in-production.md").read_text("utf-8")
MOVE = (HOWTO / "postgresql-and-redis.md").read_text("utf-8")
RECURRING = (HOWTO / "recurring-tasks.md").read_text("utf-8")
PROJECT = tomllib.loads((test_docs.HOME / "pyproject.toml").read_text("utf-8"))["project"]


def shown(page: str, heading: str) -> list[test_docs.Block]:
    """Return the blocks under a heading of the second level."""
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert match is not None, heading
    return list(test_docs.blocks_of(match[1]))


def only(page: str, heading: str, language: str = "text") -> str:
    """Return the only block of a language under a heading."""
    (block,) = [block for block in shown(page, heading) if block.language == language]
    return block.code


def accepted(command: list[str]) -> dict[str, Any]:
    """Return the options of a command line as its program parses them; raise if it refuses them."""
    program, *arguments = command
    if os.path.basename(program) == "dramatiq":
        from dramatiq.cli import make_argument_parser

        return vars(make_argument_parser().parse_args(arguments))
    assert os.path.basename(program) == "dexpy", command
    group: click.Command = main
    with click.Context(main) as context:
        while isinstance(group, click.Group):
            _, resolved, arguments = group.resolve_command(context, arguments)
            assert resolved is not None, command
            group = resolved
        return group.make_context(str(group.name), arguments).params


def longest_stop_s(command: list[str]) -> float:
    """Return the longest time in which a worker ends, in seconds."""
    return float(accepted(command)["shutdown_timeout"]) + SHUTDOWN_GRACE_S


# ------------------------------------------------------------------------------------------------- commands and figures


def commands() -> Iterator[tuple[str, list[str]]]:
    """Return the commands on the pages, with the names of the pages."""
    for page in sorted(HOWTO.glob("*.md")):
        for block in test_docs.blocks_of(page.read_text("utf-8")):
            if block.language == "console":
                for command, _ in test_docs.commands_of(block.code):
                    yield page.name, shlex.split(command)


OURS = [(page, command) for page, command in commands() if command[0] in ("dexpy", "dramatiq")]


@pytest.mark.parametrize("command", [command for _, command in OURS], ids=" ".join)
def test_a_command_on_the_pages_is_accepted_by_its_program(command: list[str]) -> None:
    assert accepted(command) is not None


def test_commands_are_found_on_the_pages_and_a_wrong_one_is_refused() -> None:
    assert {command[1] for _, command in OURS} >= {"worker", "check", "db"}
    with pytest.raises(click.UsageError):
        accepted(["dexpy", "worker", "shop.operations", "--threds", "8"])
    with pytest.raises(click.UsageError):
        accepted(["dexpy", "wroker"])


def default_of(option: str) -> Any:
    return configuration_table.default_of(f"workers.{option}")


@pytest.mark.parametrize(
    ("page", "figure"),
    [
        (PRODUCTION, f"begin with {default_of('threads')} threads for each process."),
        (PRODUCTION, f"and up to {startup.OWN_CONNECTIONS} for heartbeats and other internal tasks"),
        (PRODUCTION, f"`processes x (threads + {startup.OWN_CONNECTIONS})`"),
        (PRODUCTION, f"more than {2 * POOL_SIZE} connections"),
        (PRODUCTION, f"if you need more than {2 * POOL_SIZE - startup.OWN_CONNECTIONS} threads"),
        (PRODUCTION, f"of up to {'ten' if startup.BACKOFF.longest_s == 10 else startup.BACKOFF.longest_s} seconds"),
        (PRODUCTION, f"after {'half a' if startup.BACKOFF.first_s == 0.5 else startup.BACKOFF.first_s} second,"),
        (PRODUCTION, f"one message and status {StartupError.exit_status},"),
        (PRODUCTION, f"have `--shutdown-timeout` to finish, {default_of('shutdown_timeout'):.0f} seconds by default"),
        (PRODUCTION, f"still runs {SHUTDOWN_GRACE_S:.0f} seconds after the shutdown timeout"),
        (PRODUCTION, f"checks the message again after {DEFAULT_POLICY.first_wait_s:.0f} seconds"),
        (MOVE, f"disagree by more than {SKEW_S:.0f} seconds"),
        (MOVE, f"2 x {8 + startup.OWN_CONNECTIONS} = {2 * (8 + startup.OWN_CONNECTIONS)} at most"),
        (MOVE, f"due within {SHORT_DELAY_S:.0f} seconds"),
        (RECURRING, f"at most {LONGEST_GRACE.seconds // 60} minutes, or `grace=`"),
        (RECURRING, f"in all processes within {'two' if LONGEST_PAUSE_S == 2 else LONGEST_PAUSE_S} seconds"),
        (RECURRING, f"else after {UNKNOWN_GRACE // timedelta(hours=1)} hours"),
        (RECURRING, f"declared again within {RESTART_GRACE // timedelta(minutes=1)} minutes"),
    ],
)
def test_a_figure_on_the_pages_is_that_of_the_code(page: str, figure: str) -> None:
    assert figure in page


@pytest.mark.parametrize("page", [MOVE, PRODUCTION], ids=["move", "production"])
def test_the_extras_on_the_pages_exist(page: str) -> None:
    named = set(re.findall(r"dexpy-operations\[(\w+)\]", page))

    assert named
    assert named <= set(PROJECT["optional-dependencies"])


# ---------------------------------------------------------------------------------------------------- systemd


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(only(PRODUCTION, "systemd"))
    return parser


def test_the_systemd_unit_starts_a_worker_and_stops_it_gracefully() -> None:
    unit_file = unit()
    service = unit_file["Service"]
    command = shlex.split(service["ExecStart"])

    assert unit_file.sections() == ["Unit", "Service", "Install"]
    assert command[0].startswith(service["WorkingDirectory"])
    assert accepted(command)["modules"] == ("shop.operations",)
    assert float(service["TimeoutStopSec"]) > longest_stop_s(command)
    assert int(service["RestartPreventExitStatus"]) == StartupError.exit_status
    # The default signal of systemd is SIGTERM.
    assert signal.Signals[service.get("KillSignal", "SIGTERM")] in signals.STOP_SIGNALS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_analyze_accepts_the_unit(tmp_path: Path) -> None:
    text = only(PRODUCTION, "systemd")
    place = tmp_path / "srv" / "shop"
    program = place / ".venv" / "bin" / "dexpy"
    program.parent.mkdir(parents=True)
    program.symlink_to(Path(sys.executable).parent / "dexpy")

    def verify(text: str) -> str:
        file = tmp_path / "shop-worker.service"
        file.write_text(text.replace("/srv/shop", str(place)))
        completed = subprocess.run(
            ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, check=False, timeout=60
        )
        return "\n".join(line for line in (completed.stdout + completed.stderr).splitlines() if "shop" in line)

    assert verify(text) == ""
    assert "Restrat" in verify(text.replace("Restart=", "Restrat="))


# ---------------------------------------------------------------------------------------------------- Docker

INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "STOPSIGNAL", "CMD"}


def dockerfile() -> dict[str, str]:
    """Return the instructions of the page's Dockerfile, each of which it has once."""
    instructions: dict[str, str] = {}
    for line in only(PRODUCTION, "Docker").splitlines():
        word, _, rest = line.partition(" ")
        assert word in INSTRUCTIONS, line
        assert word not in instructions, line
        instructions[word] = rest
    return instructions


def test_the_image_starts_a_worker_that_receives_the_stop_signal() -> None:
    instructions = dockerfile()

    assert next(iter(instructions)) == "FROM"
    # The command is a list, because a shell would not forward the signal.
    assert accepted(json.loads(instructions["CMD"]))["modules"] == ("shop.operations",)
    assert signal.Signals[instructions["STOPSIGNAL"]] in signals.STOP_SIGNALS
    version = re.fullmatch(r"python:(\d+\.\d+)-slim", instructions["FROM"])
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]


def test_a_container_may_take_longer_to_stop_than_its_worker() -> None:
    run = shlex.split(only(PRODUCTION, "Docker", "console").removeprefix("$ "))

    assert run[:2] == ["docker", "run"]
    assert float(run[run.index("--stop-timeout") + 1]) > longest_stop_s(json.loads(dockerfile()["CMD"]))


# ---------------------------------------------------------------------------------------------------- Kubernetes


def read_yaml(text: str) -> Any:
    """Read the subset of YAML that the page uses: indented mappings and lists, and flows of one line."""
    lines = [(len(line) - len(line.lstrip()), line.strip()) for line in text.splitlines() if line.strip()]
    value, rest = _parse(lines, lines[0][0])
    assert not rest, rest
    return value


def _parse(lines: list[tuple[int, str]], depth: int) -> tuple[Any, list[tuple[int, str]]]:
    if lines[0][1].startswith("- "):
        items: list[Any] = []
        while lines and lines[0][0] == depth and lines[0][1].startswith("- "):
            # The text after the dash is the first line of a mapping that is indented by two.
            item, lines = _parse([(depth + 2, lines[0][1][2:]), *lines[1:]], depth + 2)
            items.append(item)
        return items, lines
    mapping: dict[str, Any] = {}
    while lines and lines[0][0] == depth and not lines[0][1].startswith("- "):
        key, colon, rest = lines[0][1].partition(":")
        assert colon, lines[0]
        assert key not in mapping, lines[0]
        lines = lines[1:]
        if rest.strip():
            mapping[key] = _flow(rest.strip())
        else:
            assert lines, key
            assert lines[0][0] > depth, lines[0]
            mapping[key], lines = _parse(lines, lines[0][0])
    assert not lines or lines[0][0] <= depth, lines[0]
    return mapping, lines


def _flow(text: str) -> Any:
    if text.startswith("{"):
        inside = [part.partition(":") for part in text.strip("{}").split(",")]
        return {key.strip(): _flow(value.strip()) for key, _, value in inside}
    return json.loads(text) if text[0] in "[0123456789" else text


def test_the_yaml_reader_of_the_tests_reads_the_supported_subset() -> None:
    assert read_yaml('a:\n  b: 1\n  c: {d: e}\nf:\n  - g: h\n    i: ["j", 2]\n  - g: k\n') == {
        "a": {"b": 1, "c": {"d": "e"}},
        "f": [{"g": "h", "i": ["j", 2]}, {"g": "k"}],
    }
    for wrong in ("a:\n  b: 1\n    c: 2\n", "a: 1\na: 2\n", "a:\nb: 1\n", "a\n"):
        with pytest.raises(AssertionError):
            read_yaml(wrong)


def test_the_deployment_starts_workers_with_a_grace_period() -> None:
    deployment = read_yaml(only(PRODUCTION, "Kubernetes"))
    template = deployment["spec"]["template"]
    pod = template["spec"]
    (check,), (container,) = pod["initContainers"], pod["containers"]

    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    assert deployment["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert pod["terminationGracePeriodSeconds"] > longest_stop_s(container["command"])
    # The check of the init container uses the options and settings of the worker.
    looked, run_options = accepted(check["command"]), accepted(container["command"])
    assert check["command"][1] == "check"
    assert {"app", "modules", "processes", "threads"} <= looked.keys()
    assert looked.pop("show") is False
    ports = {"health_host", "health_port"}
    assert {name: value for name, value in looked.items() if name not in ports} == {
        name: run_options[name] for name in looked if name not in ports
    }
    assert (check["image"], check["envFrom"]) == (container["image"], container["envFrom"])


# ------------------------------------------------------------------------------------------------- with real servers


@pytest.mark.servers
def test_the_migration_to_postgresql_and_redis_works_as_on_the_page(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "operations.py").write_text(
        inspect.cleandoc(
            """
            from dexpy import Operation

            class Greet(Operation):
                def perform(self) -> str:
                    return "hello"
            """
        )
    )
    with servers.database("postgresql", tmp_path) as database, servers.broker("redis") as broker:
        settings = tomllib.loads(only(MOVE, "Name the database", "toml"))["tool"]["dexpy"]
        real = {settings["database"]: database, settings["broker"]: str(broker)}
        toml = only(MOVE, "Name the database", "toml")
        for placeholder, meant in real.items():
            toml = toml.replace(placeholder, meant)
        (tmp_path / "pyproject.toml").write_text(toml)
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        executed = []
        for heading in ("Create the tables", "Check the configuration", "Empty the old queue"):
            for command, expected in test_docs.commands_of(only(MOVE, heading, "console")):
                process = subprocess.run(
                    shlex.split(command), cwd=tmp_path, env=environment | {"PATH": path}, timeout=60, text=True,
                    capture_output=True, check=False,
                )  # fmt: skip
                assert process.returncode == 0, process.stderr
                output = re.sub(r"(?<=Redis at )\S+", "queue.example:6379", process.stdout)
                output = output.replace(displayed_url(database), displayed_url(settings["database"]))
                assert not expected or doctest.OutputChecker().check_output(expected, output, test_docs.FLAGS), output
                executed.append(command)
        assert len(executed) == 4
