"""``dexpy check``: finds what would prevent a worker from starting, without starting one.

The module is long because it has one function for each check.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import attrs
import click

from dexpy.cli.application import application_names, load, module_arguments, verbose_option
from dexpy.cli.setting_options import WORKER_KEYS, group_option, setting_options
from dexpy.cli.show_settings import setting_lines
from dexpy.configuration.loading import Configuration
from dexpy.foundation.errors import ConfigurationError, DexpyError, first_line, listed

if TYPE_CHECKING:
    from dexpy.configuration.values import WorkerGroup
    from dexpy.database.dialects.base import ConnectionLimit
    from dexpy.database.engine import Database
    from dexpy.foundation.encryption import Encryptor
    from dexpy.recording.store import Store
    from dexpy.runtime import Runtime


@attrs.frozen
class Finding:
    """The result of one check.

    Attributes:
        subject: What was checked.
        message: What is wrong with it, or a remark.
        status: ok, warn or FAIL.
        error: The exception, if one was raised.
    """

    subject: str
    message: str | None = None
    status: str = "ok"
    error: Exception | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def failed(self) -> bool:
        """Whether a worker would not start."""
        return self.status == "FAIL"

    def __str__(self) -> str:
        return f"{self.status:4} {self.subject}" + ("" if self.message is None else f": {self.message}")


@click.command()
@module_arguments()
@setting_options(*WORKER_KEYS)
@group_option
@click.option("--show", is_flag=True, help="Only print every setting with its value and its origin.")
@verbose_option
def check(modules: tuple[str, ...], only_groups: tuple[str, ...], show: bool, verbose: bool) -> None:
    """Check settings, modules, database and broker.

    Exits with status 1 if a check fails; warnings do not change the status.
    MODULE and the options of settings are those of `dexpy worker`.
    """
    if show:
        runtime = load(modules)
        for line in setting_lines(runtime, runtime.settings.configuration.worker_groups(only_groups)):
            click.echo(line)
        return
    failed = False
    for finding in until_exit(findings(modules, only_groups)):
        failed = failed or finding.failed
        click.echo(str(finding))
        if verbose and finding.error is not None:
            traceback.print_exception(finding.error)
    sys.exit(1 if failed else 0)


def until_exit(results: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings; if the application tries to exit the program, the last one is a failure."""
    from dexpy.worker.importing import ModuleExited, contain_exits

    while True:
        try:
            with contain_exits("The check was aborted"):
                finding = next(results, None)
        except ModuleExited as error:
            yield Finding("application", str(error), "FAIL", error)
            return
        if finding is None:
            return
        yield finding


