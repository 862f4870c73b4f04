"""Servers that a test starts for itself, because it kills, empties or restarts them.

Where a program is missing the test is skipped with the reason; with ``CI=true`` it fails.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import own_redis
import pytest
import redis
from workers import eventually

STARTS_WITHIN_S = 30.0


def need(name: str, found: str | None) -> str:
    """The path of a program; skips the test where there is none, or fails it with ``CI=true``."""
    if found is not None:
        return found
    reason = f"{name} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class OwnRedis:
    """A Redis server that keeps nothing on disk.

    Args:
        folder: A temporary one.
    """

    def __init__(self, folder: Path) -> None:
        self._program = need("redis-server", own_redis.program())
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis.from_url(self.url, retry=None)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [self._program, *options, "--dir", str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        eventually(self._answers, "Redis starts", STARTS_WITHIN_S)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False

    def kill(self) -> None:
        """End it at once; all that it had is gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def redis_server(folder: Path) -> Generator[OwnRedis]:
    """A Redis server for one test."""
    server = OwnRedis(folder)
    try:
        server.start()
        yield server
    finally:
        server.client.close()
        server.kill()


class OwnPostgres:
    """A cluster of PostgreSQL with one database, ``postgres``.

    Args:
        folder: That its user may enter.
        user: Whose it is: the server refuses to be root's.
    """

    def __init__(self, folder: Path, user: str) -> None:
        # Not on the path, where packages put them.
        places = [
            os.environ.get("PATH", ""),
            *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
        ]
        self._pg_ctl, initdb = (
            need(name, shutil.which(name, path=os.pathsep.join(places))) for name in ("pg_ctl", "initdb")
        )
        self._user = user
        self._folder = folder
        self._data = folder / "data"
        self._port = free_port()
        self.url = f"postgresql+psycopg://{user}@127.0.0.1:{self._port}/postgres"
        self._run([initdb, "-D", str(self._data), "-U", user, "-A", "trust", "--no-sync"])

    def start(self) -> None:
        """Start it, and wait until it lets somebody in."""
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1"
        self._control("start", "-o", options, "-l", str(self._folder / "log"))

    def restart(self) -> None:
        """Restart it as an administrator does: every connection is cut."""
        self._control("restart", "-m", "fast")

    def stop(self) -> None:
        """End it without tidying up."""
        if (self._data / "postmaster.pid").exists():
            self._control("stop", "-m", "immediate")

    def _control(self, action: str, *options: str) -> None:
        self._run([self._pg_ctl, action, "-w", "-D", str(self._data), *options])

    def _run(self, command: list[str]) -> None:
        user = self._user if os.geteuid() == 0 else None
        # Not through pipes: the server inherits them, and they would stay open as long as it lives.
        with (self._folder / "output").open("ab") as output:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            done = subprocess.run(command, user=user, cwd="/", timeout=60, check=False, **streams)
        assert done.returncode == 0, (command, (self._folder / "output").read_text())


@contextlib.contextmanager
def postgres_server() -> Generator[OwnPostgres]:
    """A PostgreSQL server for one test."""
    # Beside the folders of the tests, which only root may enter.
    folder = Path(tempfile.mkdtemp(prefix="dexpy-postgres-", dir="/tmp"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    try:
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        server = OwnPostgres(folder, user)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
