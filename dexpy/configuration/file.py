"""The configuration file: ``dexpy.toml``, or ``[tool.dexpy]`` in pyproject.toml.

The top level applies to every environment; a table with the name of an environment takes precedence in it.
All environments are checked whenever the file is read, so that an error in one of them is found before it is used.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import attrs

from dexpy.configuration.kinds import InvalidSetting, check_queue_name, described
from dexpy.configuration.table import (
    HEALTH,
    NAME,
    PREFIX,
    QUEUES,
    RECURRING,
    RELAY,
    RETENTION,
    SETTINGS,
    TOP,
    WORKERS,
    Setting,
    settings_of,
)
from dexpy.configuration.toml_lines import key_lines
from dexpy.configuration.values import DEFAULT, RecurringEntry, Value
from dexpy.foundation.errors import ConfigurationError, DeclarationError, did_you_mean, listed

OWN_FILE = "dexpy.toml"
PYPROJECT = "pyproject.toml"
FILES = (OWN_FILE, PYPROJECT)
SINGLE_TABLES = (RELAY, RETENTION, HEALTH)
"""The tables that exist once in each layer."""
TABLES = (WORKERS, *SINGLE_TABLES, QUEUES, RECURRING)
SIMILARITY = 0.8
"""How similar the name of a table must be to a key to be a typing error and not an environment."""


@attrs.frozen
class Layer:
    """What one environment, or the top level, sets.

    Attributes:
        values: Values by key of the table of settings, without those of worker groups.
        groups: The values of each worker group; None without groups.
        recurring: The recurring tasks by key.
        queues: The values of each limited queue, by its name.
    """

    values: Mapping[str, Value] = attrs.field(factory=dict[str, Value])
    groups: tuple[Mapping[str, Value], ...] | None = None
    recurring: Mapping[str, RecurringEntry] = attrs.field(factory=dict[str, RecurringEntry])
    queues: Mapping[str, Mapping[str, Value]] = attrs.field(factory=dict[str, Mapping[str, Value]])


@attrs.frozen
class ConfigurationFile:
    """A file that has been read and checked.

    Attributes:
        path: Its path.
        top: What its top level sets.
        environments: What each environment sets.
    """

    path: Path
    top: Layer
    environments: Mapping[str, Layer]


def project_folder(folder: Path) -> Path:
    """Return the nearest folder upwards that has a pyproject.toml or dexpy.toml; else the folder itself."""
    parents = (folder, *folder.parents)
    return next((parent for parent in parents if any((parent / name).is_file() for name in FILES)), folder)


def find_file(home: Path) -> Path | None:
    """Return the file with the settings of a project; None without one.

    Args:
        home: The folder of the project.

    Raises:
        ConfigurationError: Both files have settings, or pyproject.toml is invalid.
    """
    own, pyproject = home / OWN_FILE, home / PYPROJECT
    has_table = pyproject.is_file() and "dexpy" in _tool(_read(pyproject)[1])
    if own.is_file() and has_table:
        raise ConfigurationError(
            f"{own}: {pyproject} has settings too, in [tool.dexpy]. Move the settings of both into one of the files."
        )
    return own if own.is_file() else pyproject if has_table else None


def read_file(path: Path) -> ConfigurationFile:
    """Read and check a file.

    Args:
        path: The file: pyproject.toml, or one of the form of dexpy.toml.

    Raises:
        ConfigurationError: The file cannot be read, or has unknown keys or invalid values; the message lists all.
    """
    text, data = _read(path)
    prefix = ("tool", "dexpy") if path.name == PYPROJECT else ()
    table: object = _tool(data).get("dexpy") if prefix else data
    if table is None:
        raise ConfigurationError(f"{path}: no table [tool.dexpy]. Add it.")
    return _Reader(path, text, prefix).read(table)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        # utf-8-sig, because some editors write a byte order mark.
        text = path.read_text("utf-8-sig")
        return text, tomllib.loads(text)
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: invalid settings: {error}. Fix the file.") from None


def _tool(data: Mapping[str, Any]) -> dict[str, Any]:
    tool: object = data.get("tool")
    return cast("dict[str, Any]", tool) if isinstance(tool, dict) else {}


class _Reader:
    """Reads one file, and collects its problems."""

    def __init__(self, path: Path, text: str, prefix: tuple[str, ...]) -> None:
        self._path = path
        self._text = text
        self._prefix = prefix
        self._problems: list[tuple[int, str]] = []

    @cached_property
    def _lines(self) -> Mapping[tuple[str | int, ...], int]:
        return key_lines(self._text)

    def read(self, table: object) -> ConfigurationFile:
        """Return what the file sets."""
        if not isinstance(table, dict):
            self._report((), "", f"expected a table, got {described(table)}.")
            table = {}
        items = cast("dict[str, Any]", table)
        names = [name for name, value in items.items() if isinstance(value, dict) and self._is_environment(name)]
        top = self._layer((), {name: value for name, value in items.items() if name not in names})
        environments = {name: self._layer((name,), items[name]) for name in names}
        if self._problems:
            self._raise()
        return ConfigurationFile(self._path, top, environments)

    def _raise(self) -> None:
        lines = [f"{self._path}:{line}: {problem}" for line, problem in sorted(self._problems)]
        title = [] if len(lines) == 1 else [f"{self._path}: {len(lines)} invalid settings"]
        raise ConfigurationError("\n".join([*title, *lines]))

    def _line(self, path: tuple[str | int, ...]) -> int:
        full: tuple[str | int, ...] = (*self._prefix, *path)
        while full not in self._lines and full:
            full = full[:-1]
        return self._lines.get(full, 1)

    def _origin(self, path: tuple[str | int, ...]) -> str:
        return f"{self._path}:{self._line(path)}"

    def _report(self, path: tuple[str | int, ...], key: str, problem: str) -> None:
        """Add a problem of a key of the table with this path."""
        table = ".".join(str(part) for part in (*self._prefix, *path) if not isinstance(part, int))
        in_array = bool(path) and isinstance(path[-1], int)
        label = "" if not table else f"[[{table}]] " if in_array else f"[{table}] "
        subject = f"{label}{key}: " if key else f"{label.strip()}: "
        self._problems.append((self._line((*path, key) if key else path), subject + problem))

    def _is_environment(self, name: str) -> bool:
        known = settings_of(TOP).keys() | {*TABLES}
        if name in known or name == DEFAULT or (name == "tool" and not self._prefix):
            return False
        is_typing_error = difflib.get_close_matches(name.lower(), known, n=1, cutoff=SIMILARITY)
        return not is_typing_error and re.fullmatch(NAME, name) is not None

    def _layer(self, path: tuple[str | int, ...], table: Mapping[str, Any]) -> Layer:
        scalars = {name: value for name, value in table.items() if name not in TABLES}
        values = {setting.key: value for setting, value in self._table(path, scalars, TOP)}
        for name in SINGLE_TABLES:
            if name in table and self._is_table(path, name, table[name]):
                values |= {setting.key: value for setting, value in self._table((*path, name), table[name], name)}
        groups = self._groups(path, table[WORKERS]) if WORKERS in table else None
        recurring: dict[str, RecurringEntry] = {}
        if RECURRING in table and self._is_table(path, RECURRING, table[RECURRING]):
            recurring = self._recurring((*path, RECURRING), table[RECURRING])
        queues: dict[str, Mapping[str, Value]] = {}
        if QUEUES in table and self._is_table(path, QUEUES, table[QUEUES]):
            queues = self._queues((*path, QUEUES), table[QUEUES])
        return Layer(values, groups, recurring, queues)

    def _is_table(self, path: tuple[str | int, ...], name: str, value: object) -> bool:
        if isinstance(value, dict):
            return True
        self._report(path, name, f"expected a table, got {described(value)}.")
        return False

    def _table(
        self, path: tuple[str | int, ...], table: Mapping[str, Any], name: str
    ) -> Iterator[tuple[Setting, Value]]:
        """Yield the valid values of a table of the file, with their settings."""
        known = settings_of(name)
        for key, value in table.items():
            setting = known.get(key)
            if setting is None:
                self._report_unknown(path, key, value, [*known, *(TABLES if name == TOP else ())])
                continue
            try:
                yield setting, Value(self._resolved(setting, setting.kind.from_file(value)), self._origin((*path, key)))
            except InvalidSetting as error:
                self._report(path, key, error.problem)

    def _resolved(self, setting: Setting, value: Any) -> Any:
        """Return a value; a relative path of SQLite is resolved against the folder of the file."""
        return resolve_sqlite(value, self._path.parent) if setting.key in ("database", "broker") else value

    def _report_unknown(self, path: tuple[str | int, ...], key: str, value: object, known: list[str]) -> None:
        hidden = [setting for setting in SETTINGS.values() if setting.key == key and not setting.in_file]
        if hidden and hidden[0].has_flag:
            self._report(path, key, f"not a key of the file. Set {hidden[0].variable} or {hidden[0].flag}.")
        elif hidden:
            self._report(
                path,
                key,
                f"must not be stored in a file. Remove the keys, generate new ones, and set {PREFIX}{key.upper()}.",
            )
        elif key == DEFAULT and not path and isinstance(value, dict):
            self._report(path, key, "not an environment. Write its keys at the top level, which is the default.")
        elif key == "tool" and not path and not self._prefix:
            self._report(path, key, f"{OWN_FILE} has no [tool.dexpy]. Write its keys at the top level.")
        else:
            words = f"unknown key; expected one of {listed(known)}.{did_you_mean(key, known)}"
            self._report(path, key, words)

    def _groups(self, path: tuple[str | int, ...], value: object) -> tuple[Mapping[str, Value], ...]:
        elements = _tables(value)
        if not elements:
            label = ".".join(str(part) for part in (*self._prefix, *path, WORKERS))
            got = "none" if value == [] else described(value)
            self._report(path, WORKERS, f"expected at least one table, got {got}. Write [[{label}]].")
            return ()
        groups: list[Mapping[str, Value]] = []
        names: set[str] = set()
        for index, element in enumerate(elements):
            where = (*path, WORKERS, index)
            group = {setting.key: value for setting, value in self._table(where, element, WORKERS)}
            name = group.get("workers.name", Value(str(index + 1))).value
            if name in names:
                self._report(where, "name", f"{name!r} is the name of another group too. Choose another name.")
            names.add(name)
            groups.append(group)
        return tuple(groups)

    def _queues(self, path: tuple[str | int, ...], table: Mapping[str, Any]) -> dict[str, Mapping[str, Value]]:
        queues: dict[str, Mapping[str, Value]] = {}
        for name, entry in table.items():
            try:
                check_queue_name(name)
            except InvalidSetting as error:
                self._report(path, name, error.problem)
                continue
            if not self._is_table(path, name, entry):
                continue
            where = (*path, name)
            queues[name] = {setting.key: value for setting, value in self._table(where, entry, QUEUES)}
            for setting in settings_of(QUEUES).values():
                if setting.is_required and setting.name not in entry:
                    self._report(where, "", f"{setting.name!r} is missing. Add it.")
        return queues

    def _recurring(self, path: tuple[str | int, ...], table: Mapping[str, Any]) -> dict[str, RecurringEntry]:
        entries: dict[str, RecurringEntry] = {}
        for key, entry in table.items():
            if not self._is_table(path, key, entry):
                continue
            where = (*path, key)
            values = {setting.key: value for setting, value in self._table(where, entry, RECURRING)}
            missing = [s.name for s in settings_of(RECURRING).values() if s.is_required and s.name not in entry]
            for name in missing:
                self._report(where, "", f"{name!r} is missing. Add it.")
            if missing or len(values) < len(entry):
                continue
            try:
                entries[key] = RecurringEntry.of(key, values, self._origin(where))
            except DeclarationError as error:
                self._report(where, "", str(error))
        return entries


def _tables(value: object) -> list[dict[str, Any]]:
    """Return the elements of an array of tables; none if the value is not one."""
    elements = cast("list[object]", value) if isinstance(value, list) else []
    tables = [cast("dict[str, Any]", element) for element in elements if isinstance(element, dict)]
    return tables if len(tables) == len(elements) else []


def resolve_sqlite(url: str, folder: Path) -> str:
    """Return a URL; the relative path of a SQLite file is resolved against a folder."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path or path.startswith((":", "/")) or Path(path).is_absolute():
        return url
    return f"sqlite:///{folder / path}"
