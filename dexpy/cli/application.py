"""The application of a command: the modules that hold its operations and its settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dexpy.configuration.settings import CONFIGURED
from dexpy.foundation.errors import ConfigurationError, listed

if TYPE_CHECKING:
    from dexpy.recording.store import Store
    from dexpy.runtime import Runtime

verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")


def module_arguments(*, required: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the parameter `modules` to a command: ``MODULE...``, followed by each ``--app MODULE``.

    Args:
        required: Whether the command fails without a module.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_modules(*, modules: tuple[str, ...], app: tuple[str, ...], **options: Any) -> Any:
            all_modules = tuple(dict.fromkeys((*modules, *app)))
            if required and not all_modules:
                raise click.UsageError("Missing argument 'MODULE...'.")
            return command(modules=all_modules, **options)

        help_text = "A module of the application, like MODULE; may be repeated."
        with_option = click.option("-A", "--app", multiple=True, metavar="MODULE", help=help_text)(with_modules)
        metavar = "MODULE..." if required else "[MODULE]..."
        return click.argument("modules", nargs=-1, metavar=metavar)(with_option)

    return decorate


def load(modules: tuple[str, ...]) -> Runtime:
    """Import the application and return its runtime.

    Raises:
        ConfigurationError: The import of a module failed, or the settings are invalid.
    """
    from dexpy.runtime import current_runtime
    from dexpy.worker.importing import contain_exits, import_modules

    import_modules(modules)
    with contain_exits("Cannot read the settings"):
        return current_runtime()


def load_store(modules: tuple[str, ...]) -> Store:
    """Import the application and return its store; unless code configures its database, print which setting does.

    Raises:
        ConfigurationError: As `load`, or the application has no database.
    """
    runtime = load(modules)
    if not runtime.is_recording:
        raise ConfigurationError(
            "database: not configured; the settings have only a broker, so nothing is recorded. "
            "Set DEXPY_DATABASE, or call dexpy.configure(database=...) in a module and pass it: --app MODULE."
        )
    store = runtime.open_store()
    if (note := origin_of(runtime, modules)) is not None:
        click.echo(f"Note: {store.database.display_url} is {note}", err=True)
    return store


def origin_of(runtime: Runtime, modules: tuple[str, ...]) -> str | None:
    """Return where the database is configured; None if the application's own code does."""
    source = runtime.settings.database_source
    if source == CONFIGURED or runtime.settings.configuration.is_flag("database"):
        return None
    if source is not None and not modules:
        return f"the database of {source}. Pass the modules of the application if one of them calls dexpy.configure()."
    origin = f"the database of {source}" if source is not None else "the default, because no database is configured"
    if modules:
        return f"{origin}: {listed(modules)} did not call dexpy.configure(database=...)."
    return f"{origin}. Pass the modules of the application if one of them calls dexpy.configure()."
