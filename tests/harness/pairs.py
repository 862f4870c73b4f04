"""A pair of a database and a broker with real worker processes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import dramatiq
import servers
import sqlalchemy as sa
from apps import shop

import dexpy
from dexpy.database import schema
from dexpy.database.engine import Database
from dexpy.database.tables import records
from harness.workers import HARNESS, MARK, ROOT, SECRET_FREE, TESTS, Deployment, eventually

PAIRS = [f"{database}+{broker}" for database in servers.DATABASES for broker in servers.BROKERS]


class CapturedMessages(dramatiq.Middleware):
    """Collects the messages that this process publishes."""

    def __init__(self) -> None:
        self.messages: list[dramatiq.Message[Any]] = []

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        self.messages.append(message)


class Pair(Deployment):
    """A deployment with a database and a broker.

    Args:
        folder: A temporary folder.
        url: The URL of the database.
        broker: The URL of the broker; None for the SQL broker.
        application: The module of its operations, with a function `create_tables`.
    """

    def __init__(self, folder: Path, url: str, broker: str | None, application: ModuleType = shop) -> None:
        super().__init__(folder)
        self.url = url
        self.broker = broker
        self.application = application
        self.runtime: dexpy.Runtime | None = None
        self.variables: dict[str, str] = {}
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)

    @property
    def is_transactional(self) -> bool:
        """Whether messages are stored in the database of the records."""
        return self.broker is None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process of the pair."""
        settings = {"DEXPY_DATABASE": self.url} | ({"DEXPY_BROKER": self.broker} if self.broker else {})
        return SECRET_FREE | settings | {
            "PYTHONPATH": os.pathsep.join(map(str, (TESTS, ROOT))),
            "PYTHONUNBUFFERED": "1",
            MARK: str(os.getpid()),
            **self.variables,
        }  # fmt: skip

    def create_tables(self) -> None:
        """Create dexpy's tables, as ``dexpy db init`` does, and the application's tables with a few rows."""
        database = Database(self.url)
        with database.begin() as connection:
            schema.create(connection)
        database.dispose()
        self.application.create_tables(self.engine)

    def configure(self) -> dexpy.Runtime:
        """Configure dexpy in the test process with this pair."""
        self.runtime = dexpy.configure(database=self.url, broker=self.broker)
        return self.runtime

    def start(self, *arguments: str, module: str | None = None, processes: int = 1, threads: int = 4) -> Any:
        """Start ``dexpy worker``; see `Deployment.start`."""
        module = module or self.application.__name__
        return super().start(*arguments, module=module, processes=processes, threads=threads)

    def start_with_short_grace(self, module: str, grace_s: float) -> Any:
        """Start a worker with short intervals for unknown operations; see `short_grace`."""
        script = str(HARNESS / "short_grace.py")
        worker = self.serve([sys.executable, script, str(grace_s), "worker", module, "-p", "1", "-t", "4"])
        worker.await_started(1)
        return worker

    def dramatiq(self, *arguments: str) -> Any:
        """Start plain ``dramatiq``, and wait until it is ready."""
        worker = self.serve([sys.executable, "-m", "dramatiq", *arguments])
        eventually(lambda: "ready for action" in worker.output(), "dramatiq starts", 30, worker.output)
        return worker

    def sql(self, statement: Any, *parameters: Any, **values: Any) -> Any:
        """Query the database without dexpy."""
        assert not parameters
        with self.engine.connect() as connection:
            return connection.execute(sa.text(statement) if isinstance(statement, str) else statement, values).all()

    def change(self, statement: Any, **values: Any) -> int:
        """Change the database without dexpy, and return the number of rows."""
        with self.engine.begin() as connection:
            changed = connection.execute(sa.text(statement) if isinstance(statement, str) else statement, values)
            return int(changed.rowcount)

    def row(self, id: str) -> dict[str, Any]:
        """Return one record, read without dexpy's store."""
        (record,) = self.sql(sa.select(records).where(records.c.id == id))
        return dict(record._mapping)

    def effects(self, pattern: str = "%") -> list[str]:
        """Return the effects of operations, in order of their rows."""
        return [row[0] for row in self.sql("SELECT what FROM effects WHERE what LIKE :p ORDER BY id", p=pattern)]

    def effects_of(self, run_id: str) -> list[str]:
        """Return the effects of one run."""
        return [row[0] for row in self.sql("SELECT what FROM effects WHERE run = :run ORDER BY id", run=run_id)]

    def queued(self, queue: str) -> list[str]:
        """Return the messages that wait in a queue or are held by a worker; read without dexpy."""
        if self.broker is None:
            rows = self.sql("SELECT payload FROM dexpy_messages WHERE queue = :queue AND NOT dead", queue=queue)
            return [row.payload for row in rows]
        return servers.queued(self.broker, queue)

    def end(self) -> None:
        """Stop the workers and close connections of this process, before the servers are removed."""
        for worker in self.workers:
            worker.stop()
        if self.runtime is not None:
            self.runtime.close()

    def close(self) -> None:
        """End remaining workers and close the connections of this process."""
        super().close()
        if self.runtime is not None:
            self.runtime.close()
        self.engine.dispose()


@contextlib.contextmanager
def open_pair(name: str, folder: Path, application: ModuleType = shop) -> Generator[Pair]:
    """Yield a pair with its tables, and close it afterwards.

    Args:
        name: One of `PAIRS`.
        folder: A temporary folder.
        application: See `Pair`.
    """
    kind, _, transport = name.partition("+")
    with servers.database(kind, folder) as url, servers.broker(transport) as broker:
        pair = Pair(folder, url, broker, application)
        try:
            pair.create_tables()
            yield pair
        finally:
            pair.close()
