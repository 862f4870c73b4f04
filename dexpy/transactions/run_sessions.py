"""The sessions of runs, created by the application's `session_factory`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import attrs
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.util import ScopedRegistry

from dexpy.database.engine_options import synchronous
from dexpy.foundation.errors import ConfigurationError, DexpyError, first_line
from dexpy.transactions.session_listeners import listen

listen()

EXPECTED = "expected a factory of SQLAlchemy's Session, such as sessionmaker(engine) or a scoped_session"


def is_asyncio(value: Any) -> bool:
    """Return whether an object is a session, factory or engine of SQLAlchemy's asyncio extension."""
    module = sys.modules.get("sqlalchemy.ext.asyncio")
    if module is None:
        return False
    kinds = (module.AsyncSession, module.AsyncEngine, module.AsyncConnection, module.async_sessionmaker)
    if isinstance(value, (*kinds, module.async_scoped_session)):
        return True
    return isinstance(value, type) and issubclass(value, module.AsyncSession)


def check_factory(factory: Any) -> None:
    """Refuse an unsuitable session factory, without calling it.

    Raises:
        ConfigurationError: The factory does not create sessions for runs.
    """
    where = "configure(session_factory=...)"
    unscoped = _unscoped(factory)
    binds = _binds_of(unscoped)
    url = next((synchronous(bind.url) for bind in binds if hasattr(bind, "url")), "postgresql+psycopg://...")
    if is_asyncio(factory) or is_asyncio(getattr(unscoped, "class_", None)) or inspect.iscoroutinefunction(factory):
        raise ConfigurationError(
            f"{where}: {EXPECTED}; got {_type_name(factory)}, whose sessions can only be awaited. "
            f"Use sessionmaker(create_engine({url!r})); an `async def perform` uses such a session by "
            "`await self.in_session(...)`."
        )
    if _is(factory, Session):
        raise ConfigurationError(
            f"{where}: {EXPECTED}; got a Session, which all runs would share. Pass the factory that created it."
        )
    if not callable(factory):
        raise ConfigurationError(f"{where}: {EXPECTED}; got {_type_name(factory)}.")
    if any(is_asyncio(bind) or getattr(getattr(bind, "dialect", None), "is_async", False) for bind in binds):
        raise ConfigurationError(
            f"{where}: {EXPECTED}; got a {type(unscoped).__name__} on an engine with an asyncio driver. "
            f"Bind it to an engine with a synchronous driver: create_engine({url!r})."
        )


def _binds_of(factory: Any) -> list[Any]:
    """Return the engines and connections of a `sessionmaker`, of asyncio or not."""
    options: dict[str, Any] = getattr(factory, "kw", None) or {}
    several: dict[Any, Any] = options.get("binds") or {}
    return [bind for bind in (options.get("bind"), *several.values()) if bind is not None]


def _is(value: Any, kind: type) -> bool:
    # isinstance would make type checkers narrow Any to a class with unknown type parameters.
    return isinstance(value, kind)


def _unscoped(factory: Any) -> Any:
    """Return the factory itself, or the session factory of a `scoped_session`."""
    return factory.session_factory if _is(factory, scoped_session) else factory


def url_of(factory: Any) -> str:
    """Return the URL of the database of a factory's sessions.

    Raises:
        ConfigurationError: The database is unknown.
    """
    unscoped = _unscoped(factory)
    bind: Any = getattr(unscoped, "kw", {}).get("bind")
    if bind is None and _is(unscoped, sessionmaker):
        try:
            # A session class may choose its engine itself, for example that of Flask-SQLAlchemy.
            with unscoped() as session:
                bind = session.get_bind()
        except Exception:  # noqa: BLE001 - whatever the application's class raises, the engine is unknown
            bind = None
    if bind is None:
        raise ConfigurationError(
            "configure(session_factory=...): the database of the factory is unknown. "
            "Set it: configure(database=..., session_factory=...)."
        )
    url: str = bind.engine.url.render_as_string(hide_password=False)
    return url


