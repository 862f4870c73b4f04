"""``dexpy recurring``: what it prints, its changes and its errors; in this process, and with a running worker."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Generator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apps import accounts
from harness.workers import Deployment, eventually

import dexpy
from dexpy import Cron, Every, Once, Operation, prop, recurring
from dexpy.cli.main import run
from dexpy.database.tables import recurring as table
from dexpy.maintenance.recurring_ticks import RecurringTicks
from dexpy.testing import Isolated

HOUR = timedelta(hours=1)
ROME = "Europe/Rome"
Command = Callable[..., tuple[int, str, str]]


class Report(Operation, name="cli.report"):
    """Has a secret."""

    kind: str = "short"
    token: str = prop(default="none", sensitive=True)

    def perform(self) -> str:
        return self.kind


class Bill(Operation, name="cli.bill"):
    """Runs once for its props."""

    month: int = 1
    once = Once("month")

    def perform(self) -> None: ...


@pytest.fixture
def command(isolated_runtime: Isolated, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command of ``dexpy recurring`` on the database of the test: its status, its output and its errors."""
    return partial(run_command, capsys)


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command of ``dexpy recurring`` in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run(["recurring", *arguments])
    printed, errors = capsys.readouterr()
    # An isolated database is noted as the default one.
    return int(ended.value.code or 0), printed, re.sub(r"^Note: .* is the default.*\n", "", errors)


@pytest.fixture
def start(isolated_runtime: Isolated) -> datetime:
    """Move the clock to a minute after an hour; return the hour."""
    now = datetime.now(timezone.utc)
    hour = now.replace(minute=0, second=0, microsecond=0) + HOUR
    isolated_runtime.advance(hour + timedelta(minutes=1) - now)
    return hour


def test_the_list_has_the_ticks_the_outcome_and_the_state_of_each_task(
    command: Command, isolated_runtime: Isolated, start: datetime
) -> None:
    recurring.add("hourly", Report(token="hunter2"), Every("hour"))
    isolated_runtime.advance(HOUR)
    RecurringTicks(isolated_runtime.runtime.dispatcher, isolated_runtime.runtime.store).run_once()
    isolated_runtime.run_pending()
    recurring.add("nightly", Report, Cron("0 3 * * *", zone=ROME))
    recurring.pause("nightly", by="ada", reason="stock\ncount")
    recurring.add("old", Report, Every("hour"))
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.update(table).where(table.c.key == "hourly").values(missed_count=3, skipped_count=12))
        connection.execute(sa.update(table).where(table.c.key == "old").values(retired_at=start))

    status, printed, _ = command("list")

    assert status == 0
    assert [line.split("  ", 1)[0] for line in printed.splitlines()] == ["KEY", "hourly", "nightly"]
    header, hourly, nightly = ([cell.strip() for cell in line.split("  ") if cell] for line in printed.splitlines())
    assert header == "KEY OPERATION SCHEDULE NEXT LAST OUTCOME MISSED SKIPPED STATE".split()
    ticks = [(start + number * HOUR).isoformat(" ") for number in (2, 1)]
    assert hourly == ["hourly", "cli.report", "every hour (UTC)", *ticks, "done", "3", "12", "active"]
    assert nightly[2:] == [f"0 3 * * * ({ROME})", "-", "-", "-", "0", "0", r"paused by ada (stock\ncount)"]
    assert "old" in command("list", "--retired")[1]

    printed = command("list", "--retired", "--json")[1]
    first, second, third = json.loads(printed)
    assert "hunter2" not in printed
    assert list(first) == list(second) == list(third) == (
        "key operation params schedule zone queue priority source state next_at last_at last_late_s last_run_id "
        "last_status missed_count first_missed_at last_missed_at skipped_count last_skipped_at paused_at paused_by "
        "pause_reason paused_until until remaining grace_s missed max_waiting overlap jitter_s retired_at created_at "
        "updated_at"
    ).split()  # fmt: skip
    assert (first["next_at"], first["last_at"]) == tuple((start + n * HOUR).isoformat() for n in (2, 1))
    assert (first["last_status"], first["missed_count"], first["schedule"]) == ("done", 3, "every hour")
    assert (second["state"], second["zone"], second["next_at"]) == ("paused", ROME, None)
    assert (second["paused_by"], second["pause_reason"]) == ("ada", "stock\ncount")
    assert (third["state"], third["retired_at"], third["next_at"]) == ("retired", start.isoformat(), None)


def test_a_list_without_tasks_names_the_database_and_is_empty_json(command: Command) -> None:
    status, printed, _ = command("list")
    assert (status, "no recurring tasks. A worker registers those" in printed) == (0, True)
    assert command("list", "--json")[:2] == (0, "[]\n")


def test_the_next_ticks_are_in_the_zone_of_the_task_also_across_a_change_of_the_clock(command: Command) -> None:
    recurring.add("nightly", Report, Cron("0 3 * * *", zone=ROME))
    expected = "2027-03-27 03:00:00+01:00\n2027-03-28 03:00:00+02:00\n"
    for moment in ("2027-03-27", "2027-03-27T02:59", "2027-03-27T01:59Z"):
        assert command("next", "nightly", "-n", "2", "--from", moment) == (0, expected, ""), moment
    assert command("next", "nightly", "-n1", "--from", "2027-03-27T03:00")[1] == "2027-03-28 03:00:00+02:00\n"
    assert json.loads(command("next", "nightly", "-n", "1", "--from", "2027-03-27", "--json")[1]) == {
        "key": "nightly", "zone": ROME, "ticks": ["2027-03-27T02:00:00+00:00"],
    }  # fmt: skip
    assert len(command("next", "nightly")[1].splitlines()) == 10
    recurring.pause("nightly", by="ada")
    assert command("next", "nightly") == (0, "", "nightly: no further tick; the task is paused by ada.\n")
    assert json.loads(command("next", "nightly", "--json")[1])["ticks"] == []


