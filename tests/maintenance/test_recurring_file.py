"""Recurring tasks of the configuration file: what workers register, and what `dexpy check` reports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dexpy import Every, Operation, prop, recurring
from dexpy.cli.main import main
from dexpy.configuration.loading import Configuration
from dexpy.errors import OptionsError
from dexpy.liveness.heartbeat import Heartbeat
from dexpy.maintenance.recurring_registration import RecurringRegistration, declared_tasks
from dexpy.runtime import install
from dexpy.testing import Isolated

HOURLY = 'schedule = "every hour"\n'


class Report(Operation, name="filed.report"):
    """Is scheduled by a file."""

    day: date
    limit: int = 3
    note: str = prop(default="", sensitive=True)

    def perform(self) -> str:
        return f"{self.day} {self.limit}"


class Sync(Operation, name="sync-inventory"):
    """Has a name that is not a dotted one."""

    def perform(self) -> None: ...


class Overview(Operation, name="Lager: Übersicht"):
    """Has a name with a space."""

    def perform(self) -> None: ...


class Unrecorded(Operation, name="filed.unrecorded"):
    """Cannot recur."""

    record = False

    def perform(self) -> None: ...


class Scheduled(Operation, name="filed.scheduled"):
    """Has a schedule of its own."""

    schedule = Every("hour")

    def perform(self) -> None: ...


@pytest.fixture
def register(isolated_runtime: Isolated, tmp_path: Path) -> Generator[Callable[[str], None]]:
    """Start a worker with the text of a file, which registers its tasks."""
    store = isolated_runtime.runtime.store
    heartbeats: list[Heartbeat] = []

    def start(text: str) -> None:
        isolated_runtime.advance(0.01)
        (tmp_path / "dexpy.toml").write_text(text)
        entries = Configuration.load({}, tmp_path, {}).recurring
        heartbeat = Heartbeat(store, isolated_runtime.runtime.intervals)
        heartbeats.append(heartbeat)
        heartbeat.serve(2, None)
        heartbeat.start()
        RecurringRegistration(store, heartbeat, partial(declared_tasks, entries=entries)).run_if_due()

    yield start
    for heartbeat in heartbeats:
        heartbeat.stop()


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.reason for r in caplog.records if getattr(r, "event", "") == "recurring.not_registered"]  # type: ignore[attr-defined]


def test_a_task_of_the_file_is_registered_with_its_values(
    register: Callable[[str], None], isolated_runtime: Isolated
) -> None:
    register(
        f'[recurring.report]\nclass = "filed.report"\nzone = "Europe/Rome"\nqueue = "low"\npriority = -2\n'
        f'grace = "2m"\njitter = "10s"\nargs = {{ day = 2026-11-30, limit = 7 }}\n{HOURLY}'
    )

    task = recurring.get("report")
    assert (task.source, task.operation, task.queue, task.priority) == ("file", "filed.report", "low", -2)
    assert (task.schedule, task.params) == (Every("hour", zone="Europe/Rome"), {"day": "2026-11-30", "limit": 7})
    ticket = recurring.run_now("report")
    isolated_runtime.run_pending()
    assert ticket.result(1) == "2026-11-30 7"
    with pytest.raises(OptionsError, match=r"defined by filed\.report \(file\)"):
        recurring.edit("report", priority=1)

    register(f'[recurring.report]\nclass = "filed.report"\nargs = {{ day = "2026-12-01" }}\n{HOURLY}')
    assert recurring.get("report").params == {"day": "2026-12-01"}


def test_a_task_of_the_file_runs_an_operation_of_any_name(register: Callable[[str], None]) -> None:
    for name in ("sync-inventory", "Lager: Übersicht"):
        register(f'[recurring.sync]\nclass = "{name}"\n{HOURLY}')
        assert recurring.get("sync").operation == name


ARGS = "args = { day = 2026-11-30, limt = 7 }"
WRONG = {
    "an unknown prop": (f'class = "filed.report"\n{ARGS}', "invalid args of filed.report: limt: unknown prop"),
    "two invalid props": (
        'class = "filed.report"\nargs = { day = 7, limit = "x" }',
        "invalid args of filed.report: day: expected",
    ),
    "a missing prop": ('class = "filed.report"', "invalid args of filed.report: day: missing; expected date."),
    "an operation without a record": ('class = "filed.unrecorded"', "filed.unrecorded cannot recur: a recurring task"),
    "a misspelled operation": (
        'class = "filed.reprot"',
        "Unknown operation 'filed.reprot': this process does not declare it. Did you mean 'filed.report'?",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_task_is_logged_with_its_line_and_stops_no_other(
    register: Callable[[str], None], caplog: pytest.LogCaptureFixture, tmp_path: Path, case: str
) -> None:
    text, expected = WRONG[case]

    right = f'[recurring.right]\nclass = "filed.report"\n{HOURLY}args.day = 2026-11-30\n'
    register(f"[recurring.wrong]\n{text}\n{HOURLY}{right}")

    (reason,) = reasons(caplog)
    assert reason.startswith(f"{tmp_path}/dexpy.toml:1: recurring.wrong: ")
    assert expected in reason
    assert len(reason.splitlines()) == 1
    assert {task.key for task in recurring.all()} >= {"right"}
    assert "wrong" not in {task.key for task in recurring.all()}


def test_a_secret_prop_is_not_logged(register: Callable[[str], None], caplog: pytest.LogCaptureFixture) -> None:
    register(f'[recurring.wrong]\nclass = "filed.report"\nargs = {{ day = 2026-11-30, note = ["hunter2"] }}\n{HOURLY}')

    assert len(reasons(caplog)) == 1
    assert "hunter2" not in caplog.text


def test_a_key_of_a_class_is_refused_in_the_file(
    register: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    register(f'[recurring."filed.scheduled"]\nclass = "filed.report"\nargs.day = 2026-11-30\n{HOURLY}')

    assert "filed.scheduled declares a task with this key" in reasons(caplog)[0]
    assert recurring.get("filed.scheduled").source == "class"


@pytest.mark.usefixtures("no_operations_of_other_tests")
def test_check_tests_the_tasks_against_the_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "kiosk_filed.py").write_text(
        "from dexpy import Operation\n\nclass Sync(Operation):\n    shop: int\n    def perform(self) -> None: ...\n"
    )
    keys = {"right": "Sync", "wrong": "Sync", "unknown": "Snyc"}
    shops: dict[str, Any] = {"right": 1, "wrong": '"x"', "unknown": 1}
    (tmp_path / "dexpy.toml").write_text(
        "".join(
            f'[recurring.{key}]\nclass = "kiosk_filed.{cls}"\n{HOURLY}args = {{ shop = {shops[key]} }}\n'
            for key, cls in keys.items()
        )
    )
    before = install(None)

    ended = CliRunner().invoke(main, ["check", "kiosk_filed"])

    runtime = install(before)
    assert runtime is not None
    runtime.close()
    sys.modules.pop("kiosk_filed", None)
    lines = [line for line in ended.stdout.splitlines() if " recurring " in line]
    assert [line[:4].strip() for line in lines] == ["ok", "FAIL", "warn"]
    assert "Did you mean 'kiosk_filed.Sync'?" in lines[2]
    assert ended.exit_code == 1
