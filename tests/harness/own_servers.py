"""Servers that a test starts for itself, because it kills, empties or restarts them.

If a program is missing, the test is skipped with the reason; with ``CI=true`` it fails.
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
import sqlalchemy as sa

from harness.workers import KILLED_WITH_PARENT, eventually

STARTS_WITHIN_S = 30.0


def require_program(name: str, path: str | None) -> str:
    """Return the path of a program; without one, skip the test, or fail it with ``CI=true``."""
    if path is not None:
        return path
    reason = f"{name} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class OwnRedis:
    """A Redis server without persistence.

    Args:
        folder: A temporary folder.
        options: Further options of the command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._options = options
        self._program = require_program("redis-server", own_redis.program())
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis.from_url(self.url, retry=None)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, and wait until it replies."""
        # A configuration file must come first.
        options = [*self._options, "--port", str(self.port), "--bind", "127.0.0.1"]
        if "--sentinel" not in self._options:
            options += ["--save", "", "--appendonly", "no"]
        command = [*KILLED_WITH_PARENT, self._program, *options, "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        eventually(self._replies, "Redis starts", STARTS_WITHIN_S)

    def _replies(self) -> bool:
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.client.ping())
        return False

    def kill(self) -> None:
        """Kill the server; its data is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Generator[OwnRedis]:
    """Start a Redis server for one test."""
    folder.mkdir(exist_ok=True)
    server = OwnRedis(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.client.close()
        server.kill()


@contextlib.contextmanager
def sentinel(folder: Path, primary: OwnRedis) -> Generator[OwnRedis]:
    """Start a Sentinel that watches a primary under the name ``mymaster``, and promotes its replica at once."""
    folder.mkdir()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"sentinel monitor mymaster 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds mymaster 500\n"
        "sentinel failover-timeout mymaster 2000\n"
    )
    with redis_server(folder, str(settings), "--sentinel") as server:
        yield server


class OwnPostgres:
    """A PostgreSQL cluster with one database, ``postgres``.

    Args:
        folder: A folder that its user can access.
        user: The user of the server process, which refuses to run as root.
    """

    def __init__(self, folder: Path, user: str) -> None:
        # Packages install the programs outside of the PATH.
        packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        search_path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, packaged)])
        initdb, self._program = (
            require_program(name, shutil.which(name, path=search_path)) for name in ("initdb", "postgres")
        )
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+psycopg://{user}@127.0.0.1:{self._port}/postgres"
        self._options: dict[str, Any] = {"user": user} if os.geteuid() == 0 else {}
        completed = subprocess.run(
            [initdb, "-D", str(folder / "data"), "-U", user, "-A", "trust", "--no-sync"],
            cwd="/", capture_output=True, text=True, timeout=60, check=False, **self._options,
        )  # fmt: skip
        assert completed.returncode == 0, completed.stderr

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        locations = ["-D", str(self._folder / "data"), "-k", str(self._folder), "-p", str(self._port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*KILLED_WITH_PARENT, self._program, *locations, "-c", "listen_addresses=127.0.0.1"],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._options,
            )  # fmt: skip
        eventually(self._accepts_connections, "PostgreSQL starts", STARTS_WITHIN_S, (self._folder / "log").read_text)

    def _accepts_connections(self) -> bool:
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        with contextlib.suppress(sa.exc.OperationalError), engine.connect():
            return True
        return False

    def restart(self) -> None:
        """Restart the server as ``pg_ctl restart -m fast`` does; this ends every connection."""
        self._end(signal.SIGINT)
        self.start()

    def stop(self) -> None:
        """Stop the server immediately, without a checkpoint."""
        self._end(signal.SIGQUIT)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(STARTS_WITHIN_S)
            self._process = None


@contextlib.contextmanager
def postgres_server() -> Generator[OwnPostgres]:
    """Start a PostgreSQL server for one test."""
    # Only root can access the temporary folders of pytest.
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
