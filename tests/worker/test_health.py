"""The health endpoint of `dexpy worker`: which process is unhealthy and why, and clients that are slow or odd."""

from __future__ import annotations

import json
import os
import pickle
import re
import select
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from apps import shop
from apps.web import Pack
from harness.pairs import Pair, open_pair
from harness.proxy import Proxy
from harness.workers import HARNESS, Deployment, Worker, eventually

import dexpy
from dexpy.errors import ConfigurationError
from dexpy.runtime import install
from dexpy.worker import health_server
from dexpy.worker.health import Health
from dexpy.worker.health_server import HealthServer

WAIT_S = 40.0
DRAIN_S = 0.5
PORT = re.compile(r"health\.started .*\bport=(\d+)")


def fetch(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a response."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=WAIT_S) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def port_of(worker: Worker) -> int:
    return int(eventually(lambda: PORT.search(worker.output()), "the port is open", WAIT_S, worker.output)[1])


def await_status(worker: Worker, path: str, status: int, reason: str = "") -> dict[str, Any]:
    """Wait for a status whose body has a reason, and return the body."""
    port = port_of(worker)
    latest: tuple[int, dict[str, Any]] = (0, {})

    def observe() -> bool:
        nonlocal latest
        latest = fetch(port, path)
        return latest[0] == status and reason in json.dumps(latest[1])

    eventually(observe, f"{path} is {status}", WAIT_S, lambda: f"{latest}\n{worker.output()}")
    return latest[1]


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def failing(body: dict[str, Any]) -> list[tuple[int, str | None, str]]:
    """The processes that fail, with their groups and reasons."""
    processes = [one for one in body["processes"] if one["status"] == "failing"]
    return [(one["pid"], one.get("group"), "; ".join(one["reasons"])) for one in processes]


def test_the_endpoint_names_the_process_that_is_frozen_dead_or_stopping(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    (tmp_path / "dexpy.toml").write_text(
        '[health]\nport = 0\n[[workers]]\nname = "fast"\nqueues = ["default"]\nprocesses = 1\nthreads = 1\n'
        '[[workers]]\nname = "slow"\nqueues = ["low"]\nprocesses = 1\nthreads = 1\n'
    )
    (tmp_path / "pyproject.toml").unlink()
    before = install(None)
    try:
        worker = deployment.serve([sys.executable, str(HARNESS / "short_health.py"), "worker", "apps.web"])
        body = await_status(worker, "/ready", 200)
        assert body["status"] == "ok"
        pids = {one["group"]: one["pid"] for one in body["processes"]}
        assert set(pids) == {"fast", "slow"}
        assert fetch(port_of(worker), "/live")[0] == 200
        assert fetch(port_of(worker), "/metrics") == (404, {"error": "expected /live or /ready"})

        os.kill(pids["slow"], signal.SIGSTOP)
        for path in ("/live", "/ready"):
            ((pid, group, reason),) = failing(await_status(worker, path, 503, "main loop: no report for"))
            assert (pid, group) == (pids["slow"], "slow"), reason
        os.kill(pids["slow"], signal.SIGCONT)
        await_status(worker, "/live", 200)
        await_status(worker, "/ready", 200)

        os.kill(pids["fast"], signal.SIGKILL)
        ((pid, group, _),) = failing(await_status(worker, "/ready", 503, "the process exited with status -9"))
        assert (pid, group) == (pids["fast"], "fast")
        assert fetch(port_of(worker), "/live")[0] == 200, "the supervisor replaces it"
        await_status(worker, "/ready", 200)

        dexpy.configure(database=deployment.url)
        Pack(file=str(tmp_path / "crate")).async_().call()
        eventually((tmp_path / "crate.started").exists, "the run has started", WAIT_S, worker.output)
        worker.signal(signal.SIGTERM)
        eventually(lambda: len(worker.lines("worker.draining")) == 2, "both drain", WAIT_S, worker.output)
        # No request meanwhile: the supervisor would read the reports for the response.
        spent_s = cpu_s(worker.pid)
        threading.Event().wait(DRAIN_S)
        assert cpu_s(worker.pid) - spent_s < DRAIN_S / 10, "the supervisor waits for the processes"
        await_status(worker, "/ready", 503, "the worker is stopping")
        assert fetch(port_of(worker), "/live")[0] == 200
        (tmp_path / "crate").touch()
        assert worker.ended(WAIT_S) == 0, worker.output()
    finally:
        deployment.close()
        if (runtime := install(before)) is not None:
            runtime.close()


@pytest.fixture
def cut_pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[tuple[Pair, Proxy]]:
    """A pair whose database or broker is reached through a proxy."""
    name, cut = request.param
    with open_pair(name, tmp_path, shop) as pair:
        proxy = Proxy(str(pair.url if cut == "database" else pair.broker))
        pair.variables = {"DEXPY_RECOVER_WITHIN": "5s", f"DEXPY_{cut.upper()}": proxy.url}
        yield pair, proxy
        proxy.end()


@pytest.mark.parametrize(
    ("cut_pair", "reason"),
    [
        (("sqlite+redis", "broker"), "broker: the queue 'default' was last polled"),
        pytest.param(("postgresql+sql", "database"), "heartbeat: it was last renewed", marks=pytest.mark.servers),
        pytest.param(("postgresql+redis", "database"), "heartbeat: it was last renewed", marks=pytest.mark.servers),
        pytest.param(("mariadb+rabbitmq", "broker"), "broker: the queue 'default' was last", marks=pytest.mark.servers),
        pytest.param(("mariadb+sql", "database"), "broker: the queue 'default' was last", marks=pytest.mark.servers),
    ],
    indirect=["cut_pair"],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_a_server_that_is_away_makes_a_worker_unready_until_it_is_back(
    cut_pair: tuple[Pair, Proxy], reason: str
) -> None:
    pair, proxy = cut_pair
    command = [sys.executable, str(HARNESS / "short_health.py"), "worker", "apps.shop", "-p", "1", "-t", "2"]
    worker = pair.serve([*command, "--health-port", "0"])
    await_status(worker, "/ready", 200)

    proxy.close()

    await_status(worker, "/ready", 503, reason)
    assert fetch(port_of(worker), "/live")[0] == 200
    proxy.open()
    await_status(worker, "/ready", 200)


# ------------------------------------------------------------------------------------------------- clients


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Generator[HealthServer]:
    """A server whose clients have half a second."""
    monkeypatch.setattr(health_server, "CLIENT_TIMEOUT_S", 0.5)
    server = HealthServer("127.0.0.1", 0, lambda path: (200, {"path": path}) if path == "/live" else None)
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            server.serve(0.02)

    thread = threading.Thread(target=serve)
    thread.start()
    yield server
    is_over.set()
    thread.join()
    server.close()


def ask(server: HealthServer, request: bytes) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)) as client:
        client.sendall(request)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
        (b"GET /live?verbose=1 HTTP/1.0\n\n", b"200 OK"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"GET /../live HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /live HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", b"405 Method Not Allowed"),
        (b"nonsense\r\n\r\n", b"400 Bad Request"),
        (b"GET /\xff\x00 HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400 Bad Request"),
        (b"GET /live HTTP/1.1\r\nX: " + b"x" * 20_000, b"431 Request Header Fields Too Large"),
    ],
)
def test_each_request_has_a_response_in_json(served: HealthServer, request_bytes: bytes, status: bytes) -> None:
    try:
        response = ask(served, request_bytes)
    except ConnectionResetError:
        # The server closes the connection while the client still sends.
        assert status.startswith(b"431")
        return
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body)


