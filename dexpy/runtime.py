"""`configure` and `Runtime`: the settings and services of a process.

The module is long because the reference of each argument of `configure` is its docstring.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from dexpy.configuration.settings import Settings, checked
from dexpy.configuration.values import RetentionSettings
from dexpy.database.current_transaction import shared_sessions
from dexpy.declaration.contract import Contract
from dexpy.enqueue.current_dispatcher import current_dispatcher
from dexpy.foundation import log_events
from dexpy.foundation.encryption import DEFAULT, Encryptor, Encryptors, current_encryptors
from dexpy.foundation.errors import ConfigurationError, DeclarationError, NotRecorded, OptionsError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.safe_text import shortened
from dexpy.foundation.trace import Frame
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.policies.keep import STATUSES, Keep, keep_by_status
from dexpy.policies.options import check_queue
from dexpy.policies.queue_limit import QueueLimit
from dexpy.recording.current_store import current_store, prune_records, run_record_now
from dexpy.recording.encryption import check_encryptable
from dexpy.recording.installed_hooks import installed_hooks
from dexpy.schedules.zones import check_zone
from dexpy.worker.services import current_worker

if TYPE_CHECKING:
    import dramatiq
    from sqlalchemy.orm import Session

    from dexpy.assembly import Services
    from dexpy.enqueue.dispatcher import Dispatcher
    from dexpy.foundation.run_end import Hook
    from dexpy.policies.record_column import RecordColumn
    from dexpy.recording.recorder import Recorder, SyncRecorder
    from dexpy.recording.store import Store

OnBrokerError: TypeAlias = Literal["send_later", "raise"]
T = TypeVar("T")
_NO_VALUES: Mapping[str, Any] = {}
RunContext: TypeAlias = Callable[[], AbstractContextManager[Any]]


class Runtime:
    """The settings of a process, and the services behind its records, messages and sessions.

    Nothing is opened before it is needed: an unconfigured program that only calls operations does not touch the disk.
    `start` creates the services once; `configure` calls it, or else the first enqueue or worker.

    Args:
        settings: The settings from `configure`, flags, variables and the configuration file.
        session_factory: Creates the sessions of runs.
        redactor: Redacts every text about a failure.
        broker: The application's own broker, instead of a URL in the settings.
        create_tables: Whether missing tables are created on a server too.
        unknown_grace: How long a run waits for a worker that knows its operation.
        on_broker_error: What an enqueue does while the broker is unreachable.
        encryptors: The application's own encryptors, by name.
        run_context: Returns a context manager that is entered around each background run.
        retention: How long records are kept, instead of the settings.
        record_columns: The application's columns of the records.
        hooks: The hooks that are called at the end of runs, by name.
        queues: The limits of queues, by name, over those of the settings.

    Raises:
        ConfigurationError: An encryptor or a key is invalid.
    """

    def __init__(
        self,
        settings: Settings,
        session_factory: Callable[[], Session] | None = None,
        redactor: Callable[[str], str] | None = None,
        broker: dramatiq.Broker | None = None,
        *,
        create_tables: bool = False,
        unknown_grace: timedelta | None = None,
        on_broker_error: OnBrokerError = "send_later",
        encryptors: Mapping[str, Encryptor] | None = None,
        run_context: RunContext | None = None,
        retention: Keep | None = None,
        record_columns: Sequence[RecordColumn] = (),
        hooks: Mapping[str, Hook] | None = None,
        queues: Mapping[str, QueueLimit] | None = None,
    ) -> None:
        self.settings = settings
        self.record_columns = tuple(record_columns)
        self.run_context = run_context
        self.retention = retention
        self.hooks: Mapping[str, Hook] = hooks or {}
        self.queues: Mapping[str, QueueLimit] = queues or {}
        self.session_factory = session_factory
        if hasattr(session_factory, "registry"):
            shared_sessions.exist = True
        self.broker_instance = broker
        self.create_tables = create_tables
        self.unknown_grace = unknown_grace
        self.on_broker_error = on_broker_error
        self.configured_encryptors = encryptors
        self.encryptors = Encryptors(
            encryptors, settings.encryption_keys, accepts_unbound=settings.accept_unbound_ciphertext
        )
        self.intervals = RecoveryIntervals.of(settings.recover_within)
        self.redactor = Redactor(custom=redactor)
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._services: Services | None = None

    @property
    def database_url(self) -> str:
        """The URL of the records' database, which may not exist yet."""
        return self.settings.database or self.settings.default_database

    @property
    def is_recording(self) -> bool:
        """Whether background runs are recorded: unless only a broker is configured."""
        return self.settings.database is not None or (self.settings.broker is None and self.broker_instance is None)

    @property
    def carries_its_queue(self) -> bool:
        """Whether the records' database carries the messages too."""
        named = self.broker_instance or self.settings.broker
        return self.is_recording and (named is None or named == self.settings.database)

    def open_store(self) -> Store:
        """Create the store of records once, and return it; its tables are checked at the first use."""
        if self._store is None:
            with self._lock:
                if self._store is None:
                    self._store = self._make_store()
        return self._store

    def start(self) -> Services:
        """Create the services of background runs once, and declare the two actors on the broker.

        Returns:
            The services.

        Raises:
            ConfigurationError: A URL is invalid.
            MissingExtra: The driver of the database or broker is not installed.
        """
        if self._services is None:
            with self._lock:
                if self._services is None:
                    self._services = self._make_services()
        return self._services

    @property
    def store(self) -> Store:
        """The store of records, after `open_store` or `start`."""
        return _require_created(self._store, "store")

    @property
    def services(self) -> Services:
        """The services of background runs, after `start`."""
        return _require_created(self._services, "services")

    @property
    def dispatcher(self) -> Dispatcher:
        """The dispatcher, which stores records and publishes messages."""
        return self.services.dispatcher

    @property
    def broker(self) -> dramatiq.Broker:
        """The broker that carries the messages."""
        return self.dispatcher.broker

    def _make_store(self) -> Store:
        from dexpy.assembly import build_store

        _use_layout(self)
        store = build_store(
            self.database_url,
            session_factory=self.session_factory,
            run_context=self.run_context,
            redactor=self.redactor,
            create_tables=self.create_tables,
            db_command=self.settings.db_command,
            find_sender=lambda: self.start().dispatcher if self.is_recording else None,
            is_shared=self.is_recording,
            schema=self.settings.schema,
            record_columns=self.record_columns,
            redis=self._redis if self._is_on_redis else None,
        )
        if self.settings.database is None:
            log_event(LogEvent.DATABASE_DEFAULTED, path=store.database.path)
        return store

    @property
    def _is_on_redis(self) -> bool:
        named = self.broker_instance or self.settings.broker
        if isinstance(named, str):
            return named.startswith(("redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://"))
        return hasattr(named, "namespace")

    def _redis(self) -> tuple[Any, str]:
        """Return the client of a Redis broker, and the prefix of its keys."""
        broker: Any = self.start().dispatcher.broker
        return broker.client, broker.namespace

    def _make_services(self) -> Services:
        from dexpy.assembly import build, build_transport

        _use_layout(self)
        store = self.open_store() if self.is_recording else None
        named = self.broker_instance or self.settings.broker
        transport = build_transport(
            named,
            store,
            self.intervals,
            is_in_database=self.carries_its_queue,
            schema=self.settings.schema,
        )
        return build(
            transport,
            store,
            intervals=self.intervals,
            redactor=self.redactor,
            session_store=self.open_store,
            unknown_grace=self.unknown_grace,
            requires_broker=self.on_broker_error == "raise",
            relay_interval_s=self.settings.configuration.get("relay.interval"),
            relay_batch_size=self.settings.configuration.get("relay.batch_size"),
            default_zone=self.settings.zone,
            skips_recurring=self.settings.skip_recurring,
            recurring_entries=self.settings.configuration.recurring,
            create_tables=self.create_tables,
            retention=self._retention_settings(),
            hooks=self.hooks,
            queue_limits={**self.settings.configuration.queue_limits, **self.queues},
        )

    def _retention_settings(self) -> RetentionSettings:
        configuration = self.settings.configuration
        keep_s: dict[str, float | None] = {status: configuration.get(f"retention.{status}") for status in STATUSES}
        configured = keep_by_status(self.retention, "configure(retention=...)").items()
        keep_s |= {status: time for status, time in configured if not configuration.is_flag(f"retention.{status}")}
        return RetentionSettings(
            keep_s,
            configuration.get("retention.interval"),
            configuration.get("retention.batch_size"),
            configuration.get("retention.prune"),
        )

    def prune_records(self, *, dry_run: bool = False) -> int:
        """Delete, or count, the records whose retention has passed.

        Raises:
            NotRecorded: Nothing is recorded in this process.
        """
        recorded = self.start().recorded
        if recorded is None:
            raise NotRecorded(
                "records.prune(): nothing is recorded in this process. Configure a database: "
                "dexpy.configure(database=...)."
            )
        return (recorded.pruning.count() if dry_run else recorded.pruning.run_round()).total()

    def run_record_now(self, record_id: str) -> bool:
        """Run a record in this thread; see `RecordJob.run_now`.

        Raises:
            NotRecorded: Nothing is recorded in this process.
        """
        recorded = self.start().recorded
        if recorded is None:
            raise NotRecorded(
                f"{record_id}: perform() requires a record, but nothing is recorded in this process. "
                "Configure a database: dexpy.configure(database=...)."
            )
        return recorded.record_job.run_now(record_id)

    def recorder(
        self, operation: Any, contract: Contract, run_id: str, frame: Frame, redactor: Redactor
    ) -> Recorder | None:
        """Return the recorder of a synchronous run; None if it is not recorded."""
        # Synchronous calls are recorded only if a database is configured explicitly.
        records_calls = self.settings.database is not None
        if contract.once is not None and not records_calls:
            raise ConfigurationError(
                f"{contract.cls.__qualname__}: an idempotency key requires a database, but none is configured. "
                "Configure one: dexpy.configure(database=...)."
            )
        if not records_calls or contract.record is None:
            return None
        if contract.encrypted_props or contract.encryptor is not None:
            check_encryptable(contract)
        own_values = self._own_values(operation, contract) if self.record_columns else _NO_VALUES
        if contract.once is not None:
            recorded = self.start().recorded
            assert recorded is not None  # noqa: S101 - calls are recorded here
            return recorded.once_recorder(operation, contract, contract.once, run_id, frame, redactor, own_values)
        store = self._store or self.open_store()
        return _sync_recorder()(store, contract, operation, run_id, frame, redactor, own_values=own_values)

    def _own_values(self, operation: Any, contract: Contract) -> Mapping[str, Any]:
        """Return the values of the application's columns for a synchronous run.

        Raises:
            OptionsError: A value does not fit.
        """
        from dexpy.assembly import own_values_of

        return own_values_of(self.record_columns, operation, contract)

    def close(self) -> None:
        """Close the connections that this runtime holds."""
        if self._services is not None:
            self._services.close()
        if self._store is not None:
            self._store.locks.close()
            self._store.database.dispose()