def _type_name(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"{type(value).__name__}"


@attrs.frozen
class SharedSession:
    """A run's session in the registry of a `scoped_session`, until `restore` restores the previous one.

    Attributes:
        registry: The registry.
        session: The session of the run.
        previous: The previous session, or None.
    """

    registry: ScopedRegistry[Session]
    session: Session
    previous: Session | None

    def restore(self) -> None:
        """Restore the previous session if the registry still has that of the run."""
        if not self.registry.has() or self.registry() is not self.session:
            return
        if self.previous is None:
            self.registry.clear()
        else:
            self.registry.set(self.previous)


@attrs.frozen
class RunSessions:
    """Creates the session of each run, and makes it the current one of the application's `scoped_session`.

    Attributes:
        factory: The configured `session_factory`.
    """

    factory: Callable[[], Session]

    @property
    def registry(self) -> ScopedRegistry[Session] | None:
        """The registry of the application's `scoped_session`, or None."""
        factory: Any = self.factory
        return factory.registry if _is(factory, scoped_session) else None

    def create(self) -> Session:
        """Create a session for one run.

        Raises:
            ConfigurationError: The factory has not returned a session.
        """
        # Use the factory of a scoped_session: a run closes its session, which must not be shared.
        created: Any = _unscoped(self.factory)()
        if _is(created, scoped_session):
            created = _unscoped(created)()
        if _is(created, Session):
            session: Session = created
            return session
        if hasattr(created, "close") and hasattr(created, "cr_frame"):
            # Close a coroutine, to avoid the warning that it was never awaited.
            created.close()
        raise ConfigurationError(
            f"configure(session_factory=...): {EXPECTED}; it returned {type(created).__name__}. "
            + (
                "Return a plain Session, which an `async def perform` uses by `await self.in_session(...)`."
                if is_asyncio(created)
                else "Return a Session."
            )
        )

    def set_current(self, session: Session) -> SharedSession | None:
        """Make a run's session the current one of the `scoped_session`; None if there is nothing to restore."""
        registry = self.registry
        if registry is None:
            return None
        try:
            previous = registry() if registry.has() else None
            if previous is session:
                return None
            registry.set(session)
        except Exception:  # noqa: BLE001 - outside of its context the application has no current session
            return None
        return SharedSession(registry, session, previous)

    @property
    def has_scope(self) -> bool:
        """Return whether the application has a scope for a current session here."""
        registry = self.registry
        if registry is None:
            return False
        try:
            registry.has()
        except Exception:  # noqa: BLE001 - as in `set_current`
            return False
        return True

    @contextmanager
    def closing_leftovers(self) -> Generator[None, None, None]:
        """Close a session that code in the block leaves in the registry, without a commit."""
        registry = self.registry
        if registry is None or not self.has_scope:
            yield
            return
        previous = registry() if registry.has() else None
        try:
            yield
        finally:
            if registry.has() and (leftover := registry()) is not previous:
                leftover.close()
                SharedSession(registry, leftover, previous).restore()

    @contextmanager
    def probe(self) -> Generator[Session, None, None]:
        """Create a session to check the factory; close it at the end of the block.

        Raises:
            ConfigurationError: The factory, or its session outside of the application's context, raises an error.
        """
        try:
            session = self.create()
        except ConfigurationError:
            raise
        except Exception as error:
            raise _refused(error) from error
        try:
            yield session
        except (DexpyError, SQLAlchemyError):
            raise
        except Exception as error:
            raise _refused(error) from error
        finally:
            session.close()


def _refused(error: Exception) -> ConfigurationError:
    message = first_line(error)
    hint = (
        "Run it in an application context: dexpy.configure(..., run_context=app.app_context)."
        if "application context" in message
        else "Workers call session_factory at the start and for each run, without arguments and outside of a request. "
        "Provide a context with configure(run_context=...)."
    )
    end = "" if message.endswith((".", "!", "?")) else "."
    reason = f"raised {type(error).__name__}: {message}{end}"
    return ConfigurationError(f"configure(session_factory=...): {reason} {hint}")
