"""Which source of a setting wins: flag, variable, environment of the file, its top level, default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import dexpy
from dexpy.cli.main import main
from dexpy.configuration.kinds import (
    Applications,
    Choice,
    Duration,
    KeepDuration,
    Kind,
    Number,
    Queues,
    Size,
    Switch,
    Text,
    Url,
    Zone,
)
from dexpy.configuration.loading import Configuration, command_flags
from dexpy.configuration.table import SETTINGS, WORKERS, Setting, default_of
from dexpy.configuration.values import Value
from dexpy.runtime import install

pytestmark = pytest.mark.usefixtures("no_operations_of_other_tests")

EVERYWHERE = [setting for setting in SETTINGS.values() if setting.in_file and setting.has_variable and setting.has_flag]
LEVELS = ("default", "top", "environment", "variable", "flag")
SAMPLES: dict[type[Kind], tuple[str, ...]] = {
    Applications: ("json", "math,string", "stat", "keyword"),
    Duration: ("6s", "7s", "8s", "9s"),
    KeepDuration: ("1h", "2h", "forever", "4h"),
    Number: ("11", "12", "13", "14"),
    Queues: ("a", "b,c", "*", "d"),
    Size: ("64MB", "65MB", "1GiB", "67MB"),
    Switch: ("true", "false", "true", "false"),
    Zone: ("Europe/Rome", "Asia/Tokyo", "UTC", "America/Lima"),
    Text: ("first", "second", "third", "fourth"),
    Url: ("sqlite:////srv/a.db", "sqlite:////srv/b.db", "sqlite:////srv/c.db", "sqlite:////srv/d.db"),
}
"""A value of each level above the default, by kind."""


def as_toml(setting: Setting, text: str) -> str:
    if isinstance(setting.kind, Number | Switch):
        return text
    return str(text.split(",")).replace("'", '"') if isinstance(setting.kind, Queues | Applications) else f'"{text}"'


def write(folder: Path, setting: Setting, samples: tuple[str, ...], level: int) -> None:
    """Write a file that sets a setting at the top level, and from level 2 on in an environment too."""
    open_, close = ("[[", "]]") if setting.table == WORKERS else ("[", "]")
    header = f"{open_}{{}}{setting.table}{close}\n" if setting.table else ""
    text = f"{header.format('')}{setting.name} = {as_toml(setting, samples[0])}\n"
    text += "[production]\n"
    if level >= 2:
        text += f"{header.format('production.')}{setting.name} = {as_toml(setting, samples[1])}\n"
    (folder / "dexpy.toml").write_text(text if level >= 1 else "[production]\n")


def shown(setting: Setting, flags: list[str], variables: Mapping[str, str]) -> tuple[str, str]:
    """The value and the origin of a setting as `dexpy check --show` prints them."""
    before = install(None)
    try:
        ended = CliRunner().invoke(main, ["check", "--show", *flags], env=dict(variables))
    finally:
        install(before)
    assert ended.exit_code == 0, ended.output
    name = f"workers.1.{setting.name}" if "workers.1." in ended.output and setting.table == WORKERS else setting.key
    (line,) = [line for line in ended.stdout.splitlines() if line.split()[0] == name]
    text, _, origin = line[len(name) :].strip().rpartition("  ")
    return text.strip(), origin


@pytest.mark.parametrize("level", range(5), ids=LEVELS)
@pytest.mark.parametrize("setting", EVERYWHERE, ids=[setting.key for setting in EVERYWHERE])
def test_the_highest_source_that_sets_a_setting_wins(tmp_path: Path, setting: Setting, level: int) -> None:
    samples = (setting.kind.words * 4)[:4] if isinstance(setting.kind, Choice) else SAMPLES[type(setting.kind)]
    write(tmp_path, setting, samples, level)
    variables = {"DEXPY_ENV": "production"} | ({setting.variable: samples[2]} if level >= 3 else {})
    flag = [setting.flag] if samples[3] == "true" else [f"--no-{setting.flag[2:]}"] if samples[3] == "false" else [
        setting.flag, samples[3]
    ]  # fmt: skip

    text, origin = shown(setting, flag if level == 4 else [], variables)

    lines = (tmp_path / "dexpy.toml").read_text().splitlines()
    assert (
        origin
        == {
            0: "default",
            1: f"{tmp_path}/dexpy.toml:{2 if setting.table else 1}",
            2: f"{tmp_path}/dexpy.toml:{len(lines)}",
            3: setting.variable,
            4: setting.flag,
        }[level]
    )
    if level:
        assert text == samples[level - 1]
    elif setting.key != "database":
        default = default_of(setting.key)
        assert text == (setting.plain_default if default is None else setting.kind.display(default))


def test_a_flag_wins_over_configure_and_configure_over_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEXPY_DATABASE", "sqlite:///variable.db")
    monkeypatch.setenv("DEXPY_RECOVER_WITHIN", "7s")
    monkeypatch.setenv("DEXPY_ACCEPT_UNBOUND_CIPHERTEXT", "0")

    def configured() -> list[Any]:
        runtime = dexpy.configure(
            database="sqlite:///argument.db", recover_within=8, accept_unbound_ciphertext=True, broker="sqlite:///b.db"
        )
        runtime.close()
        settings = runtime.settings
        return [settings.database, settings.recover_within, settings.accept_unbound_ciphertext, settings.broker,
                settings.database_source]  # fmt: skip

    assert configured() == ["sqlite:///argument.db", 8.0, True, "sqlite:///b.db", "dexpy.configure()"]
    command_flags.set({"database": "sqlite:///flag.db", "recover_within": 9.0, "accept_unbound_ciphertext": False,
                       "broker": "sqlite:///flag.db"})  # fmt: skip
    assert configured() == ["sqlite:///flag.db", 9.0, False, "sqlite:///flag.db", "--database"]


def test_a_flag_wins_over_a_broker_of_the_application(tmp_path: Path) -> None:
    from dramatiq.brokers.stub import StubBroker

    command_flags.set({"broker": f"sqlite:///{tmp_path}/flag.db"})
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/a.db", broker=StubBroker())

    assert runtime.broker_instance is None
    assert runtime.settings.broker == f"sqlite:///{tmp_path}/flag.db"
    runtime.close()


def test_flags_and_variables_of_the_process_reach_the_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dexpy.toml").write_text('[relay]\ninterval = "3s"\nbatch_size = 7\n[staging]\nrecover_within = "1m"\n')
    monkeypatch.setenv("DEXPY_RELAY_BATCH_SIZE", "9")
    command_flags.set({"env": "staging"})

    configuration = dexpy.current_runtime().settings.configuration

    assert (configuration.get("relay.interval"), configuration.get("relay.batch_size")) == (3.0, 9)
    assert configuration.get("recover_within") == 60.0
    assert configuration.values["env"] == Value("staging", "--env")


def test_a_command_forgets_its_flags_at_its_end() -> None:
    CliRunner().invoke(main, ["check", "--show", "--recover-within", "9s"])

    assert command_flags.get() == {}
    assert Configuration.load({}).get("recover_within") == 60.0
