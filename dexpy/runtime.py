"""`configure` and `Runtime`: the explicit value that says where records and messages go."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.encryption import DEFAULT, Encryptor, Encryptors
from dexpy.foundation.door import dispatcher_in_force, encryptors_in_force, store_in_force
from dexpy.foundation.errors import ConfigurationError
from dexpy.foundation.log import line
from dexpy.foundation.pace import Pace
from dexpy.foundation.redaction import Redactor
from dexpy.foundation.settings import Settings
from dexpy.foundation.trace import Frame

if TYPE_CHECKING:
    import dramatiq
    from sqlalchemy.orm import Session

    from dexpy.background.carriers import Carrier
    from dexpy.background.dispatch import Dispatcher
    from dexpy.declaration.once import OnceOptions
    from dexpy.recording.recorder import Recorder
    from dexpy.recording.store import Store

OnBrokerError: TypeAlias = Literal["send_later", "raise"]


class Runtime:
    """Where records and messages go, and with which sessions operations run.

    Nothing is opened before it is needed: an unconfigured program that only calls operations touches no disk.

    Args:
        settings: What was named.
        session_factory: Makes the sessions of runs.
        redactor: Goes over every text about a failure.
        broker: The application's own, instead of one by URL.
        create_tables: Whether tables are made on a server too, where they are missing.
        unknown_grace: How long what no worker knows is kept waiting.
        rescue_within: How soon what is lost is taken up again.
        on_broker_error: What an enqueue does while the broker is away.
        encryptors: The application's own, by name.
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
        rescue_within: timedelta | float | None = None,
        on_broker_error: OnBrokerError = "send_later",
        encryptors: Mapping[str, Encryptor] | None = None,
    ) -> None:
        self.settings = settings
        self.session_factory = session_factory
        self.given_broker = broker
        self.create_tables = create_tables
        self.unknown_grace = unknown_grace
        self.rescue_within = rescue_within
        self.on_broker_error = on_broker_error
        self.given_encryptors = encryptors
        self._encryptors: Encryptors | None = None
        self.redactor = Redactor(custom=redactor)
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._dispatcher: Dispatcher | None = None

    @property
    def database_url(self) -> str:
        """Where records are, or would be."""
        return self.settings.database or self.settings.default_database

    @property
    def is_recording(self) -> bool:
        """Whether background runs are recorded: unless somebody named a broker and no database."""
        return self.settings.database is not None or (self.settings.broker is None and self.given_broker is None)

    @property
    def records_calls(self) -> bool:
        """Whether synchronous calls are recorded: when somebody named a database for it."""
        return self.settings.database is not None

    @property
    def carries_its_queue(self) -> bool:
        """Whether the records' database carries the messages too."""
        named = self.given_broker or self.settings.broker
        return self.is_recording and (named is None or named == self.settings.database)

    @property
    def encryptors(self) -> Encryptors:
        """What encrypts, by name; made at the first use."""
        if self._encryptors is None:
            self._encryptors = Encryptors(self.given_encryptors, self.settings.encryption_keys)
        return self._encryptors

    def session_store(self) -> Store:
        """The store, for the sessions of runs."""
        return self.store

    @property
    def store(self) -> Store:
        """The store of records."""
        with self._lock:
            if self._store is None:
                self._store = self._make_store()
            return self._store

    def _make_store(self) -> Store:
        from dexpy.recording.database import Database
        from dexpy.recording.locks.places import Locks
        from dexpy.recording.store import Store

        database = Database(self.database_url)
        if self.settings.database is None:
            line(logging.INFO, "database.default", path=database.path)
        store = Store(
            database,
            session_factory=self.session_factory,
            redactor=self.redactor,
            create_tables=self.create_tables,
            find_sender=lambda: self.dispatcher if self.is_recording else None,
        )
        store.locks = Locks(database, is_shared=self.is_recording, redis=self._redis if self._is_on_redis else None)
        return store

    @property
    def _is_on_redis(self) -> bool:
        named = self.given_broker or self.settings.broker
        if isinstance(named, str):
            return named.startswith(("redis://", "rediss://", "unix://"))
        return hasattr(named, "namespace")

    def _redis(self) -> tuple[Any, str]:
        """The client of a broker on Redis, and the prefix of its keys."""
        broker: Any = self.broker
        return broker.client, broker.namespace

    @property
    def dispatcher(self) -> Dispatcher:
        """The way to the background, with the two actors declared on its broker."""
        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = self._make_dispatcher()
            return self._dispatcher

    def _make_dispatcher(self) -> Dispatcher:
        from dexpy.background import queues, relay, watch
        from dexpy.background.actors import declare_actors
        from dexpy.background.dispatch import Dispatcher
        from dexpy.background.heart import Heart
        from dexpy.background.jobs import Jobs
        from dexpy.background.rounds import Round, Rounds
        from dexpy.background.unknown import patience

        store = self.store if self.is_recording else None
        if store is None:
            line(logging.WARNING, "recording.off", why="a broker is named and no database")
        carrier = self._carrier(store)
        dispatcher = Dispatcher(carrier, store, insists=self.on_broker_error == "raise")
        rounds = [Round("queues", queues.LOOK_EVERY_S, lambda: queues.declare_new_queues(carrier))]
        if store is not None:
            # Before the actors' middleware, so that the heart stops after what was not ended has been given back.
            dispatcher.heart = heart = Heart(store, self.pace, carrier.keep_alive)
            carrier.broker.add_middleware(heart)
            found = relay.Relay(dispatcher, heart, self.pace)
            rounds.append(Round("relay", self.pace.look_every_s, found.look_after))
            if not carrier.transactional:
                rounds.append(Round("send", relay.EVERY_S, found.send))
        jobs = Jobs(
            dispatcher, store, self.redactor, self.session_store, dispatcher.heart, patience(self.unknown_grace)
        )
        dispatcher.watch = jobs.watch
        dispatcher.perform = jobs.run_now
        rounds.append(Round("watch", watch.EVERY_S, jobs.watch.look))
        carrier.broker.add_middleware(Rounds(*rounds))
        declare_actors(carrier.broker, jobs)
        return dispatcher

    @property
    def pace(self) -> Pace:
        """How soon what is lost is taken up again."""
        return Pace.of(self.rescue_within if self.rescue_within is not None else self.settings.rescue_within)

    def _carrier(self, store: Store | None) -> Carrier:
        from dexpy.background.brokers.servers import broker_from_url, is_database
        from dexpy.background.brokers.sql import SqlBroker
        from dexpy.background.carriers import ServerCarrier, SqlCarrier
        from dexpy.recording.database import Database

        named = self.given_broker or self.settings.broker
        if store is not None and self.carries_its_queue:
            return SqlCarrier(SqlBroker(store.database, lease_s=self.pace.lease_s))
        if isinstance(named, str):
            if not is_database(named):
                named = broker_from_url(named, silent_s=self.pace.lease_s)
            elif store is None:
                return SqlCarrier(SqlBroker(Database(named)))
            else:
                named = SqlBroker(Database(named))
                named.create_tables()
        assert named is not None  # noqa: S101 - without a store a broker was named
        return ServerCarrier(named, None if store is None else SqlBroker(store.database))

    @property
    def broker(self) -> dramatiq.Broker:
        """The broker that carries the messages."""
        return self.dispatcher.broker

    def recorder(
        self, operation: Any, contract: Contract, run_id: str, frame: Frame, redactor: Redactor
    ) -> Recorder | None:
        """Who writes the row of a synchronous run; None for nobody."""
        if contract.once is not None and not self.records_calls:
            raise ConfigurationError(
                f"{contract.cls.__qualname__} has an idempotency key, and there is no database to keep it in. "
                "Name one: dexpy.configure(database=...)."
            )
        if not self.records_calls or contract.record is None:
            return None
        from dexpy.recording.recorder import SyncRecorder

        if contract.sealed_props or contract.encryptor is not None:
            from dexpy.recording.sealing import check_sealable

            check_sealable(contract)
        if contract.once is not None:
            return self._once_recorder(operation, contract, contract.once, run_id, frame, redactor)
        return SyncRecorder(self.store, contract, operation, run_id, frame, redactor)

    def _once_recorder(
        self, operation: Any, contract: Contract, once: OnceOptions, run_id: str, frame: Frame, redactor: Redactor
    ) -> Recorder:
        from dexpy.background.keyed import claim_for_call
        from dexpy.background.rescue import Rescue
        from dexpy.background.vigil import Vigil
        from dexpy.recording.ambient import ambient
        from dexpy.recording.once import OnceRecorder

        dispatcher, outer = self.dispatcher, ambient()
        heart = dispatcher.heart
        assert heart is not None  # noqa: S101 - there is one where calls are recorded
        vigil = Vigil(heart, Rescue(dispatcher, self.store, heart))
        wants = claim_for_call(operation, contract, once, self.store, outer)
        return OnceRecorder(
            self.store, contract, operation, run_id, frame, redactor, vigil=vigil, outer=outer, wants=wants
        )

    def close(self) -> None:
        """Close the connections that this runtime holds."""
        if self._dispatcher is not None:
            self._dispatcher.close()
        if self._store is not None:
            self._store.locks.close()
            self._store.database.dispose()