def _require_created(value: T | None, name: str) -> T:
    if value is None:
        raise ConfigurationError(f"Runtime.{name}: not available yet. Call runtime.start() or dexpy.configure() first.")
    return value


@cache
def _sync_recorder() -> type[SyncRecorder]:
    from dexpy.recording.recorder import SyncRecorder

    return SyncRecorder


_current: Runtime | None = None
_has_own_layout = False


def _use_layout(runtime: Runtime | None) -> None:
    """Give dexpy's tables the names and columns of a runtime."""
    global _has_own_layout
    prefix, columns = ("", ()) if runtime is None else (runtime.settings.table_prefix or "", runtime.record_columns)
    if not (prefix or columns or _has_own_layout):
        # Most processes use the standard tables, and some of them no tables: do not load SQLAlchemy.
        return
    from dexpy.assembly import use_layout

    _has_own_layout = True
    use_layout(prefix, columns)


def current_runtime() -> Runtime:
    """Return the current runtime; if `configure` was not called, one from variables and the configuration file."""
    global _current
    if _current is None:
        _current = Runtime(Settings.find())
        _use_layout(_current)
    return _current


def install(runtime: Runtime | None) -> Runtime | None:
    """Make a runtime the current one, and return the previous one."""
    global _current
    before, _current = _current, runtime
    _use_layout(runtime)
    installed_hooks.names = () if runtime is None else tuple(runtime.hooks)
    log_events.process_redactor = None if runtime is None or runtime.redactor.custom is None else runtime.redactor
    return before


