"""The stage of a run: a separate database and broker, and functions that damage them.

PostgreSQL and Redis servers are started for the run if their programs are installed: then PostgreSQL is restarted
without a shutdown, and Redis is emptied. Otherwise the servers of the tests are used, with a separate database,
namespace or virtual host, and connections are cut from outside. Other data is never touched.
"""

from __future__ import annotations

import contextlib
import glob
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import attrs
import servers
import sqlalchemy as sa

from chaos.tables import ACCOUNTS, Account, Model

DATABASES = servers.DATABASES
BROKERS = servers.BROKERS
PAIRS = [f"{database}+{broker}" for database in DATABASES for broker in BROKERS]
START_S = 30.0
"""The time in which a server must start, in seconds."""


@attrs.define
class Stage:
    """The database and the broker of one run.

    Attributes:
        pair: Their names.
        database: The URL of the database.
        broker: The URL of the broker; None for the SQL broker.
        shake: Cuts off or restarts the database server; None for SQLite.
        shake_is: The name of that fault in the table.
        empty: Deletes all messages of the broker; None for the SQL broker.
        outages: When the database was unavailable, from and to.
    """

    pair: str
    database: str
    broker: str | None
    shake: Callable[[], None] | None
    shake_is: str
    empty: Callable[[], None] | None
    outages: list[tuple[float, float]] = attrs.field(factory=list)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file, and worker liveness is a file lock."""
        return self.database.startswith("sqlite")

    @property
    def pushes(self) -> bool:
        """Whether the broker pushes messages to consumers."""
        return self.broker is not None and self.broker.startswith("amqp")

    def shake_database(self) -> None:
        """Cut the database off, and record for how long it was unavailable."""
        assert self.shake is not None
        began = time.time()
        self.shake()
        self.outages.append((began, time.time()))


def missing(pair: str) -> str | None:
    """Return why a pair cannot be tested here; None if it can."""
    for name in pair.split("+"):
        find_programs = {"postgresql": _postgresql_programs, "redis": lambda: shutil.which("redis-server")}.get(name)
        if name in ("sqlite", "sql") or (find_programs is not None and find_programs() is not None):
            continue
        if (why := servers.absent(name)) is not None:
            return f"no {name}: {why}"
    return None


@contextlib.contextmanager
def open_stage(pair: str, folder: Path) -> Generator[Stage]:
    """Yield a stage, and remove it afterwards.

    Args:
        pair: One of `PAIRS`.
        folder: The folder of a SQLite file.
    """
    kind, _, transport = pair.partition("+")
    with contextlib.ExitStack() as stack:
        shake_is = "connections of the database cut"
        if kind == "postgresql" and _postgresql_programs() is not None:
            database, shake = stack.enter_context(_own_postgresql())
            shake_is = "PostgreSQL restarted without a shutdown"
        else:
            database = stack.enter_context(servers.database(kind, folder))
            shake = None if kind == "sqlite" else stack.enter_context(servers.cutting(database))
        if transport == "redis" and shutil.which("redis-server"):
            broker, empty = stack.enter_context(_own_redis(folder))
        else:
            broker = stack.enter_context(servers.broker(transport))
            empty = None if broker is None else _purging(broker)
        yield Stage(pair, database, broker, shake, shake_is, empty)


def _free_port() -> int:
    """Return a free port outside of the range of outgoing connections, which might take it."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _postgresql_programs() -> Path | None:
    """Return the folder of initdb and pg_ctl, if this user can create a server."""
    places = [shutil.which("initdb"), *sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), reverse=True)]
    for place in filter(None, places):
        programs = Path(place).resolve().parent
        if (programs / "pg_ctl").exists() and (os.getuid() != 0 or _knows("postgres")):
            return programs
    return None


def _knows(user: str) -> bool:
    import pwd

    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


@contextlib.contextmanager
def _own_postgresql() -> Generator[tuple[str, Callable[[], None]]]:
    """Yield the URL of a separate server, and a function that restarts it without a shutdown."""
    programs = _postgresql_programs()
    assert programs is not None
    is_root = os.getuid() == 0
    # PostgreSQL refuses to run as root, and other users may not have access to the temporary folder.
    home = Path(tempfile.mkdtemp(prefix="chaos-postgresql-", dir="/tmp" if is_root else None))
    other: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if is_root else {}
    if is_root:
        shutil.chown(home, "postgres", "postgres")
    data, log, port = home / "data", home / "log", _free_port()
    settings = f"-p {port} -h 127.0.0.1 -k {home}"

    def control(*arguments: str) -> None:
        command = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-l", str(log), "-o", settings, *arguments]
        # The server inherits the output, so a pipe would never be closed.
        ended = subprocess.run(command, cwd=home, stdout=subprocess.DEVNULL, timeout=START_S * 2, **other)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}: {log.read_text()[-2000:]}")

    try:
        make = [str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"]
        subprocess.run(make, check=True, cwd=home, stdout=subprocess.DEVNULL, timeout=START_S * 2, **other)
        control("start")
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres", lambda: control("restart", "-m", "immediate")
    finally:
        with contextlib.suppress(subprocess.SubprocessError, RuntimeError, OSError):
            control("stop", "-m", "immediate")
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _own_redis(folder: Path) -> Generator[tuple[str, Callable[[], None]]]:
    """Yield the URL of a separate server, and a function that empties it."""
    import redis

    port = _free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    try:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                break
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server does not answer")
            time.sleep(0.05)

        def empty() -> None:
            client.flushall()

        yield f"redis://127.0.0.1:{port}/0", empty
    finally:
        client.close()
        server.terminate()
        server.wait(10)


def _purging(broker: str) -> Callable[[], None]:
    """Return a function that empties the namespace or virtual host of a shared broker."""
    return (lambda: _purge_namespace(broker)) if broker.startswith("redis") else (lambda: _purge_queues(broker))


def _purge_namespace(broker: str) -> None:
    import redis

    address, _, namespace = broker.partition("?namespace=")
    with redis.Redis.from_url(address) as client:
        for key in list(client.scan_iter(f"{namespace}:*", count=1000)):
            client.delete(key)


def _purge_queues(broker: str) -> None:
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(broker))
    try:
        for queue in ("default", "default.DQ", "loud", "loud.DQ"):
            channel = connection.channel()
            with contextlib.suppress(pika.exceptions.ChannelClosedByBroker):
                channel.queue_purge(queue)
    finally:
        connection.close()


def create_tables(stage: Stage) -> sa.Engine:
    """Recreate all tables, and return an engine for the audit: without dexpy, and with a new connection each time."""
    from dexpy.database import schema
    from dexpy.database.column_types import metadata

    engine = sa.create_engine(stage.database, poolclass=sa.NullPool)
    with engine.begin() as connection:
        Model.metadata.drop_all(connection)
        metadata.drop_all(connection)
        schema.create(connection)
        Model.metadata.create_all(connection)
        accounts = [{"id": number, "balance": 0} for number in range(1, ACCOUNTS + 1)]
        connection.execute(sa.insert(Account), accounts)
    return engine
