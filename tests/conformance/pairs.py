"""One pair of a database and a broker, with real worker processes on it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import dramatiq
import market
import servers
import sqlalchemy as sa
from workers import HERE as JOURNEYS
from workers import MARK, ROOT, SECRET_FREE, Shop, eventually

import dexpy
from dexpy.recording import schema
from dexpy.recording.database import Database
from dexpy.recording.tables import records

HERE = Path(__file__).parent
PAIRS = [f"{database}+{broker}" for database in servers.DATABASES for broker in servers.BROKERS]


class Captured(dramatiq.Middleware):
    """Keeps what is handed to the broker in this process."""

    def __init__(self) -> None:
        self.messages: list[dramatiq.Message[Any]] = []

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        self.messages.append(message)


class Pair(Shop):
    """A folder, a database and a broker of one's own.

    Args:
        folder: A temporary one.
        url: Of the database.
        broker: Its URL; None where the database carries the messages.
        application: The module of its operations, which can `furnish` a database.
    """

    def __init__(self, folder: Path, url: str, broker: str | None, application: ModuleType = market) -> None:
        super().__init__(folder)
        self.url = url
        self.broker = broker
        self.application = application
        self.runtime: dexpy.Runtime | None = None
        self.variables: dict[str, str] = {}
        self.engine = sa.create_engine(url, poolclass=sa.NullPool)

    @property
    def is_transactional(self) -> bool:
        """Whether messages are rows beside the records."""
        return self.broker is None

    @property
    def environment(self) -> dict[str, str]:
        """For a process of the pair."""
        named = {"DEXPY_DATABASE": self.url} | ({"DEXPY_BROKER": self.broker} if self.broker else {})
        return SECRET_FREE | named | {
            "PYTHONPATH": os.pathsep.join(map(str, (HERE, JOURNEYS, ROOT))),
            "PYTHONUNBUFFERED": "1",
            MARK: str(os.getpid()),
            **self.variables,
        }  # fmt: skip

    def furnish(self) -> None:
        """Make dexpy's tables, by what ``dexpy db init`` calls, and the application's with a few rows."""
        database = Database(self.url)
        with database.begin() as connection:
            schema.create(connection)
        database.dispose()
        self.application.furnish(self.engine)

    def configure(self) -> dexpy.Runtime:
        """Put this pair in force for the process of the tests."""
        self.runtime = dexpy.configure(database=self.url, broker=self.broker)
        return self.runtime

    def start(self, *arguments: str, module: str | None = None, processes: int = 1, threads: int = 4) -> Any:
        """Start ``dexpy worker``; see `Shop.start`."""
        module = module or self.application.__name__
        return super().start(*arguments, module=module, processes=processes, threads=threads)

    def start_hasty(self, module: str, grace_s: float) -> Any:
        """Start a worker that looks again soon at what it does not know; see `hasty`."""
        script = str(HERE / "hasty.py")
        worker = self.serve([sys.executable, script, str(grace_s), "worker", module, "-p", "1", "-t", "4"])
        worker.await_started(1)
        return worker

    def dramatiq(self, *arguments: str) -> Any:
        """Start plain ``dramatiq``, and wait until it is ready."""
        worker = self.serve([sys.executable, "-m", "dramatiq", *arguments])
        eventually(lambda: "ready for action" in worker.output(), "dramatiq starts", 30, worker.output)
        return worker

    def sql(self, statement: Any, *parameters: Any, **named: Any) -> Any:
        """Ask the database without dexpy."""
        assert not parameters
        with self.engine.connect() as connection:
            return connection.execute(sa.text(statement) if isinstance(statement, str) else statement, named).all()

    def change(self, statement: Any, **named: Any) -> int:
        """Change the database without dexpy, and say how many rows."""
        with self.engine.begin() as connection:
            changed = connection.execute(sa.text(statement) if isinstance(statement, str) else statement, named)
            return int(changed.rowcount)

    def row(self, id: str) -> dict[str, Any]:
        """One record, past dexpy's store."""
        (found,) = self.sql(sa.select(records).where(records.c.id == id))
        return dict(found._mapping)

    def effects(self, pattern: str = "%") -> list[str]:
        """What operations have done, in order."""
        return [row[0] for row in self.sql("SELECT what FROM effects WHERE what LIKE :p ORDER BY id", p=pattern)]

    def effects_of(self, run_id: str) -> list[str]:
        """What one run has done."""
        return [row[0] for row in self.sql("SELECT what FROM effects WHERE run = :run ORDER BY id", run=run_id)]

    def lying(self, queue: str) -> list[str]:
        """The messages that wait in a queue, or are held by whoever runs them; read without dexpy."""
        if self.broker is None:
            found = self.sql("SELECT payload FROM dexpy_messages WHERE queue = :queue AND NOT dead", queue=queue)
            return [row.payload for row in found]
        return servers.lying(self.broker, queue)

    def end(self) -> None:
        """End the workers and what this process has open, before the servers are taken away."""
        for worker in self.workers:
            worker.stop()
        if self.runtime is not None:
            self.runtime.close()

    def close(self) -> None:
        """End what is left over."""
        super().close()
        if self.runtime is not None:
            self.runtime.close()
        self.engine.dispose()


@contextlib.contextmanager
def opened(name: str, folder: Path, application: ModuleType = market) -> Generator[Pair]:
    """A pair with its tables, closed afterwards.

    Args:
        name: One of `PAIRS`.
        folder: A temporary one.
        application: See `Pair`.
    """
    kind, _, carrier = name.partition("+")
    with servers.database(kind, folder) as url, servers.broker(carrier) as broker:
        pair = Pair(folder, url, broker, application)
        try:
            pair.furnish()
            yield pair
        finally:
            pair.close()
