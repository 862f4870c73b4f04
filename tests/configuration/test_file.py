"""The configuration file: where it is found, what it may hold, and how an error in it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dexpy import ConfigurationError
from dexpy.configuration.loading import Configuration
from dexpy.configuration.table import SETTINGS
from dexpy.declaration.recurring import Recurring
from dexpy.schedules.cron import Cron
from dexpy.schedules.every import Every


def load(folder: Path, **variables: str) -> Configuration:
    return Configuration.load(variables, folder, {})


def refusal(folder: Path, text: str, name: str = "dexpy.toml", **variables: str) -> str:
    """The message for a file with this text, without the path of the folder."""
    (folder / name).write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load(folder, **variables)
    return str(refused.value).replace(f"{folder}/", "")


# ------------------------------------------------------------------------------------------------------ where it is


def test_the_file_of_the_nearest_project_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "dexpy.toml").write_text('database = "sqlite:///outer.db"\n')
    inner = tmp_path / "shop" / "jobs"
    inner.mkdir(parents=True)
    assert load(inner).get("database") == f"sqlite:///{tmp_path}/outer.db"

    (tmp_path / "shop" / "pyproject.toml").write_text("[tool.ruff]\n")
    assert (load(inner).file, load(inner).home) == (None, tmp_path / "shop")

    (tmp_path / "shop" / "pyproject.toml").write_text('[tool.dexpy]\ndatabase = "sqlite:///inner.db"\n')
    assert load(inner).get("database") == f"sqlite:///{tmp_path}/shop/inner.db"


def test_dexpy_toml_beside_a_pyproject_without_settings_is_read(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n")
    (tmp_path / "dexpy.toml").write_text('recover_within = "5m"\n')

    assert load(tmp_path).get("recover_within") == 300.0


def test_settings_in_both_files_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.dexpy]\n")

    assert refusal(tmp_path, "") == (
        "dexpy.toml: pyproject.toml has settings too, in [tool.dexpy]. Move the settings of both into one of the files."
    )


@pytest.mark.parametrize(("name", "table"), [("pyproject.toml", "tool.dexpy.relay"), ("staging.toml", "relay")])
def test_a_named_file_is_read_instead_of_those_of_the_project(tmp_path: Path, name: str, table: str) -> None:
    (tmp_path / "dexpy.toml").write_text("unknown = 1\n")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / name).write_text(f"[{table}]\nbatch_size = 7\n")

    configuration = load(tmp_path, DEXPY_CONFIG=f"config/{name}")

    assert configuration.get("relay.batch_size") == 7
    assert configuration.home == tmp_path


def test_a_named_file_that_is_missing_or_has_no_settings_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")

    with pytest.raises(
        ConfigurationError, match=r"^DEXPY_CONFIG: no such file: /nowhere\.toml\. Create it, or correct"
    ):
        load(tmp_path, DEXPY_CONFIG="/nowhere.toml")
    with pytest.raises(ConfigurationError, match=r"pyproject\.toml: no table \[tool\.dexpy\]\. Add it\.$"):
        load(tmp_path, DEXPY_CONFIG="pyproject.toml")


# ---------------------------------------------------------------------------------------------------- what is wrong

KEYS = ", ".join(
    sorted({repr(key.partition(".")[0]) for key, setting in SETTINGS.items() if setting.in_file}),
)
"""The keys of the top level, as a message lists them."""
WRONG = {
    "a misspelled key": (
        'databse = "x"',
        f"dexpy.toml:1: databse: unknown key; expected one of {KEYS}. Did you mean 'database'?",
    ),
    "a misspelled key of a table": (
        "\n[relay]\nbatchsize = 3",
        "dexpy.toml:3: [relay] batchsize: unknown key; expected one of 'batch_size', 'interval'. "
        "Did you mean 'batch_size'?",
    ),
    "a misspelled table": ("[[worker]]\nthreads = 3", "dexpy.toml:1: worker: unknown key; expected"),
    "a misspelled table of keys": (
        "[relays]\ninterval = '1s'",
        f"dexpy.toml:1: relays: unknown key; expected one of {KEYS}. Did you mean 'relay'?",
    ),
    "a misspelled key of a group": (
        "[[workers]]\n[[workers]]\nthread = 3",
        "dexpy.toml:3: [[workers]] thread: unknown key; expected one of 'max_memory', 'max_runs', 'name', "
        "'polling_interval', 'processes', 'queues', 'shutdown_timeout', 'threads'. Did you mean 'threads'?",
    ),
    "a misspelled key of an environment": (
        "[production]\nrecover_witin = '5s'",
        "dexpy.toml:2: [production] recover_witin: unknown key; expected",
    ),
    "a table like pyproject's": (
        "[tool.dexpy]",
        "dexpy.toml:1: tool: dexpy.toml has no [tool.dexpy]. Write its keys at the top level.",
    ),
    "a table for the default": (
        "[default]\nbroker = 'x'",
        "dexpy.toml:1: default: not an environment. Write its keys at the top level, which is the default.",
    ),
    "a bare number": (
        "recover_within = 30",
        'dexpy.toml:1: recover_within: expected a duration from 5s to 100d with its unit, such as "500ms", "30s" or '
        '"5m", got 30.',
    ),
    "a number as text": ("recover_within = '30'", "with its unit, such as"),
    "a duration that is too short": ("recover_within = '1s'", "expected a duration from 5s to 100d"),
    "a number of threads as text": (
        "[[workers]]\nthreads = '5'",
        "dexpy.toml:2: [[workers]] threads: expected a whole number from 1 to 1000, got '5'.",
    ),
    "no threads": ("[[workers]]\nthreads = 0", "expected a whole number from 1 to 1000, got 0."),
    "true threads": ("[[workers]]\nthreads = true", "expected a whole number from 1 to 1000, got true."),
    "queues as text": (
        "[[workers]]\nqueues = 'a,b'",
        "dexpy.toml:2: [[workers]] queues: expected an array of queue names and patterns, or [\"*\"] for all, "
        "got 'a,b'.",
    ),
    "no queues": (
        "[[workers]]\nqueues = []",
        'expected an array of queue names and patterns, or ["*"] for all, got none.',
    ),
    "an invalid queue": ("[[workers]]\nqueues = ['a', 'no good']", "got 'no good'."),
    "a queue that is a number": ("[[workers]]\nqueues = [3]", "beginning with a letter or '_', got 3."),
    "a * within a queue": ("[[workers]]\nqueues = ['a*b']", "got 'a*b'. * matches any rest of a name"),
    "a queue without effect": ("[[workers]]\nqueues = ['*', 'a']", "'a' has no effect, because the earlier '*'"),
    "a reserved queue": ("[[workers]]\nqueues = ['mail.DQ']", "and not ending with .DQ or .XQ, got 'mail.DQ'."),
    "workers as a table": (
        "[workers]\nthreads = 3",
        "dexpy.toml:1: workers: expected at least one table, got a table. Write [[workers]].",
    ),
    "no workers": ("workers = []", "dexpy.toml:1: workers: expected at least one table, got none. Write [[workers]]."),
    "two groups of one name": (
        "[[workers]]\nname = '2'\n\n[[workers]]",
        "dexpy.toml:4: [[workers]] name: '2' is the name of another group too. Choose another name.",
    ),
    "a relay that is a number": ("relay = 3", "dexpy.toml:1: relay: expected a table, got 3."),
    "a URL that is a list": ("broker = ['redis://:hunter2@h']", "broker: expected a URL as text, got an array."),
    "a switch as text": (
        "accept_unbound_ciphertext = 'yes'", "accept_unbound_ciphertext: expected true or false, got 'yes'."
    ),
    "keys": ("encryption_keys = 'hunter2'", "dexpy.toml:1: encryption_keys: must not be stored in a file."),
    "an environment in the file": ("env = 'production'", "env: not a key of the file. Set DEXPY_ENV or --env."),
    "a task without a class": (
        "[recurring.sync]\nschedule = 'every hour'",
        "dexpy.toml:1: [recurring.sync]: 'class' is missing. Add it.",
    ),
    "a task with an unknown key": (
        "[recurring.sync]\nclass = 'shop.Sync'\nschedule = 'every hour'\nprio = 3",
        "dexpy.toml:4: [recurring.sync] prio: unknown key; expected one of 'args', 'class', 'grace',",
    ),
    "an invalid schedule": (
        "[recurring.sync]\nclass = 'shop.Sync'\nschedule = 'evry hour'",
        'dexpy.toml:3: [recurring.sync] schedule: expected a schedule such as "every 15 minutes" or "0 3 * * *", got '
        "'evry hour'.",
    ),
    "an unknown zone": (
        "[recurring.sync]\nclass = 'shop.Sync'\nschedule = 'every hour'\nzone = 'Europe/Roma'",
        "got 'Europe/Roma'. Did you mean 'Europe/Rome'?",
    ),
    "an unknown word": (
        "[recurring.sync]\nclass = 'shop.Sync'\nschedule = 'every hour'\nmissed = 'lates'",
        "missed: expected one of 'latest', 'skip', got 'lates'. Did you mean 'latest'?",
    ),
    "args that are a list": (
        "[recurring.sync]\nclass = 'shop.Sync'\nschedule = 'every hour'\nargs = ['hunter2']",
        "args: expected a table of props such as { customer = 42, month = 2026-01-01 }, got an array.",
    ),
    "no TOML": ("database = \n", "dexpy.toml: invalid settings: Invalid value (at line 1, column 12). Fix the file."),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_error_with_line_key_and_fix(tmp_path: Path, case: str) -> None:
    text, expected = WRONG[case]

    message = refusal(tmp_path, text + "\n")

    assert expected in message
    assert len(message.splitlines()) == 1
    assert "hunter2" not in message


def test_in_pyproject_the_tables_are_named_as_they_are_written(tmp_path: Path) -> None:
    text = "[project]\nname = 'shop'\n\n[[tool.dexpy.production.workers]]\nthreads = 'many'\n"

    assert refusal(tmp_path, text, "pyproject.toml") == (
        "pyproject.toml:5: [[tool.dexpy.production.workers]] threads: expected a whole number from 1 to 1000, "
        "got 'many'."
    )
    assert refusal(tmp_path, "tool.dexpy = 3", "pyproject.toml") == (
        "pyproject.toml:1: [tool.dexpy]: expected a table, got 3."
    )


def test_all_problems_of_a_file_are_listed_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = "[production]\ndatabase = 3\n[relay]\ninterval = 1\n[[workers]]\nthreads = 0\n"

    assert [line.partition(": expected")[0] for line in refusal(tmp_path, text).splitlines()] == [
        "dexpy.toml: 3 invalid settings",
        "dexpy.toml:2: [production] database",
        "dexpy.toml:4: [relay] interval",
        "dexpy.toml:6: [[workers]] threads",
    ]


def test_an_invalid_variable_is_one_error_with_its_name(tmp_path: Path) -> None:
    for variables, expected in {
        ("DEXPY_THREADS", "many"): "DEXPY_THREADS: expected a whole number from 1 to 1000, got 'many'.",
        ("DEXPY_RECOVER_WITHIN", "30"): "DEXPY_RECOVER_WITHIN: expected a duration from 5s to 100d with its unit, such "
        'as "500ms", "30s" or "5m", got \'30\'.',
        ("DEXPY_QUEUE", "mail"): "DEXPY_QUEUE: unknown variable. Rename or remove it. Did you mean 'DEXPY_QUEUES'?",
        ("DEXPY_ENV", "no good"): "DEXPY_ENV: expected a name of letters, digits, '.', '_' or '-', got 'no good'.",
        ("DEXPY_ACCEPT_UNBOUND_CIPHERTEXT", "maybe"): "DEXPY_ACCEPT_UNBOUND_CIPHERTEXT: expected 1 or 0, got 'maybe'.",
    }.items():
        with pytest.raises(ConfigurationError) as refused:
            load(tmp_path, **dict([variables]))
        assert str(refused.value) == expected
    assert load(tmp_path, DEXPY_SHOP_NAME="mine", DEXPY_DATABASE="").get("database") is None


def test_a_password_in_the_wrong_place_is_not_shown(tmp_path: Path) -> None:
    for text in ("recover_within = 'redis://:hunter2@h/0'", "[[workers]]\nqueues = ['redis://:hunter2@h/0']"):
        assert "hunter2" not in refusal(tmp_path, text)
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, DEXPY_THREADS="redis://:hunter2@h/0")
    assert "hunter2" not in str(refused.value)


# ----------------------------------------------------------------------------------------------------- environments

ENVIRONMENTS = """
database = "sqlite:///dev.db"
recover_within = "30s"
[relay]
interval = "1s"
batch_size = 10
[[workers]]
threads = 2
[recurring.sync]
class = "shop.Sync"
schedule = "every hour"
[production]
database = "sqlite:////srv/shop.db"
[production.relay]
batch_size = 500
[[production.workers]]
queues = ["critical", "default"]
threads = 5
[[production.workers]]
queues = ["low", "mailers"]
threads = 3
[production.recurring.sync]
class = "shop.Sync"
schedule = "every 15 minutes"
[production.recurring.report]
class = "shop.Report"
schedule = "every day at 6am"
[staging]
"""


def facts(configuration: Configuration) -> list[Any]:
    return [
        configuration.get("database"),
        *(configuration.get(key) for key in ("recover_within", "relay.interval", "relay.batch_size")),
        [group.threads for group in configuration.worker_groups()],
        {entry.key: str(entry.task.schedule) for entry in configuration.recurring},
    ]


def test_an_environment_takes_precedence_over_the_top_level(tmp_path: Path) -> None:
    (tmp_path / "dexpy.toml").write_text(ENVIRONMENTS)

    top = [f"sqlite:///{tmp_path}/dev.db", 30.0, 1.0, 10, [2], {"sync": "every hour"}]
    assert facts(load(tmp_path)) == facts(load(tmp_path, DEXPY_ENV="default")) == top
    assert facts(load(tmp_path, DEXPY_ENV="staging")) == top
    assert facts(load(tmp_path, DEXPY_ENV="production")) == [
        "sqlite:////srv/shop.db", 30.0, 1.0, 500, [5, 3], {"sync": "every 15 minutes", "report": "every day at 6am"},
    ]  # fmt: skip


def test_an_unknown_environment_is_refused_where_the_file_has_some(tmp_path: Path) -> None:
    assert refusal(tmp_path, ENVIRONMENTS, DEXPY_ENV="prodution") == (
        "DEXPY_ENV: unknown environment 'prodution'; dexpy.toml has 'default', 'production', 'staging'. Correct the "
        "name, or add an empty table for it. Did you mean 'production'?"
    )
    (tmp_path / "dexpy.toml").write_text("")
    assert load(tmp_path, DEXPY_ENV="prodution").environment == "prodution"


# ------------------------------------------------------------------------------------------- groups, recurring tasks


def test_worker_groups_have_the_values_of_the_file_and_defaults(tmp_path: Path) -> None:
    (tmp_path / "dexpy.toml").write_text(
        '[[workers]]\nname = "fast"\nqueues = ["critical", "default"]\nthreads = 5\nprocesses = 2\n'
        'polling_interval = "0.5s"\nshutdown_timeout = "2m"\n[[workers]]\nqueues = ["*"]\n'
    )

    fast, rest = load(tmp_path).worker_groups()

    assert (fast.name, str(fast.queues), fast.threads, fast.processes) == ("fast", "critical,default", 5, 2)
    assert (fast.polling_interval_s, fast.shutdown_timeout_s) == (0.5, 120.0)
    (default,) = Configuration().worker_groups()
    assert (rest.name, rest.queues, rest.threads, rest.processes) == ("2", None, 8, default.processes)
    assert (default.name, default.threads) == ("", SETTINGS["workers.threads"].default)


def test_flags_and_variables_of_one_group_are_refused_where_several_start(tmp_path: Path) -> None:
    (tmp_path / "dexpy.toml").write_text('[[workers]]\nname = "fast"\n[[workers]]\nthreads = 3\n')

    def groups(*only: str, **variables: str) -> list[tuple[str, int, float]]:
        worker_groups = load(tmp_path, **variables).worker_groups(only)
        return [(group.name, group.threads, group.shutdown_timeout_s) for group in worker_groups]

    assert groups(DEXPY_SHUTDOWN_TIMEOUT="5s") == [("fast", 8, 5.0), ("2", 3, 5.0)]
    assert groups("2", DEXPY_THREADS="4") == [("2", 4, 30.0)]
    for name, value in {"DEXPY_THREADS": "4", "DEXPY_PROCESSES": "1", "DEXPY_QUEUES": "a"}.items():
        with pytest.raises(ConfigurationError) as refused:
            groups(**{name: value})
        assert str(refused.value) == (
            f"{name}: sets one worker group, but {tmp_path}/dexpy.toml has 2: '2', 'fast'. Set it in the file, or "
            "choose one of them with --group."
        )
    with pytest.raises(ConfigurationError, match=r"^--group: unknown worker group 'fsat'; .* Did you mean 'fast'\?"):
        groups("fsat")


def test_a_recurring_task_has_its_values_and_defaults(tmp_path: Path) -> None:
    (tmp_path / "dexpy.toml").write_text(
        '[recurring.sync]\nclass = "shop.SyncInventory"\nschedule = "every 15 minutes"\nargs = { token = "hunter2" }\n'
        'queue = "low"\npriority = -3\nzone = "Europe/Rome"\ngrace = "1h"\nmissed = "latest"\n'
        'max_waiting = "unlimited"\noverlap = "skip"\njitter = "30s"\nrun_at_start = true\n'
        '[recurring."a b"]\nclass = "shop.SyncInventory"\nschedule = "0 3 * * *"\n'
    )

    sync, nightly = load(tmp_path).recurring

    assert (sync.key, sync.class_name) == ("sync", "shop.SyncInventory")
    assert sync.task == Recurring(
        Every("every 15 minutes", zone="Europe/Rome"), key="sync", props={"token": "hunter2"}, queue="low",
        priority=-3, grace=3600.0, missed="latest", max_waiting=None, overlap="skip", jitter=30.0, run_at_start=True,
    )  # fmt: skip
    assert sync.origin == f"{tmp_path}/dexpy.toml:1"
    assert "hunter2" not in repr(sync)
    assert (nightly.key, nightly.task) == ("a b", Recurring(Cron("0 3 * * *"), key="a b"))


def test_a_key_that_no_database_stores_is_refused(tmp_path: Path) -> None:
    entry = "class = 'shop.Sync'\nschedule = 'every hour'\n"

    message = refusal(tmp_path, f'[recurring."a\\u0000b"]\n{entry}')

    assert "expected a str of 1 to 255 characters, without NUL" in message
    assert message.startswith("dexpy.toml:1: ")
