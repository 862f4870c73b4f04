"""``dexpy check``: everything that would go wrong at a start, before the start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import attrs
import click

from dexpy.cli.worker import processes_option, threads_option
from dexpy.foundation.errors import DexpyError, listed

if TYPE_CHECKING:
    from dexpy.recording.database import Database
    from dexpy.recording.server import Limit
    from dexpy.recording.store import Store
    from dexpy.runtime import Runtime


@attrs.frozen
class Finding:
    """One thing that was looked at.

    Attributes:
        what: It is.
        said: What is wrong with it, or worth knowing.
        word: ok, warn or FAIL.
    """

    what: str
    said: str | None = None
    word: str = "ok"

    @property
    def failed(self) -> bool:
        """Whether nothing would start like this."""
        return self.word == "FAIL"

    def __str__(self) -> str:
        return f"{self.word:4} {self.what}" + ("" if self.said is None else f": {self.said}")


@click.command()
@click.argument("modules", nargs=-1, metavar="[MODULE]...")
@processes_option
@threads_option
def check(modules: tuple[str, ...], processes: int, threads: int) -> None:
    """Try the settings, the modules, the database and the broker; status 1 if one of them will not do.

    MODULE, -p and -t are those of `dexpy worker`. A warning changes no status.
    """
    failed = False
    for finding in findings(modules, processes, threads):
        failed = failed or finding.failed
        click.echo(str(finding))
    sys.exit(1 if failed else 0)


def findings(modules: tuple[str, ...], processes: int, threads: int) -> Iterator[Finding]:
    """Everything that is looked at, in the order in which one thing needs another."""
    from dexpy.background.worker import import_modules
    from dexpy.runtime import current_runtime

    for module in modules:
        yield _tried(f"module {module}", partial(import_modules, (module,)))
    settings = _tried("settings", current_runtime)
    yield settings
    if settings.failed:
        return
    runtime = current_runtime()
    if runtime.is_recording:
        named = _tried("database", lambda: runtime.store)
        if named.failed:
            yield named
            return
        database = _tried(f"database {runtime.store.database.display}", runtime.store.prepare)
        yield database
        if not database.failed:
            yield from _about_server(runtime.store.database, processes, threads)
            yield from _about_sessions(runtime.store)
            yield from _about_takeover(runtime.store)
            yield from _about_records(runtime.store)
        elif runtime.carries_its_queue:
            # The same server once more would only be the same answer once more.
            return
    yield from _about_encryptors(runtime)
    broker = _tried("broker", lambda: runtime.broker)
    if not broker.failed:
        broker = _tried(_named(runtime.broker), lambda: _reach(runtime.broker))
    yield broker


def _about_encryptors(runtime: Runtime) -> Iterator[Finding]:
    """Whether everything that the modules want encrypted could be."""
    from dexpy.declaration import registry

    wanted: dict[str, set[str]] = {}
    for contract in (registry.find(name).contract for name in registry.names()):
        used = {*contract.sealed_props.values(), *([contract.encryptor] if contract.encryptor else [])}
        for name in used - set(runtime.encryptors):
            wanted.setdefault(name, set()).add(contract.name)
    for name, operations in sorted(wanted.items()):
        said = f"{listed(operations)} cannot be sent or run here. Give its keys, as to those who have it already."
        yield Finding(f"encryptor {name!r} is missing", said, "warn")


def _about_server(database: Database, processes: int, threads: int) -> Iterator[Finding]:
    """What a server says of itself, if it is one and will say it."""
    from sqlalchemy.exc import SQLAlchemyError

    from dexpy.recording.server import clock_ahead_s, connection_limit

    yield from _about_pool(threads)
    if database.is_sqlite:
        return
    try:
        with database.begin() as connection:
            ahead_s, limit = clock_ahead_s(connection), connection_limit(connection)
    except (DexpyError, SQLAlchemyError) as error:
        said = f"its clock and limits could not be asked for: {type(error).__name__}. Ask its administrator."
        yield Finding("server", said, "warn")
        return
    if ahead_s is not None:
        yield _about_clock(ahead_s)
    if limit is not None:
        yield _about_connections(limit, processes, threads)


def _about_takeover(store: Store) -> Iterator[Finding]:
    """Whether the database sessions of a frozen worker can be ended, before its runs are given away."""
    from sqlalchemy.exc import SQLAlchemyError

    from dexpy.recording.server import is_pooled, may_end

    if store.database.is_sqlite:
        return
    timely = "what a frozen worker holds is free only when the server ends it, ten seconds after its last statement"
    try:
        with store.database.connect() as one, store.database.connect() as other:
            if is_pooled(one, other):
                said = "a transaction pooler is between, so that the sessions of a worker have no name"
                yield Finding("takeover", f"{said}: {timely}. Let workers connect to the server itself.", "warn")
                return
        with store.database.begin() as own, store.new_session() as session:
            if store.holds(session) and not may_end(own, session.connection()):
                said = "the records' user may not end the sessions of the user in session_factory"
                yield Finding("takeover", f"{said}: {timely}. Let both be one user, or grant that right.", "warn")
    except (DexpyError, SQLAlchemyError) as error:
        yield Finding("takeover", f"it could not be asked for: {type(error).__name__}.", "warn")


def _about_sessions(store: Store) -> Iterator[Finding]:
    """Whether the sessions of runs are in the records' database."""
    from sqlalchemy.exc import SQLAlchemyError

    from dexpy.background.meeting import ELSEWHERE

    try:
        if not store.shares_sessions():
            yield Finding("sessions", f"they are in another database than the records: {ELSEWHERE}.", "warn")
    except (DexpyError, SQLAlchemyError) as error:
        yield Finding("sessions", f"session_factory gives one that does not work: {type(error).__name__}.", "FAIL")