def test_a_request_without_a_body_has_the_headers_only(served: HealthServer) -> None:
    head, _, body = ask(served, b"HEAD /live HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b""


def test_clients_that_send_nothing_delay_no_other_one_and_are_closed(served: HealthServer) -> None:
    silent = [socket.create_connection(("127.0.0.1", served.port), timeout=WAIT_S) for _ in range(100)]
    silent[0].close()
    for client in silent[1:]:
        client.sendall(b"GET /li")
    assert fetch(served.port, "/live") == (200, {"path": "/live"})
    for client in silent[1:]:
        try:
            assert client.recv(100) == b""
        except ConnectionResetError:
            pass
        client.close()


def test_a_port_in_use_is_one_error(served: HealthServer) -> None:
    with pytest.raises(ConfigurationError, match=rf"--health-port: cannot listen on '127.0.0.1', port {served.port}: "):
        HealthServer("127.0.0.1", served.port, lambda path: None)
    with pytest.raises(ConfigurationError, match="cannot listen on 'no.such.host.invalid'"):
        HealthServer("no.such.host.invalid", 0, lambda path: None)


def test_a_report_fits_into_one_write_to_a_pipe() -> None:
    health = Health(live=("é" * 1000,) * 100, ready=("x" * 1000,) * 100)
    assert len(pickle.dumps(("health", health.encode()))) < select.PIPE_BUF
    assert Health.decode(Health(("a",), ("b",), True).encode()) == Health(("a",), ("b",), True)


def test_an_embedded_worker_has_its_health(tmp_path: Path) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'records.db'}")
    embedded = dexpy.EmbeddedWorker(threads=1)
    assert embedded.health().ready == ("the worker is not running",)
    with embedded:
        health = embedded.health()
        assert (health.is_live, health.is_ready, health.live, health.ready) == (True, True, (), ())
    runtime.close()
