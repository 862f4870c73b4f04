"""The flags of settings, derived from the table of settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dexpy.configuration.kinds import (
    Applications,
    Duration,
    InvalidSetting,
    KeepDuration,
    Kind,
    Number,
    Queues,
    Size,
    Switch,
    Url,
)
from dexpy.configuration.loading import Configuration, command_flags
from dexpy.configuration.table import RETENTION, SETTINGS, Setting, default_of, settings_of
from dexpy.configuration.values import GROUP_KEYS
from dexpy.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from dexpy.configuration.values import WorkerGroup

DATABASE_KEYS = ("config", "env", "database", "broker", "table_prefix", "schema")
"""The settings of commands that only use the database."""
RETENTION_KEYS = tuple(setting.key for setting in settings_of(RETENTION).values())
"""The settings of the deletion of old records."""
RUNTIME_KEYS = (
    *DATABASE_KEYS,
    "recover_within",
    "zone",
    "skip_recurring",
    "accept_unbound_ciphertext",
    "log_format",
    "relay.interval",
    "relay.batch_size",
    *RETENTION_KEYS,
)
"""The settings of commands that publish or recover runs."""
WORKER_KEYS = (*GROUP_KEYS, *RUNTIME_KEYS, "dump_signal", "health.port", "health.host")
"""The settings of commands that start workers."""

group_option = click.option(
    "--group", "only_groups", multiple=True, metavar="NAME", help="Only this worker group of the file; may be repeated."
)

_METAVARS: dict[type[Kind], str] = {
    Applications: "MODULE[:NAME]",
    Duration: "DURATION",
    KeepDuration: "DURATION",
    Number: "N",
    Queues: "NAME,...",
    Size: "SIZE",
    Url: "URL",
}


def setting_options(*keys: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the flags of settings to a command; while it runs, `command_flags` has those that were passed.

    Args:
        keys: The keys of the settings.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_flags(**options: Any) -> Any:
            context, previous = click.get_current_context(), command_flags.get()
            values = {key: options.pop(SETTINGS[key].parameter) for key in keys}
            passed = {key: value for key, value in values.items() if _is_passed(context, SETTINGS[key])}
            context.call_on_close(lambda: command_flags.set(previous))
            command_flags.set({**previous, **passed})
            return command(**options)

        decorated: Callable[..., Any] = with_flags
        for key in reversed(keys):
            decorated = _option(SETTINGS[key])(decorated)
        return decorated

    return decorate


def _is_passed(context: click.Context, setting: Setting) -> bool:
    return context.get_parameter_source(setting.parameter) == click.core.ParameterSource.COMMANDLINE


def _option(setting: Setting) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the flag of a setting."""

    def parse(_context: click.Context, _option: click.Parameter, argument: Any) -> Any:
        if argument is None or argument == ():
            return default_of(setting.key)
        if isinstance(argument, bool):
            return argument
        try:
            return setting.kind.from_text(argument if isinstance(argument, str) else ",".join(argument))
        except InvalidSetting as error:
            raise click.BadParameter(error.problem) from None

    flag = setting.flag
    declaration = f"{flag}/--no-{flag[2:]}" if isinstance(setting.kind, Switch) else flag
    return click.option(
        *filter(None, (setting.short, declaration)),
        setting.parameter,
        callback=parse,
        default=None,
        multiple=isinstance(setting.kind, (Queues, Applications)),
        metavar=None if isinstance(setting.kind, Switch) else _METAVARS.get(type(setting.kind), "TEXT"),
        help=f"{setting.summary}  [default: {setting.plain_default}]",
    )


def load_groups(only: tuple[str, ...]) -> tuple[Configuration, tuple[WorkerGroup, ...]]:
    """Return the configuration and the worker groups to start.

    Args:
        only: The names of groups; all if empty.

    Raises:
        StartupError: The configuration is invalid.
    """
    from dexpy.worker.importing import StartupError

    try:
        configuration = Configuration.load()
        return configuration, configuration.worker_groups(only)
    except ConfigurationError as error:
        raise StartupError(str(error)) from None