_current: Runtime | None = None


def current_runtime() -> Runtime:
    """The runtime in force; made from the environment and pyproject.toml if nobody has configured one."""
    global _current
    if _current is None:
        _current = Runtime(Settings.find())
    return _current


def install(runtime: Runtime | None) -> Runtime | None:
    """Put a runtime in force, and return the one before it."""
    global _current
    before, _current = _current, runtime
    return before


def configure(
    *,
    database: str | None = None,
    broker: str | dramatiq.Broker | None = None,
    session_factory: Callable[[], Session] | None = None,
    redactor: Callable[[str], str] | None = None,
    create_tables: bool = False,
    unknown_grace: timedelta | None = None,
    rescue_within: timedelta | float | None = None,
    on_broker_error: OnBrokerError = "send_later",
    encryptors: Mapping[str, Encryptor] | None = None,
    encryption_keys: str | Sequence[str] | None = None,
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
        session_factory: Makes the sessions in which operations run: a `sessionmaker` of the application.
        redactor: Gets every text about a failure before it is stored or shown, and returns what may be.
        create_tables: Make missing tables on a server too; for tests and demos. Else ``dexpy db init`` makes them.
        unknown_grace: How long an operation whose class no worker knows waits for one that does, as during a rolling
            deploy, before it is ``failed`` as ``unknown``; a day when left out.
        rescue_within: Seconds or a timedelta, at least 5 s, within which what a dead worker ran, or a lost message
            stood for, is offered to the workers again; a minute when left out, or as ``DEXPY_RESCUE_WITHIN`` says.
        on_broker_error: What an enqueue does while the broker is away. ``"send_later"`` stores the record, and the
            relay sends it when the broker is back; ``"raise"`` asks the broker first, one more round trip each time,
            and raises `BrokerUnavailable` with nothing stored. A broker that goes away after that is no error.
        encryptors: What encrypts, by name: objects with ``encrypt(bytes)`` and ``decrypt(bytes)``; ``"default"`` for
            ``encrypt = True`` and ``prop(encrypted=True)``.
        encryption_keys: Keys for a `FernetEncryptor` of that name instead, the first one to encrypt with; what
            ``DEXPY_ENCRYPTION_KEYS`` says when left out.

    Returns:
        The runtime.

    Raises:
        ConfigurationError: A URL that cannot be used, or a key.
        MissingExtra: A driver, or `cryptography`, that an extra installs.

    Example:
        >>> import dexpy
        >>> runtime = dexpy.configure(database="sqlite:///app.db")
        >>> runtime.database_url
        'sqlite:///app.db'
    """
    found = Settings.find()
    url = broker if isinstance(broker, str) else None
    own = None if broker is None or isinstance(broker, str) else broker
    named = attrs.evolve(found, database=database or found.database, broker=url or (None if own else found.broker))
    if named.database is None and session_factory is not None:
        named = attrs.evolve(named, database=_url_of(session_factory))
    if encryption_keys is not None:
        keys = encryption_keys if isinstance(encryption_keys, str) else ",".join(encryption_keys)
        named = attrs.evolve(named, encryption_keys=keys)
    elif encryptors is not None and DEFAULT in encryptors:
        # The program's word goes before the environment's.
        named = attrs.evolve(named, encryption_keys=None)
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
        rescue_within=rescue_within,
        on_broker_error=on_broker_error,
        encryptors=encryptors,
    )
    runtime.encryptors  # noqa: B018 - made now, so that a wrong key is told here
    runtime.pace  # noqa: B018 - read now, so that a wrong one is told here
    if runtime.is_recording:
        runtime.store.database.engine  # noqa: B018 - made now, so that a wrong URL is told here
    import dramatiq

    dramatiq.set_broker(runtime.broker)
    install(runtime)
    return runtime


def _url_of(session_factory: Callable[[], Session]) -> str:
    bind = getattr(session_factory, "kw", {}).get("bind")
    if bind is None:
        raise ConfigurationError(
            "configure(session_factory=...) got a factory whose database cannot be seen. "
            "Name it: configure(database=..., session_factory=...)."
        )
    url: str = bind.url.render_as_string(hide_password=False)
    return url


store_in_force.open(lambda: current_runtime().store)
encryptors_in_force.open(lambda: current_runtime().encryptors)
dispatcher_in_force.open(lambda: current_runtime().dispatcher)
