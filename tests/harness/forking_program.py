"""A configured program that forks and continues in both processes; each prints its result as a line of JSON.

Usage: python forking_program.py DATABASE_URL
"""

import json
import os
import sys
from collections.abc import Callable

import sqlalchemy as sa
from apps.mailer import NameConnection, connection_name
from sqlalchemy.orm import Session

import dexpy
from dexpy.database.tables import worker_sessions

ROUNDS = 10


def use_connections(side: str, first: int) -> None:
    """Call, enqueue and query while the other process does the same, and print the used connections."""
    connections = set()
    for number in range(first, first + ROUNDS):
        connections.add(NameConnection(number=number).call())
        ticket = NameConnection(number=number + 1000).async_().call()
        assert ticket.reload().pending
        with Session(dexpy.current_runtime().store.database.engine) as session:
            connections.add(connection_name(session.connection()))
    runtime = dexpy.current_runtime()
    # Before the heartbeat starts, which gives this process its own application name.
    with runtime.store.begin() as connection:
        session_rows = connection.execute(sa.select(worker_sessions.c.backend, worker_sessions.c.worker)).all()
    assert runtime.services.heartbeat is not None
    report = {"side": side, "connections": sorted(connections), "worker": runtime.services.heartbeat.start()}
    report["noted"] = [[row.worker, int(row.backend.split("/")[0])] for row in session_rows]
    # In a single write, because both processes may print concurrently.
    os.write(1, f"{json.dumps(report)}\n".encode())


def fork_and_run(work: Callable[[], None]) -> int:
    """Call a function in a forked process, and return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        dexpy.current_runtime().close()
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    runtime = dexpy.configure(database=sys.argv[1])
    # Engine, pool, broker and heartbeat exist before the fork; then one connection is in use and another one is idle.
    use_connections("before", 0)
    with runtime.store.database.engine.connect() as checked_out:
        runtime.store.database.engine.connect().close()
        name = connection_name(checked_out)
        child = fork_and_run(lambda: use_connections("child", 100))
        use_connections("parent", 200)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert connection_name(checked_out) == name, "the parent keeps its connection"
    use_connections("after", 300)
    runtime.close()
    sys.exit(ended)
