"""Embedded workers in real web servers: Uvicorn and Gunicorn, stopped, reloaded, forked and killed."""

from __future__ import annotations

import os
import re
import signal
import sys
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from apps.web import Pack
from harness.workers import TESTS, Deployment, Worker, eventually, is_alive

import dexpy
from dexpy.runtime import install

WAIT_S = 40.0
LISTENING = re.compile(r"(?:running on|Listening at:) http://127\.0\.0\.1:(\d+)")


class Site(Deployment):
    """Web servers with embedded workers on one SQLite file; dead workers are recovered within 5 s."""

    variables: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"DEXPY_RECOVER_WITHIN": "5s", **self.variables}

    def uvicorn(self, *arguments: str) -> Worker:
        return self.serve([sys.executable, "-m", "uvicorn", "apps.web:asgi", "--port", "0", *arguments])

    def gunicorn(self, *arguments: str) -> Worker:
        options = ["--bind", "127.0.0.1:0", "--threads", "2", *arguments]
        return self.serve([sys.executable, "-m", "gunicorn", "apps.web:wsgi", *options])

    def get(self, server: Worker) -> int:
        """Request the page, which has the pid of a serving process."""
        port = eventually(lambda: LISTENING.search(server.output()), "the server listens", WAIT_S, server.output)[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=WAIT_S) as response:
            return int(response.read())

    def worker_pids(self) -> list[int]:
        """The processes whose worker is registered."""
        return [row["pid"] for row in self.sql("SELECT pid FROM operation_workers WHERE threads = 2")]

    def pack(self, name: str) -> Any:
        """Enqueue a run that ends when a file exists."""
        return Pack(file=str(self.folder / name)).async_().call()

    def wait_for_start(self, name: str) -> None:
        file = self.folder / f"{name}.started"
        eventually(file.exists, f"{name} is running", WAIT_S, self.output)


@pytest.fixture
def site(tmp_path: Path) -> Generator[Site]:
    deployment = Site(tmp_path)
    deployment.variables = {}
    before = install(None)
    runtime = dexpy.configure(database=deployment.url, recover_within=5)
    runtime.store.prepare()
    yield deployment
    deployment.close()
    runtime.close()
    install(before)


def test_each_process_of_uvicorn_has_a_worker_and_the_runs_of_a_killed_one_are_recovered(site: Site) -> None:
    server = site.uvicorn("--workers", "2")
    eventually(lambda: len(site.worker_pids()) == 2, "both workers start", WAIT_S, server.output)
    ticket = site.pack("crate")
    site.wait_for_start("crate")
    killed = int(site.row(ticket.id)["claimed_by"].split(":")[1])
    assert killed in site.worker_pids()

    os.kill(killed, signal.SIGKILL)
    (site.folder / "crate").touch()

    packed_by = ticket.result(WAIT_S)
    assert packed_by != killed
    assert (ticket.reload().num_attempts, site.row(ticket.id)["num_lost"]) == (2, 1)
    slow = site.pack("slow")
    site.wait_for_start("slow")
    server.signal(signal.SIGTERM)
    (site.folder / "slow").touch()
    server.ended(WAIT_S)
    assert site.status(slow.id) == "done", "the shutdown waits for a run that ends in time"
    assert site.worker_pids() == []


def test_a_reload_of_uvicorn_stops_the_worker_and_starts_another_one(site: Site) -> None:
    site.variables = {"SHOP_SHUTDOWN_S": "0.1", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    watched = site.folder / "watched"
    watched.mkdir()
    (watched / "page.py").touch()
    server = site.uvicorn("--reload", "--reload-dir", str(watched))
    (first,) = eventually(site.worker_pids, "the worker starts", WAIT_S, server.output)
    ticket = site.pack("crate")
    site.wait_for_start("crate")

    (watched / "page.py").write_text("# changed")

    restarted = lambda: [pid for pid in site.worker_pids() if pid != first]  # noqa: E731
    (second,) = eventually(restarted, "another worker starts", WAIT_S, server.output)
    (site.folder / "crate").touch()
    assert ticket.result(WAIT_S) == second
    assert ticket.reload().num_attempts == 1, "the run that was released costs no attempt"
    assert site.row(ticket.id)["num_lost"] == 0


@pytest.mark.parametrize("options", [("-w", "2", "--preload"), ("-w", "1")], ids=["preloaded", "plain"])
def test_a_process_of_gunicorn_starts_its_worker_with_the_first_request_and_stops_it(
    site: Site, options: tuple[str, ...]
) -> None:
    site.variables = {"SHOP_SHUTDOWN_S": "0.1"}
    server = site.gunicorn(*options)
    pids = {site.get(server)}
    eventually(lambda: pids.add(site.get(server)) or len(pids) == int(options[1]), "all processes serve", WAIT_S)
    assert set(site.worker_pids()) == pids
    assert server.pid not in pids
    ticket = site.pack("crate")
    site.wait_for_start("crate")

    server.signal(signal.SIGTERM)

    assert server.ended(WAIT_S) == 0, server.output()
    assert site.worker_pids() == []
    assert (site.status(ticket.id), site.row(ticket.id)["num_attempts"]) == ("pending", 0)
    assert not any(map(is_alive, pids))


def test_a_worker_that_starts_before_gunicorn_forks_is_refused(site: Site) -> None:
    site.variables = {"SHOP_STARTS_AT_IMPORT": "1"}
    server = site.gunicorn("--preload")

    assert server.ended(WAIT_S) != 0
    assert "EmbeddedWorker: it was started in the main process of gunicorn, which forks its workers." in server.output()
