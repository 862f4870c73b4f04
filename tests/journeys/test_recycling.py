"""Recycling: a worker process that reaches a limit finishes its runs, exits and is replaced; no run is lost."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest
from apps import accounts
from apps.accounts import Increment, TimedVisit
from click.testing import CliRunner
from harness.pairs import Pair, open_pair
from harness.workers import Deployment, Worker, eventually

from dexpy.cli.main import main
from dexpy.errors import ConfigurationError
from dexpy.runtime import install
from dexpy.worker.recycling import JITTER, Recycling, resident_memory
from dexpy.worker.watchdog import Watchdog

MB = 1_000_000
WAIT_S = 30.0


@pytest.fixture(
    params=[
        "sqlite+sql",
        *(
            pytest.param(name, marks=pytest.mark.servers)
            for name in ("postgresql+redis", "postgresql+rabbitmq", "mariadb+sql", "postgresql+sql")
        ),
    ]
)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Pair]:
    """Yield a pair without a worker, of the accounts application."""
    with open_pair(request.param, tmp_path, accounts) as opened:
        opened.configure()
        yield opened
    install(None)


def events_of(worker: Worker, pid: int) -> list[str]:
    """Return the events of a process in the order of the log."""
    lines = [line.split("] ", 1)[1] for line in worker.output().splitlines() if f"pid={pid} " in f"{line} "]
    return [line.split()[0] for line in lines]


def test_a_process_at_its_limit_finishes_long_runs_without_fetching_and_is_replaced(pair: Pair) -> None:
    gate = pair.folder / "gate"
    worker = pair.start("--max-runs", "3", "--shutdown-timeout", "0s", threads=2)
    (first,) = worker.children()
    long_run = TimedVisit(number=1, seconds=0, gate=str(gate)).async_().call()
    pair.wait_for_status(long_run.id, "running")
    ids = [Increment(number=number).async_().call().id for number in range(2)]
    eventually(lambda: worker.lines("worker.draining"), "the process has reached its limit", WAIT_S, pair.output)

    later = [Increment(number=number).async_().call().id for number in range(2, 8)]
    # A process that still fetched would start them while the test waits for the others.
    for run in ids:
        pair.wait_for_status(run, "done", within_s=WAIT_S)
    assert pair.row(long_run.id)["status"] == "running"
    gate.touch()

    for run in (long_run.id, *later):
        pair.wait_for_status(run, "done", within_s=WAIT_S)
    recycled = eventually(lambda: worker.lines("worker.recycled"), "it is replaced", WAIT_S, pair.output)[0]
    assert f"pid={first} reason=max_runs" in recycled
    assert "memory_mb=" in recycled
    eventually(lambda: len(worker.children()) >= 3, "replacements are replaced too", WAIT_S, pair.output)
    assert events_of(worker, first) == ["worker.started", "worker.draining", "worker.recycled", "worker.stopped"]
    assert worker.lines("worker.died") + worker.lines("run.released") == [], pair.output()
    assert Counter(pair.effects()) == Counter(["nap 1", *(f"increment {number}" for number in range(8))])
    rows = [pair.row(run) for run in (long_run.id, *ids, *later)]
    assert {(row["num_attempts"], row["num_lost"]) for row in rows} == {(1, 0)}
    # The process may have fetched one message for its free thread at the moment when it reached its limit.
    early = [row for row in rows[3:] if row["started_at"] < rows[0]["completed_at"]]
    assert len(early) <= 1, pair.output()


def test_a_process_is_recycled_by_its_memory(deployment: Deployment) -> None:
    (deployment.folder / "hoarder.py").write_text(
        "from apps.accounts import *\n"
        "kept = []\n"
        "class Hoard(AccountsOperation):\n"
        "    def perform(self) -> None:\n"
        "        kept.append(b'x' * 400_000_000)\n"
        "        self.note('hoard')\n"
    )
    worker = deployment.start("--max-memory", "300MB", module="hoarder", threads=1)
    code = "from hoarder import Hoard; print(Hoard().async_().call().id)"
    run = deployment.run([sys.executable, "-c", code]).stdout.split()[-1]

    deployment.wait_for_status(run, "done", within_s=WAIT_S)
    eventually(lambda: len(worker.children()) == 2, "it is replaced", WAIT_S, deployment.output)
    (line,) = worker.lines("worker.recycled")
    assert "reason=max_memory num_runs=1" in line
    assert deployment.row(run)["num_attempts"] == 1


def test_a_limit_below_the_memory_at_the_start_is_an_error(deployment: Deployment) -> None:
    worked = deployment.dexpy("worker", "apps.accounts", "--burst", "-p", "1", "--max-memory", "20MB")

    assert worked.returncode == 2
    assert "max_memory: expected much more than the" in worked.stderr
    assert "got 20MB. Raise it." in worked.stderr


def test_processes_have_different_limits_below_the_setting() -> None:
    watchdog = Watchdog(lambda ids: (), lambda run: None)
    all_limits = [Recycling(1000, 10**9, watchdog, memory=lambda: MB) for _ in range(50)]

    for limits in ([each.max_runs for each in all_limits], [each.max_memory for each in all_limits]):
        numbers = {limit for limit in limits if limit is not None}
        assert len(numbers) > 20
        assert max(numbers) * (1 - JITTER) <= min(numbers) <= max(numbers)
    assert max(each.max_runs or 0 for each in all_limits) <= 1000


def test_memory_is_measured_in_bytes() -> None:
    before = resident_memory()
    kept = b"x" * (100 * MB)

    assert 20 * MB < before < 10_000 * MB
    assert 80 * MB < resident_memory() - before < 120 * MB
    del kept


@pytest.mark.parametrize("text", ["512", "512mb", "-1MB", "1KB", "9999999TB", "512 MB"])
def test_a_size_needs_a_unit(text: str) -> None:
    result = CliRunner().invoke(main, ["worker", "apps.accounts", f"--max-memory={text}"])

    assert result.exit_code == 2
    assert "expected a size from 16MB to 1000TB with its unit" in " ".join(result.output.split())


def test_without_a_limit_nothing_is_measured() -> None:
    watchdog = Watchdog(lambda ids: (), lambda run: None)
    watchdog.num_runs = 10**9

    assert not Recycling(None, None, watchdog, memory=lambda: pytest.fail("measured")).is_due()


def test_a_low_limit_names_the_setting_and_the_memory() -> None:
    watchdog = Watchdog(lambda ids: (), lambda run: None)
    with pytest.raises(ConfigurationError, match=r"^max_memory: .* 90MB .* got 95MB\. Raise it\.$"):
        Recycling(None, 95 * MB, watchdog, memory=lambda: 90 * MB)
