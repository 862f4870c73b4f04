"""Servers that a test starts for itself, because it kills, empties or restarts them.

If a program is missing, the test is skipped with the reason; with ``CI=true`` it fails.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
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


def fixed_port() -> int:
    """Return a free port that no client gets: one could connect to itself while its server still starts."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


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
        # The second port of a cluster's node is 10,000 higher.
        self.port = fixed_port()
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


RABBITMQ_SETTINGS = """
loopback_users = none
listeners.tcp.local = 127.0.0.1:{port}
consumer_timeout = {consumer_timeout_ms}
vm_memory_high_watermark.absolute = 4GB
disk_free_limit.absolute = 1MB
"""


class OwnRabbitmq:
    """A RabbitMQ node whose alarms a test may set.

    Args:
        folder: A temporary folder.
        consumer_timeout_s: Its `consumer_timeout`, in seconds.
    """

    def __init__(self, folder: Path, consumer_timeout_s: float) -> None:
        # The programs on the PATH change to the user of the service.
        search_path = os.pathsep.join(["/usr/lib/rabbitmq/bin", os.environ.get("PATH", "")])
        self._program, self._control = (
            require_program(name, shutil.which(name, path=search_path)) for name in ("rabbitmq-server", "rabbitmqctl")
        )
        self.port, distribution = fixed_port(), fixed_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"
        self._node = f"dexpy{self.port}@localhost"
        self._folder = folder
        settings = RABBITMQ_SETTINGS.format(port=self.port, consumer_timeout_ms=round(consumer_timeout_s * 1000))
        (folder / "rabbitmq.conf").write_text(settings)
        (folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 200}]}].")
        (folder / "plugins").write_text("[].")
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node, and wait until it accepts connections."""
        with (self._folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [*KILLED_WITH_PARENT, self._program], env=self._environment, stdout=output, stderr=output
            )
        eventually(self._is_started, "RabbitMQ starts", 90, (self._folder / "output").read_text)

    def _is_started(self) -> bool:
        return "completed with" in (self._folder / "output").read_text()

    def evaluate(self, expression: str) -> str:
        """Evaluate Erlang in the node."""
        completed = subprocess.run(
            [self._control, "-n", self._node, "eval", expression],
            env=self._environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def set_alarms(self, *, on: bool) -> None:
        """Set or clear the alarms of memory and disk, as the node does when they are exhausted."""
        action = "set_alarm" if on else "clear_alarm"
        alarm = "{{resource_limit, %s, node()}, []}" if on else "{resource_limit, %s, node()}"
        self.evaluate(", ".join(f"rabbit_alarm:{action}({alarm % resource})" for resource in ("memory", "disk")) + ".")

    def close_connections(self) -> None:
        """Close the connections of all clients, as ``rabbitmqctl close_all_connections`` does."""
        self.evaluate('[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections()].')

    def stop(self) -> None:
        """End the node."""
        if self._process is not None:
            subprocess.run(
                [self._control, "-n", self._node, "eval", "erlang:halt(0, [{flush, false}])."],
                env=self._environment, capture_output=True, timeout=60, check=False,
            )  # fmt: skip
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def rabbitmq_server(folder: Path, *, consumer_timeout_s: float) -> Generator[OwnRabbitmq]:
    """Start a RabbitMQ node for the tests of one file."""
    server = OwnRabbitmq(folder, consumer_timeout_s)
    try:
        server.start()
        yield server
    finally:
        server.stop()
