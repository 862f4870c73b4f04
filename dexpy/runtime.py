"""`configure` and `Runtime`: the explicit value that says where records and messages go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import attrs

from dexpy.database.current_transaction import shared_sessions
from dexpy.declaration.contract import Contract
from dexpy.enqueue.api import current_dispatcher
from dexpy.foundation import log_events
from dexpy.foundation.encryption import DEFAULT, Encryptor, Encryptors, current_encryptors
from dexpy.foundation.errors import ConfigurationError, NotRecorded
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.settings import CONFIGURED, Settings
from dexpy.foundation.trace import Frame
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.recording.current_store import current_store, run_record_now
from dexpy.recording.encryption import check_encryptable
from dexpy.worker.services import current_worker

if TYPE_CHECKING:
    import dramatiq
    from sqlalchemy.orm import Session

    from dexpy.assembly import Services
    from dexpy.enqueue.dispatcher import Dispatcher
    from dexpy.recording.recorder import Recorder, SyncRecorder
    from dexpy.recording.store import Store

OnBrokerError: TypeAlias = Literal["send_later", "raise"]
T = TypeVar("T")
RunContext: TypeAlias = Callable[[], AbstractContextManager[Any]]


class Runtime:
    """Where records and messages go, and with which sessions operations run.

    Nothing is opened before it is needed: an unconfigured program that only calls operations touches no disk.
    `start` makes the objects behind it, once; `configure` calls it, and the first enqueue or worker elsewhere.

    Args:
        settings: What was named.
        session_factory: Makes the sessions of runs.
        redactor: Goes over every text about a failure.
        broker: The application's own, instead of one by URL.
        create_tables: Whether tables are made on a server too, where they are missing.
        unknown_grace: How long what no worker knows is kept waiting.
        recover_within: How soon what is lost is taken up again.
        on_broker_error: What an enqueue does while the broker is away.
        encryptors: The application's own, by name.
        run_context: Gives what is entered around each run in the background.

    Raises:
        ConfigurationError: An encryptor, a key or *recover_within* cannot be used.
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
        recover_within: timedelta | float | None = None,
        on_broker_error: OnBrokerError = "send_later",
        encryptors: Mapping[str, Encryptor] | None = None,
        run_context: RunContext | None = None,
    ) -> None:
        self.settings = settings
        self.run_context = run_context
        self.session_factory = session_factory
        if hasattr(session_factory, "registry"):
            shared_sessions.exist = True
        self.given_broker = broker
        self.create_tables = create_tables
        self.unknown_grace = unknown_grace
        self.recover_within = recover_within
        self.on_broker_error = on_broker_error
        self.given_encryptors = encryptors
        self.encryptors = Encryptors(
            encryptors, settings.encryption_keys, accepts_unbound=settings.accept_unbound_ciphertext
        )
        self.intervals = RecoveryIntervals.of(recover_within if recover_within is not None else settings.recover_within)
        self.redactor = Redactor(custom=redactor)
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._services: Services | None = None

    @property
    def database_url(self) -> str:
        """Where records are, or would be."""
        return self.settings.database or self.settings.default_database

    @property
    def is_recording(self) -> bool:
        """Whether background runs are recorded: unless only a broker is configured."""
        return self.settings.database is not None or (self.settings.broker is None and self.given_broker is None)

    @property
    def carries_its_queue(self) -> bool:
        """Whether the records' database carries the messages too."""
        named = self.given_broker or self.settings.broker
        return self.is_recording and (named is None or named == self.settings.database)

    def open_store(self) -> Store:
        """Make the store of records, once, and return it; its tables are required when they are used."""
        if self._store is None:
            with self._lock:
                if self._store is None:
                    self._store = self._make_store()
        return self._store

    def start(self) -> Services:
        """Make the objects behind background runs, once, and declare the two actors on the broker.

        Returns:
            Them.

        Raises:
            ConfigurationError: A URL cannot be used.
            MissingExtra: A broker or driver that an extra installs.
        """
        if self._services is None:
            with self._lock:
                if self._services is None:
                    self._services = self._make_services()
        return self._services

    @property
    def store(self) -> Store:
        """The store of records, once `open_store` or `start` has made it."""
        return _made(self._store, "store")

    @property
    def services(self) -> Services:
        """The objects behind background runs, once `start` has made them."""
        return _made(self._services, "services")

    @property
    def dispatcher(self) -> Dispatcher:
        """Stores records and publishes messages."""
        return self.services.dispatcher

    @property
    def broker(self) -> dramatiq.Broker:
        """The broker that carries the messages."""
        return self.dispatcher.broker

    def _make_store(self) -> Store:
        from dexpy.assembly import build_store

        store = build_store(
            self.database_url,
            session_factory=self.session_factory,
            run_context=self.run_context,
            redactor=self.redactor,
            create_tables=self.create_tables,
            db_command=self.settings.db_command,
            find_sender=lambda: self.start().dispatcher if self.is_recording else None,
            is_shared=self.is_recording,
            redis=self._redis if self._is_on_redis else None,
        )
        if self.settings.database is None:
            log_event(LogEvent.DATABASE_DEFAULTED, path=store.database.path)
        return store

    @property
    def _is_on_redis(self) -> bool:
        named = self.given_broker or self.settings.broker
        if isinstance(named, str):
            return named.startswith(("redis://", "rediss://", "unix://"))
        return hasattr(named, "namespace")

    def _redis(self) -> tuple[Any, str]:
        """The client of a broker on Redis, and the prefix of its keys."""
        broker: Any = self.start().dispatcher.broker
        return broker.client, broker.namespace

    def _make_services(self) -> Services:
        from dexpy.assembly import build, build_transport

        store = self.open_store() if self.is_recording else None
        named = self.given_broker or self.settings.broker
        transport = build_transport(named, store, self.intervals, is_in_database=self.carries_its_queue)
        return build(
            transport,
            store,
            intervals=self.intervals,
            redactor=self.redactor,
            session_store=self.open_store,
            unknown_grace=self.unknown_grace,
            requires_broker=self.on_broker_error == "raise",
            create_tables=self.create_tables,
        )

    def run_record_now(self, record_id: str) -> bool:
        """Run a record in this thread; see `RecordJob.run_now`.

        Raises:
            NotRecorded: Nothing is recorded in this process.
        """
        recorded = self.start().recorded
        if recorded is None:
            raise NotRecorded(f"{record_id} cannot be run by hand: nothing is recorded in this process.")
        return recorded.record_job.run_now(record_id)

    def recorder(
        self, operation: Any, contract: Contract, run_id: str, frame: Frame, redactor: Redactor
    ) -> Recorder | None:
        """Return the recorder of a synchronous run; None if it is not recorded."""
        # Without a database of their own, calls leave no record.
        records_calls = self.settings.database is not None
        if contract.once is not None and not records_calls:
            raise ConfigurationError(
                f"{contract.cls.__qualname__} has an idempotency key, and there is no database to keep it in. "
                "Name one: dexpy.configure(database=...)."
            )
        if not records_calls or contract.record is None:
            return None
        if contract.encrypted_props or contract.encryptor is not None:
            check_encryptable(contract)
        if contract.once is not None:
            recorded = self.start().recorded
            assert recorded is not None  # noqa: S101 - calls are recorded here
            return recorded.once_recorder(operation, contract, contract.once, run_id, frame, redactor)
        return _sync_recorder()(self._store or self.open_store(), contract, operation, run_id, frame, redactor)

    def close(self) -> None:
        """Close the connections that this runtime holds."""
        if self._services is not None:
            self._services.close()
        if self._store is not None:
            self._store.locks.close()
            self._store.database.dispose()


