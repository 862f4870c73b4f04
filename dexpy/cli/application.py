"""The application of a command: the modules that hold its operations and its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dexpy.cli.setting_options import setting_options
from dexpy.configuration.loading import Configuration
from dexpy.configuration.settings import CONFIGURED, command_modules
from dexpy.foundation.errors import ConfigurationError, listed

if TYPE_CHECKING:
    from dexpy.recording.store import Store
    from dexpy.runtime import Runtime

verbose_option = click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")


def module_arguments() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the parameter `modules` to a command, for ``MODULE...``, and the setting ``--app``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        return click.argument("modules", nargs=-1, metavar="[MODULE]...")(setting_options("app")(command))

    return decorate


def application_names(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of what a command loads: its arguments and the setting `app`.

    Args:
        modules: The arguments ``MODULE...``.

    Raises:
        ConfigurationError: The settings are invalid.
    """
    return tuple(dict.fromkeys((*modules, *(Configuration.load().get("app") or ()))))


def load(modules: tuple[str, ...]) -> Runtime:
    """Load the application and return its runtime.

    Args:
        modules: The arguments ``MODULE...``.

    Raises:
        ConfigurationError: Loading the application failed, or the settings are invalid.
    """
    from dexpy.runtime import current_runtime
    from dexpy.worker.application import load_application
    from dexpy.worker.importing import contain_exits

    load_application(application_names(modules))
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
    if (note := origin_of(runtime, command_modules.get())) is not None:
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