def configure(
    *,
    database: str | None = None,
    broker: str | dramatiq.Broker | None = None,
    session_factory: Callable[[], Session] | None = None,
    redactor: Callable[[str], str] | None = None,
    create_tables: bool = False,
    unknown_grace: timedelta | None = None,
    recover_within: timedelta | float | None = None,
    on_broker_error: OnBrokerError = "send_later",
    zone: str | None = None,
    skip_recurring: bool | None = None,
    encryptors: Mapping[str, Encryptor] | None = None,
    encryption_keys: str | Sequence[str] | None = None,
    accept_unbound_ciphertext: bool | None = None,
    run_context: RunContext | None = None,
    retention: Keep | None = None,
    table_prefix: str | None = None,
    schema: str | None = None,
    record_columns: Sequence[RecordColumn] = (),
    on_failure: Hook | None = None,
    on_finish: Hook | None = None,
    queues: Mapping[str, QueueLimit] | None = None,
) -> Runtime:
    """Configure the database and the broker of this process.

    A flag of the command line takes precedence over an argument. Settings that are left out come from the ``DEXPY_*``
    environment variables, or else from the configuration file: ``dexpy.toml``, or ``[tool.dexpy]`` in the nearest
    pyproject.toml. Without any database and broker, the file ``dexpy.db`` beside that file is both.

    Args:
        database: The SQLAlchemy URL of the records, for example ``sqlite:///app.db``.
        broker: The transport of the messages: a URL (``redis://``, ``rediss://``, ``amqp://``, ``amqps://`` or of a
            database), or the application's own `dramatiq.Broker`, which keeps its middleware. Default: the database of
            the records. Applications that share a server need a namespace each, ``redis://host/0?namespace=shop``,
            or a virtual host each, ``amqp://host/shop``.
        session_factory: Creates the sessions of runs: the application's `sessionmaker` or `scoped_session`. During a
            run, the `scoped_session` returns the session of the run.
        redactor: Receives every text about a failure before it is stored or logged, and returns the text to use.
        create_tables: Whether to create missing tables on a server too; for tests and demos. In production run
            ``dexpy db init``.
        unknown_grace: How long a run waits for a worker that knows its operation, for example during a rolling deploy,
            before it is ``failed`` as ``unknown``. Default: one day.
        recover_within: Seconds or a timedelta, at least 5 s, within which the run of a dead worker, or a run whose
            message was lost, is published again. Default: ``DEXPY_RECOVER_WITHIN``, or one minute.
        on_broker_error: What an enqueue does while the broker is unreachable. ``"send_later"`` stores the record, and
            the relay publishes its message later. ``"raise"`` checks the broker first, with one more round trip per
            enqueue, and raises `BrokerUnavailable` without storing anything; a broker that fails after this check
            causes no error.
        zone: The time zone of the schedules of recurring tasks that have none, for example ``"Europe/Rome"``. Default:
            ``DEXPY_ZONE``, or UTC.
        skip_recurring: Whether the workers of this process neither register recurring tasks nor enqueue their ticks;
            other workers do. Default: ``DEXPY_SKIP_RECURRING``, or False.
        encryptors: Encryptors by name: objects with ``encrypt(bytes)`` and ``decrypt(bytes)``; ``"default"`` is used by
            ``encrypt = True`` and ``prop(encrypted=True)``.
        encryption_keys: Keys of a `FernetEncryptor` named ``"default"``, instead of *encryptors*; the first one
            encrypts. Default: ``DEXPY_ENCRYPTION_KEYS``.
        accept_unbound_ciphertext: Whether classes that encrypt also decrypt the data of earlier releases, which is not
            bound to its operation, column and run. Default: ``DEXPY_ACCEPT_UNBOUND_CIPHERTEXT``, or False. Turn it off
            when no such row is left.
        run_context: Called for each background run; returns a context manager that is entered around the run, for
            example ``app.app_context`` of a Flask application.
        retention: How long workers and relays keep records after their end, as ``Recording(keep=...)`` of a class has
            it, which takes precedence: ``"30d"``, or ``{"done": "7d", "failed": "forever"}``. Default: the settings
            ``retention.done`` and so on, or for ever.
        table_prefix: The prefix of the names of dexpy's tables, indexes and constraints: ``"billing_"`` for
            ``billing_operation_records``. Default: ``DEXPY_TABLE_PREFIX``, or none.
        schema: The schema of dexpy's tables on PostgreSQL, or their database on MariaDB and MySQL. Default:
            ``DEXPY_SCHEMA``, or that of the connections.
        record_columns: Columns of the application in the table of records, which props or context values fill.
        on_failure: A function that workers and relays call with a `RunEnd` once for each background run that has
            ended in another way than ``done``, after the commit; it may be a coroutine function.
        on_finish: The same for each background run that has ended, also for those that are ``done``.
        queues: Limits of queues by name: ``{"mailers": QueueLimit(10_000)}``. A full queue refuses runs, or lets their
            enqueue wait. Default: ``[queues.NAME]`` of the configuration file.

    Returns:
        The runtime.

    Raises:
        ConfigurationError: A URL, the session factory, a key or another setting is invalid.
        MissingExtra: A driver, or `cryptography`, is not installed.

    Example:
        >>> import dexpy
        >>> runtime = dexpy.configure(database="sqlite:///app.db")
        >>> runtime.database_url
        'sqlite:///app.db'
    """
    from dexpy.transactions.run_sessions import check_factory, url_of

    if session_factory is not None:
        check_factory(session_factory)
    if run_context is not None and not callable(run_context):
        raise ConfigurationError(
            f"configure(run_context=...): expected a function that returns a context manager, got {run_context!r}. "
            "Pass app.app_context without parentheses."
        )
    try:
        keep_by_status(retention, "configure(retention=...)")
    except OptionsError as error:
        raise ConfigurationError(str(error)) from None
    defaults = Settings.find()
    broker_instance = None if isinstance(broker, str) or defaults.configuration.is_flag("broker") else broker
    named = defaults.with_argument("database", database or None)
    if isinstance(broker, str):
        named = named.with_argument("broker", broker or None)
    elif broker_instance is not None:
        named = named.replaced(broker=None)
    if named.database is None and session_factory is not None:
        named = named.replaced(database=url_of(session_factory))
    if encryption_keys is not None:
        keys = encryption_keys if isinstance(encryption_keys, str) else ",".join(encryption_keys)
        named = named.replaced(encryption_keys=keys)
    elif encryptors is not None and DEFAULT in encryptors:
        # Arguments take precedence over the environment.
        named = named.replaced(encryption_keys=None)
    if recover_within is not None:
        named = named.with_argument("recover_within", RecoveryIntervals.of(recover_within).recover_within_s)
    named = named.with_argument("zone", _checked_zone(zone))
    named = named.with_argument("skip_recurring", skip_recurring)
    named = named.with_argument("accept_unbound_ciphertext", accept_unbound_ciphertext)
    named = named.with_argument("table_prefix", checked("table_prefix", table_prefix))
    named = named.with_argument("schema", checked("schema", schema))
    if record_columns:
        from dexpy.assembly import check_record_columns

        record_columns = check_record_columns(record_columns)
    if on_broker_error not in ("send_later", "raise"):
        raise ConfigurationError(
            f"configure(on_broker_error=...): expected 'send_later' or 'raise', got {on_broker_error!r}."
        )
    if unknown_grace is not None and unknown_grace < timedelta(0):
        raise ConfigurationError(f"configure(unknown_grace=...): expected a timedelta >= 0, got {unknown_grace!r}.")
    runtime = Runtime(
        named,
        session_factory,
        redactor,
        broker_instance,
        create_tables=create_tables,
        unknown_grace=unknown_grace,
        on_broker_error=on_broker_error,
        encryptors=encryptors,
        run_context=run_context,
        retention=retention,
        record_columns=record_columns,
        hooks=_checked_hooks(on_failure=on_failure, on_finish=on_finish),
        queues=_checked_queues(queues),
    )
    try:
        if runtime.is_recording:
            runtime.open_store().database.load_driver()
        dispatcher = runtime.start().dispatcher
    except BaseException:
        _use_layout(_current)
        raise
    import dramatiq

    dramatiq.set_broker(dispatcher.broker)
    install(runtime)
    return runtime