def _made(value: T | None, name: str) -> T:
    if value is None:
        raise ConfigurationError(f"Runtime.{name}: not made yet. Call runtime.start() or dexpy.configure() first.")
    return value


@cache
def _sync_recorder() -> type[SyncRecorder]:
    from dexpy.recording.recorder import SyncRecorder

    return SyncRecorder


_current: Runtime | None = None


def current_runtime() -> Runtime:
    """The runtime in force; made from the environment and pyproject.toml if none is configured."""
    global _current
    if _current is None:
        _current = Runtime(Settings.find())
    return _current


def install(runtime: Runtime | None) -> Runtime | None:
    """Put a runtime in force, and return the one before it."""
    global _current
    before, _current = _current, runtime
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
    encryptors: Mapping[str, Encryptor] | None = None,
    encryption_keys: str | Sequence[str] | None = None,
    accept_unbound_ciphertext: bool | None = None,
    run_context: RunContext | None = None,
) -> Runtime:
    """Say where records and messages go, and put it in force for the process.

    What is left out comes from ``DEXPY_DATABASE`` and ``DEXPY_BROKER``, else from ``[tool.dexpy]`` in the nearest
    pyproject.toml. With nothing named at all, a file ``dexpy.db`` beside that pyproject.toml carries both.

    Args:
        database: The SQLAlchemy URL of the records: ``sqlite:///app.db``.
        broker: Carries the messages: ``redis://``, ``rediss://``, ``amqp://``, ``amqps://``, a database URL, or a
            `dramatiq.Broker` of the application's own, whose middleware stays. The records' own database when left out.
            Applications that share a server have a namespace each, ``redis://host/0?namespace=shop``,
            or a virtual host, ``amqp://host/shop``.
        session_factory: Makes the sessions in which operations run: a `sessionmaker` or `scoped_session` of the
            application. During a run a `scoped_session` gives the session of the run.
        redactor: Gets every text about a failure before it is stored or shown, and returns what may be.
        create_tables: Make missing tables on a server too; for tests and demos. Else ``dexpy db init`` makes them.
        unknown_grace: How long an operation whose class no worker knows waits for one that does, as during a rolling
            deploy, before it is ``failed`` as ``unknown``; a day when left out.
        recover_within: Seconds or a timedelta, at least 5 s, within which what a dead worker ran, or a lost message
            stood for, is offered to the workers again; a minute when left out, or as ``DEXPY_RECOVER_WITHIN`` says.
        on_broker_error: What an enqueue does while the broker is away. ``"send_later"`` stores the record, and the
            relay sends it when the broker is back; ``"raise"`` asks the broker first, one more round trip each time,
            and raises `BrokerUnavailable` with nothing stored. A broker that goes away after that is no error.
        encryptors: What encrypts, by name: objects with ``encrypt(bytes)`` and ``decrypt(bytes)``; ``"default"`` for
            ``encrypt = True`` and ``prop(encrypted=True)``.
        encryption_keys: Keys for a `FernetEncryptor` of that name instead, the first one to encrypt with; what
            ``DEXPY_ENCRYPTION_KEYS`` says when left out.
        accept_unbound_ciphertext: Open what earlier releases encrypted, which does not name the operation, column
            and run that it belongs to, for classes that encrypt; what ``DEXPY_ACCEPT_UNBOUND_CIPHERTEXT`` says when
            left out, else no. Turn it off when no such row is left.
        run_context: Called for each run in the background, and returns a context manager that is entered around it:
            ``app.app_context`` of a Flask application.

    Returns:
        The runtime.

    Raises:
        ConfigurationError: A URL that cannot be used, a session factory or a key.
        MissingExtra: A driver, or `cryptography`, that an extra installs.

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
            f"configure(run_context=...): expected a function that returns a context manager; got {run_context!r}. "
            "Give app.app_context, without parentheses."
        )
    defaults = Settings.find()
    url = broker if isinstance(broker, str) else None
    own = None if broker is None or isinstance(broker, str) else broker
    named = attrs.evolve(
        defaults, database=database or defaults.database, broker=url or (None if own else defaults.broker)
    )
    if named.database is None and session_factory is not None:
        named = attrs.evolve(named, database=url_of(session_factory))
    if database or named.database != defaults.database:
        named = attrs.evolve(named, database_source=CONFIGURED)
    if encryption_keys is not None:
        keys = encryption_keys if isinstance(encryption_keys, str) else ",".join(encryption_keys)
        named = attrs.evolve(named, encryption_keys=keys)
    elif encryptors is not None and DEFAULT in encryptors:
        # The program's word goes before the environment's.
        named = attrs.evolve(named, encryption_keys=None)
    if accept_unbound_ciphertext is not None:
        named = attrs.evolve(named, accept_unbound_ciphertext=accept_unbound_ciphertext)
    if on_broker_error not in ("send_later", "raise"):
        raise ConfigurationError(f"configure(on_broker_error={on_broker_error!r}) wants 'send_later' or 'raise'.")
    if unknown_grace is not None and unknown_grace < timedelta(0):
        raise ConfigurationError(f"configure(unknown_grace={unknown_grace!r}) wants a timedelta of 0 or more.")
    runtime = Runtime(
        named,
        session_factory,
        redactor,
        own,
        create_tables=create_tables,
        unknown_grace=unknown_grace,
        recover_within=recover_within,
        on_broker_error=on_broker_error,
        encryptors=encryptors,
        run_context=run_context,
    )
    if runtime.is_recording:
        runtime.open_store().database.load_driver()
    dispatcher = runtime.start().dispatcher
    import dramatiq

    dramatiq.set_broker(dispatcher.broker)
    install(runtime)
    return runtime


current_store.get = lambda: current_runtime().open_store()
run_record_now.get = lambda: current_runtime().run_record_now
current_encryptors.get = lambda: current_runtime().encryptors
current_dispatcher.get = lambda: current_runtime().start().dispatcher
current_worker.get = lambda: current_runtime().start()