def findings(modules: tuple[str, ...], only_groups: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Run all checks, in the order in which they depend on each other."""
    from dexpy.configuration.settings import CONFIGURED, command_modules
    from dexpy.foundation.package_conflict import conflicting_distribution
    from dexpy.runtime import current_runtime
    from dexpy.worker.application import load_application

    if (distribution_conflict := conflicting_distribution()) is not None:
        yield Finding("package", distribution_conflict, "warn")
    # Invalid settings are a finding of their own, after those of the modules.
    with contextlib.suppress(ConfigurationError):
        modules = application_names(modules)
    any_module_failed = False
    for name in modules:
        result = _try(f"{'app' if ':' in name else 'module'} {name}", partial(load_application, (name,)))
        any_module_failed = any_module_failed or result.failed
        yield result
    command_modules.set(modules)
    settings = _try("settings", current_runtime)
    if settings.failed:
        yield settings
        return
    runtime = current_runtime()
    try:
        groups = Configuration.load().worker_groups(only_groups)
    except ConfigurationError as error:
        yield Finding("settings", str(error), "FAIL", error)
        return
    if any_module_failed and runtime.settings.database_source != CONFIGURED:
        # The failed module may configure another database, so these settings may not be those of the worker.
        yield Finding("settings", "not checked, because a module that failed may configure them", "warn")
        return
    yield _check_settings(runtime, modules)
    if runtime.is_recording:
        store_result = _try("database", runtime.open_store)
        if store_result.failed:
            yield store_result
            return
        database = _try(f"database {runtime.store.database.display_url}", runtime.store.prepare)
        yield database
        if not database.failed:
            yield from _check_server(runtime.store.database, groups)
            yield from _check_sessions(runtime.store)
            yield from _check_session_rights(runtime.store)
            yield from _check_records(runtime.store)
        elif runtime.carries_its_queue:
            # The queue is in the same database, which has failed already.
            return
    yield from _check_functions(runtime)
    yield from _check_encryptors(runtime)
    yield from _check_queue_functions()
    if modules:
        yield from _check_recurring(runtime)
    broker = _try("broker", runtime.start)
    if not broker.failed:
        broker = _try(_display_name(runtime.broker), lambda: _check_reachable(runtime.broker))
        if not broker.failed:
            broker = _try(_display_name(runtime.broker), lambda: _declare_queues(runtime))
    yield broker


def _declare_queues(runtime: Runtime) -> None:
    """Declare the queues of the classes, and those that have messages."""
    from sqlalchemy.exc import SQLAlchemyError

    from dexpy.brokers.server_check import check_queues
    from dexpy.enqueue.queues import is_queue_name
    from dexpy.worker.process import class_queues

    queues: set[str] = set()
    # An unreachable database is a finding of its own.
    with contextlib.suppress(DexpyError, SQLAlchemyError):
        queues.update(filter(is_queue_name, runtime.dispatcher.transport.known_queues()))
    check_queues(runtime.broker, class_queues() | queues)


def _check_settings(runtime: Runtime, modules: tuple[str, ...]) -> Finding:
    """Check whether these settings are the application's, as far as this process can see."""
    source = runtime.settings.database_source
    advice = "Pass the modules of the worker to check what they configure in code"
    if runtime.is_recording and source is None:
        message = f"no database is configured; the default is {runtime.database_url}"
        return Finding("settings", message) if modules else Finding("settings", f"{message}. {advice}", "warn")
    if not modules:
        return Finding("settings", f"from {source or 'DEXPY_BROKER or pyproject.toml'}. {advice}")
    return Finding("settings")


def _check_functions(runtime: Runtime) -> Iterator[Finding]:
    """Call each function in the settings once."""
    custom = runtime.redactor.custom
    if custom is not None:
        yield _try("redactor", partial(_call_redactor, custom))
    if runtime.run_context is not None:
        yield _try("run_context", partial(_enter_run_context, runtime.open_store()))


def _call_redactor(custom: Callable[[str], str]) -> None:
    from dexpy.foundation.errors import ConfigurationError

    text: object = custom("dexpy check")
    if not isinstance(text, str):
        raise ConfigurationError(f"expected the function to return a str, got {type(text).__name__}.")


def _enter_run_context(store: Store) -> None:
    with store.run_context():
        pass


def _check_encryptors(runtime: Runtime) -> Iterator[Finding]:
    """Check that each encryptor decrypts what it encrypts, and that every required one is configured."""
    from dexpy.declaration import registry

    for name, encryptor in runtime.encryptors.items():
        yield _try(f"encryptor {name!r}", partial(_check_encryptor, encryptor))
    missing: dict[str, set[str]] = {}
    for contract in (registry.find(name).contract for name in registry.names()):
        required = {*contract.encrypted_props.values(), *([contract.encryptor] if contract.encryptor else [])}
        for name in required - set(runtime.encryptors):
            missing.setdefault(name, set()).add(contract.name)
    for name, operations in sorted(missing.items()):
        message = (
            f"{listed(operations)} require it to be enqueued or run. Configure it with the keys of the other processes."
        )
        yield Finding(f"encryptor {name!r}", f"not configured; {message}", "warn")


def _check_encryptor(encryptor: Encryptor) -> None:
    from dexpy.foundation.errors import ConfigurationError
    from dexpy.foundation.redaction import class_path

    data = b"dexpy check"
    try:
        encrypted = encryptor.encrypt(data)
        is_same = isinstance(encrypted, bytes) and bytes(encryptor.decrypt(encrypted)) == data
    except Exception as error:  # noqa: BLE001 - from the application's encryptor
        # Without its text, which may contain a secret.
        raise ConfigurationError(f"it raised {class_path(error)}.") from None
    if not is_same:
        raise ConfigurationError("expected decrypt() to return the bytes that encrypt() got.")


def _check_queue_functions() -> Iterator[Finding]:
    """Check that each queue function returns a valid name for an operation with its defaults."""
    from dexpy.declaration import registry
    from dexpy.enqueue.jobs import EnqueueOptions
    from dexpy.foundation.errors import NotRunning, PropsError
    from dexpy.policies.options import AsyncOptions

    for name in registry.names():
        contract = registry.find(name).contract
        if not callable(contract.options.queue) or any(prop.required for prop in contract.props):
            continue
        try:
            EnqueueOptions.of(contract.cls(), contract, AsyncOptions())
        except (PropsError, NotRunning):
            # The function needs a row, or a prop without a default.
            continue
        except DexpyError as error:
            yield Finding(f"queue of {name}", str(error), "warn", error)
        except Exception as error:  # noqa: BLE001 - the application's own function
            from dexpy.worker.importing import describe_error

            message = f"the queue function raised {describe_error(error)} for an operation with default props."
            yield Finding(f"queue of {name}", message, "warn", error)


def _check_recurring(runtime: Runtime) -> Iterator[Finding]:
    """Check the recurring tasks of the configuration file against the operations that the modules declare."""
    from dexpy.foundation.errors import UnknownOperation
    from dexpy.maintenance.recurring_file import task_of, why_unknown

    for entry in runtime.settings.configuration.recurring:
        subject = f"recurring {entry.key}"
        try:
            task_of(entry)
        except UnknownOperation as error:
            # A worker of another application with the same file may declare it.
            yield Finding(subject, why_unknown(error, entry), "warn", error)
        except DexpyError as error:
            yield Finding(subject, str(error), "FAIL", error)
        else:
            yield Finding(subject)


def _check_server(database: Database, groups: tuple[WorkerGroup, ...]) -> Iterator[Finding]:
    """Check the clock and the connection limit of a database server."""
    from sqlalchemy.exc import SQLAlchemyError

    from dexpy.database.server_info import clock_ahead_s

    for threads in sorted({group.threads for group in groups}):
        yield from _check_pool(threads)
    if not database.dialect.has_server:
        return
    try:
        with database.begin() as connection:
            ahead_s, limit = clock_ahead_s(connection), database.dialect.connection_limit(connection)
    except (DexpyError, SQLAlchemyError) as error:
        message = f"cannot read its clock and connection limit: {type(error).__name__}. Ask its administrator."
        yield Finding("server", message, "warn")
        return
    if ahead_s is not None:
        yield _check_clock(ahead_s)
    if limit is not None:
        yield _check_connections(limit, groups)


def _check_session_rights(store: Store) -> Iterator[Finding]:
    """Check whether the database sessions of a frozen worker can be ended before its runs are recovered."""
    from sqlalchemy.exc import SQLAlchemyError

    if not store.database.dialect.has_server:
        return
    effect = "the locks of a frozen worker stay until the server ends its session, ten seconds after its last statement"
    try:
        with store.database.connect() as first, store.database.connect() as second:
            if store.database.dialect.is_pooled(first, second):
                message = "a transaction pooler hides the sessions of workers"
                yield Finding("takeover", f"{message}: {effect}. Let workers connect to the server directly.", "warn")
                return
        with store.run_context(), store.database.begin() as connection, store.new_session() as session:
            if store.shares_database(session) and not store.database.dialect.can_end_sessions(
                connection, session.connection()
            ):
                message = "the database user of the records may not end the sessions of the user in session_factory"
                yield Finding("takeover", f"{message}: {effect}. Use one user for both, or grant that right.", "warn")
    except (DexpyError, SQLAlchemyError) as error:
        yield Finding("takeover", f"cannot read the rights of the database user: {type(error).__name__}.", "warn")


def _check_sessions(store: Store) -> Iterator[Finding]:
    """Check that the sessions of runs work, and whether they are in the database of the records."""
    from sqlalchemy.exc import SQLAlchemyError

    from dexpy.worker.startup import SEPARATE_DATABASES_ADVICE

    try:
        if not store.shares_sessions():
            yield Finding("sessions", f"another database than the records: {SEPARATE_DATABASES_ADVICE}.", "warn")
    except DexpyError as error:
        yield Finding("sessions", str(error), "FAIL", error)
    except SQLAlchemyError as error:
        message = f"session_factory returned a session that does not work: {type(error).__name__}: {first_line(error)}"
        yield Finding("sessions", message, "FAIL", error)


def _check_records(store: Store) -> Iterator[Finding]:
    """Warn about queues that no worker serves, and about too many old records."""
    from sqlalchemy.exc import SQLAlchemyError

    from dexpy.liveness import worker_registry
    from dexpy.recording.retention import MANY, has_more_than

    try:
        with store.begin() as connection:
            unserved = worker_registry.unserved_queues(connection, worker_registry.SqliteLivenessLocks(store.database))
        has_old_records = has_more_than(store)
    except (DexpyError, SQLAlchemyError) as error:
        yield Finding("records", f"cannot read them: {type(error).__name__}.", "warn")
        return
    for queue in unserved:
        message = f"runs wait in it, but no live worker serves it. Start a worker with -Q {queue}, or without -Q."
        yield Finding(f"queue {queue}", message, "warn")
    if has_old_records:
        message = f"more than {MANY:,} have ended. Delete old ones: dexpy prune --older-than 30d"
        yield Finding("records", message, "warn")


def _check_clock(ahead_s: float) -> Finding:
    from dexpy.database.server_info import SKEW_S

    if abs(ahead_s) <= SKEW_S:
        return Finding("clock")
    message = (
        f"the clock of the database is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} that of this "
        "machine, and due times are compared with it. Synchronize both by NTP."
    )
    return Finding("clock", message, "warn")


def _check_connections(limit: ConnectionLimit, groups: tuple[WorkerGroup, ...]) -> Finding:
    from dexpy.database.engine_options import POOL_SIZE
    from dexpy.worker.startup import OWN_CONNECTIONS

    counts = [(group.processes, min(group.threads + OWN_CONNECTIONS, 2 * POOL_SIZE)) for group in groups]
    num_connections = sum(processes * per_process for processes, per_process in counts)
    terms = " + ".join(f"{processes} x {per_process}" for processes, per_process in counts)
    total = f"{terms} = {num_connections} at most"
    if num_connections <= limit.connections:
        return Finding("connections", f"{total}; the server allows {limit.connections}")
    message = (
        f"{total}, one for each thread and up to {OWN_CONNECTIONS} more in each process; the server allows "
        f"{limit.connections} ({limit.setting}). Lower -p or -t, or raise the limit."
    )
    return Finding("connections", message, "warn")


def _check_pool(threads: int) -> Iterator[Finding]:
    from dexpy.database.engine_options import POOL_SIZE
    from dexpy.worker.startup import OWN_CONNECTIONS

    limit = 2 * POOL_SIZE
    if threads + OWN_CONNECTIONS > limit:
        message = (
            f"{threads} + {OWN_CONNECTIONS} connections are more than the {limit} that a process opens, so runs would "
            "wait for a connection. Use more processes with fewer threads: a higher -p, a lower -t."
        )
        yield Finding("threads", message, "warn")


def _display_name(broker: object) -> str:
    from dexpy.brokers.urls import display_of

    return f"broker {display_of(broker)}"


def _check_reachable(broker: object) -> None:
    from dexpy.brokers.server_check import check_reachable

    check_reachable(broker)


def _try(subject: str, attempt: Callable[[], object]) -> Finding:
    from dexpy.worker.importing import call_application

    try:
        call_application("It failed", attempt)
    except DexpyError as error:
        return Finding(subject, str(error), "FAIL", error)
    return Finding(subject)