def _checked_queues(queues: Mapping[str, QueueLimit] | None) -> Mapping[str, QueueLimit] | None:
    """Return limits of queues.

    Raises:
        ConfigurationError: A name is invalid, or a value is no limit.
    """
    for name, limit in (queues or {}).items():
        try:
            check_queue(name, "configure(queues=...)")
        except OptionsError as error:
            raise ConfigurationError(str(error)) from None
        if not isinstance(limit, QueueLimit):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"configure(queues=...)[{name!r}]: expected a QueueLimit, got {shortened(limit)}. "
                "Write QueueLimit(10_000)."
            )
    return None if queues is None else dict(queues)


def _checked_hooks(**hooks: Hook | None) -> dict[str, Hook]:
    """Return the hooks that are set.

    Raises:
        ConfigurationError: One of them is not a function.
    """
    for name, hook in hooks.items():
        if hook is not None and not callable(hook):
            raise ConfigurationError(
                f"configure({name}=...): expected a function of a RunEnd, got {shortened(hook)}. Pass the function "
                "itself, without parentheses."
            )
    return {name: hook for name, hook in hooks.items() if hook is not None}


def _checked_zone(zone: str | None) -> str | None:
    if zone is None:
        return None
    try:
        return check_zone(zone, "configure()")
    except DeclarationError as error:
        raise ConfigurationError(str(error)) from None


current_store.get = lambda: current_runtime().open_store()
run_record_now.get = lambda: current_runtime().run_record_now
prune_records.get = lambda: current_runtime().prune_records
current_encryptors.get = lambda: current_runtime().encryptors
current_dispatcher.get = lambda: current_runtime().start().dispatcher
current_worker.get = lambda: current_runtime().start()