def test_a_pause_until_a_local_time_ends_in_the_zone_of_the_task(command: Command) -> None:
    recurring.add("nightly", Report, Cron("0 3 * * *", zone=ROME))
    options = ("--by", "ada", "--reason", "stock count", "--until", "2999-07-01T12:00")

    status, printed, _ = command("pause", "nightly", *options)

    assert (status, printed) == (
        0,
        "nightly: paused by ada until 2999-07-01 12:00:00+02:00 (stock count); next tick 2999-07-02 03:00:00+02:00.\n",
    )
    assert recurring.get("nightly").paused_until == datetime(2999, 7, 1, 10, tzinfo=timezone.utc)
    paused = json.loads(command("pause", "nightly", "--until", "2999-07-01T12:00Z", "--json")[1])
    assert (paused["state"], paused["paused_until"], paused["paused_by"]) == (
        "paused", "2999-07-01T12:00:00+00:00", None,
    )  # fmt: skip
    assert command("resume", "nightly")[1].startswith("nightly: active; next tick ")
    assert json.loads(command("resume", "nightly", "--json")[1])["paused_at"] is None


def test_a_pause_until_the_last_moment_in_utc_is_shown_in_utc(command: Command) -> None:
    recurring.add("nightly", Report, Cron("0 3 * * *", zone=ROME))
    last = datetime.max.replace(tzinfo=timezone.utc)
    assert recurring.pause("nightly", until=last).paused_until == last
    assert recurring.next_ticks("nightly") == []
    for arguments in (("list",), ("pause", "nightly", "--until", "9999-12-31T23:59:59.999999Z")):
        status, printed, errors = command(*arguments)
        assert (status, errors, "paused until 9999-12-31 23:59:59+00:00" in printed) == (0, "", True), arguments
    assert command("next", "nightly")[:2] == (0, "")


def test_run_now_prints_the_id_of_the_run(command: Command, isolated_runtime: Isolated) -> None:
    recurring.add("report", Report, Every("hour"), props={"kind": "long"})
    status, printed, _ = command("run-now", "report")
    (ticket,) = isolated_runtime.run_pending()
    assert (status, printed, ticket.result(5)) == (0, f"{ticket.id}\n", "long")

    recurring.add("bill", Bill, Every("hour"))
    first = json.loads(command("run-now", "bill", "--json")[1])
    again = command("run-now", "bill")
    assert first == {"key": "bill", "run_id": first["run_id"], "duplicate": False}
    assert again[:2] == (0, f"{first['run_id']}\n")
    assert "no run was enqueued; this is an earlier run with the same key of Once or Unique" in again[2]


@pytest.mark.parametrize("name", ["next", "pause", "resume", "run-now"])
def test_an_unknown_key_is_one_error_with_a_suggestion(command: Command, name: str) -> None:
    recurring.add("nightly", Report, Every("hour"))
    status, printed, errors = command(name, "nightyl")
    assert (status, printed) == (1, "")
    assert errors.startswith("Error: recurring.")
    assert errors.endswith("no recurring task has the key 'nightyl'. Did you mean 'nightly'?\n")


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("next", "nightly", "--from", "noon"), "'--from': expected an ISO time, for example 2026-12-24T18:00"),
    (("next", "nightly", "-n", "0"), "'-n'"),
    (("pause", "nightly", "--until", "2001-01-01"), "'--until': expected a time in the future, got '2001-01-01'."),
    (("pause",), "Missing argument 'KEY'."),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message[:20] for _, message in REFUSED])
def test_an_invalid_option_has_status_2_and_changes_nothing(
    command: Command, arguments: tuple[str, ...], message: str
) -> None:
    before = recurring.add("nightly", Report, Every("hour"))
    status, printed, errors = command(*arguments)
    assert (status, printed, message in errors) == (2, "", True), errors
    assert recurring.get("nightly") == before


@pytest.fixture
def deployment(tmp_path: Path) -> Generator[Deployment]:
    """A folder with a database, which is configured in this process too."""
    deployment = Deployment(tmp_path)
    engine = sa.create_engine(deployment.url)
    accounts.create_tables(engine)
    engine.dispose()
    runtime = dexpy.configure(database=deployment.url)
    yield deployment
    deployment.close()
    runtime.close()


def test_a_running_worker_obeys_a_pause_runs_the_task_at_once_and_resumes(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    def ticks() -> set[Any]:
        query = "SELECT run_at FROM operation_records WHERE recurring_key = 'welcome' AND run_at IS NOT NULL"
        return {row["run_at"] for row in deployment.sql(query)}

    recurring.add("welcome", accounts.SendWelcomeEmail(user_id=7), Every("second"))
    deployment.start(threads=1)
    eventually(ticks, "a tick has a run", details=deployment.output)

    status, _, errors = run_command(capsys, "pause", "welcome", "--by", "ada")
    before = ticks()
    assert (status, errors) == (0, "")
    run_id = run_command(capsys, "run-now", "welcome")[1].strip()
    assert deployment.wait_for_status(run_id, "done")["recurring_key"] == "welcome"
    time.sleep(1.3)  # a tick would follow within a second
    assert ticks() == before

    assert run_command(capsys, "resume", "welcome")[0] == 0
    eventually(lambda: ticks() - before, "a tick after the pause has a run", details=deployment.output)