def _about_records(store: Store) -> Iterator[Finding]:
    """What lies in the records that nobody will see to by itself."""
    from sqlalchemy.exc import SQLAlchemyError

    from dexpy.recording import liveness
    from dexpy.recording.retention import MANY, are_many

    try:
        with store.begin() as connection:
            unserved = liveness.unserved_queues(connection, liveness.Lifelines(store.database))
        many = are_many(store)
    except (DexpyError, SQLAlchemyError) as error:
        yield Finding("records", f"they could not be looked at: {type(error).__name__}.", "warn")
        return
    for queue in unserved:
        said = f"operations wait in it, and no live worker serves it. Start one with -Q {queue}, or without -Q."
        yield Finding(f"queue {queue}", said, "warn")
    if many:
        said = f"more than {MANY:,} have ended. `dexpy prune --older-than 30d` deletes old ones."
        yield Finding("records", said, "warn")


def _about_clock(ahead_s: float) -> Finding:
    from dexpy.recording.server import SKEW_S

    if abs(ahead_s) <= SKEW_S:
        return Finding("clock")
    said = (
        f"the database's is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's, and what is "
        "due counts by the database's. Set both by NTP."
    )
    return Finding("clock", said, "warn")


def _about_connections(limit: Limit, processes: int, threads: int) -> Finding:
    from dexpy.background.meeting import OWN_CONNECTIONS
    from dexpy.recording.database import POOL_SIZE

    each = min(threads + OWN_CONNECTIONS, 2 * POOL_SIZE)
    reckoning = f"{processes} x {each} = {processes * each} at most"
    if processes * each <= limit.connections:
        return Finding("connections", f"{reckoning}, the server lets in {limit.connections}")
    said = (
        f"{reckoning}, one for each thread and up to {OWN_CONNECTIONS} more in each process, and the server lets in "
        f"{limit.connections} ({limit.named}). Lower -p or -t, or raise that limit."
    )
    return Finding("connections", said, "warn")


def _about_pool(threads: int) -> Iterator[Finding]:
    from dexpy.background.meeting import OWN_CONNECTIONS
    from dexpy.recording.database import POOL_SIZE

    most = 2 * POOL_SIZE
    if threads + OWN_CONNECTIONS > most:
        said = (
            f"{threads} + {OWN_CONNECTIONS} connections are more than the {most} that a process opens, so runs would "
            "wait for one. Take more processes with fewer threads: a higher -p, a lower -t."
        )
        yield Finding("threads", said, "warn")


def _named(broker: object) -> str:
    from dexpy.background.brokers.servers import display_of

    return display_of(broker).removeprefix("The ")


def _reach(broker: object) -> None:
    from dexpy.background.brokers.servers import check_reachable

    check_reachable(broker)


def _tried(what: str, attempt: Callable[[], object]) -> Finding:
    try:
        attempt()
    except DexpyError as error:
        return Finding(what, str(error), "FAIL")
    return Finding(what)
