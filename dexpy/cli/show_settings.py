"""``dexpy check --show``: every setting with its value and its origin, without secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from dexpy.configuration.file import SINGLE_TABLES
from dexpy.configuration.loading import LIMIT_KEYS
from dexpy.configuration.settings import CONFIGURED, NAMES
from dexpy.configuration.table import QUEUES, RECURRING, SETTINGS, settings_of
from dexpy.configuration.values import DEFAULT, Value, WorkerGroup

if TYPE_CHECKING:
    from dexpy.configuration.loading import Configuration
    from dexpy.runtime import Runtime


@attrs.frozen
class Shown:
    """A setting as it is printed.

    Attributes:
        name: Its key; of a table that exists several times, with the name of the table.
        text: Its value, without secrets.
        origin: Its origin.
    """

    name: str
    text: str
    origin: str


def setting_lines(runtime: Runtime, groups: Sequence[WorkerGroup]) -> list[str]:
    """Return a line for each setting: its key, its value and its origin.

    Args:
        runtime: The runtime of the application.
        groups: The worker groups to show.
    """
    configuration = runtime.settings.configuration
    rows = [*_selection(configuration), *_of_runtime(runtime), *_groups(groups)]
    single = [setting for table in SINGLE_TABLES for setting in settings_of(table).values()]
    rows += [_row(setting.key, setting.key, configuration.values) for setting in single]
    for name, values in configuration.queues.items():
        rows += [_row(key, f"{QUEUES}.{name}.{SETTINGS[key].name}", values) for key in LIMIT_KEYS]
    for entry in configuration.recurring:
        table = f"{RECURRING}.{entry.key}"
        rows += [_row(key, f"{table}.{SETTINGS[key].name}", entry.values) for key in entry.values]
    name_width, text_width = (max(map(len, column)) for column in zip(*((r.name, r.text) for r in rows), strict=True))
    return [f"{row.name:{name_width}}  {row.text:{text_width}}  {row.origin}" for row in rows]


def _selection(configuration: Configuration) -> Iterator[Shown]:
    """Yield the file, the environment and the application."""
    file = "none" if configuration.file is None else str(configuration.file)
    yield Shown("config", file, configuration.origin("config"))
    yield Shown("env", configuration.environment, configuration.origin("env"))
    yield _row("app", "app", configuration.values)


def _of_runtime(runtime: Runtime) -> Iterator[Shown]:
    """Yield the settings that `dexpy.configure` may set too."""
    settings = runtime.settings
    values = {name: Value(getattr(settings, name), settings.origins.get(name, DEFAULT)) for name in NAMES}
    if settings.database is None:
        default = runtime.database_url if runtime.is_recording else None
        values["database"] = Value(default, settings.origins.get("database", DEFAULT))
    for name in NAMES:
        row = _row(name, name, values)
        if name == "broker" and runtime.broker_instance is not None:
            row = Shown(name, type(runtime.broker_instance).__name__, CONFIGURED)
        if name == "database" and not runtime.is_recording:
            row = attrs.evolve(row, text="none, because only a broker is configured")
        yield row


def _groups(groups: Sequence[WorkerGroup]) -> Iterator[Shown]:
    for group in groups:
        for key, value in group.values().items():
            name = f"workers.{group.name}.{SETTINGS[key].name}" if group.name else key
            yield _row(key, name, {key: value})


def _row(key: str, name: str, values: Mapping[str, Value]) -> Shown:
    setting = SETTINGS[key]
    value = values.get(key, Value(setting.default))
    # None of a file, a variable or a flag has a meaning, for example all queues.
    is_default = value.value is None and value.origin in (DEFAULT, CONFIGURED)
    return Shown(name, setting.plain_default if is_default else setting.kind.display(value.value), value.origin)
