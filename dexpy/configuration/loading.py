"""Loads the configuration of a process: flags over variables over the file over defaults."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from dexpy.configuration.file import SIMILARITY, ConfigurationFile, Layer, find_file, project_folder, read_file
from dexpy.configuration.kinds import InvalidSetting
from dexpy.configuration.table import PREFIX, SETTINGS, WORKERS, Setting, default_of
from dexpy.configuration.values import DEFAULT, GROUP_KEYS, RecurringEntry, Value, WorkerGroup
from dexpy.foundation.errors import ConfigurationError, did_you_mean, listed
from dexpy.policies.queue_limit import QueueLimit

LIMIT_KEYS = ("queues.max_pending", "queues.on_full", "queues.block_timeout")
"""The settings of a limited queue, in the order of the arguments of `QueueLimit`."""
OF_ONE_GROUP = ("workers.queues", "workers.threads", "workers.processes")
"""The settings that variables and flags set for one group only."""


@attrs.define
class CommandFlags:
    """The flags on the command line of this process, by key of the table of settings."""

    _values: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)

    def get(self) -> Mapping[str, Any]:
        """Return their values."""
        return self._values

    def set(self, values: Mapping[str, Any]) -> None:
        """Set their values."""
        self._values = values


command_flags = CommandFlags()


@attrs.frozen
class Configuration:
    """The configuration of a process, without what `dexpy.configure` sets.

    Attributes:
        file: The file; None without one.
        environment: The name of the environment.
        home: The folder of the project: that of the nearest pyproject.toml or dexpy.toml, else the working folder.
        values: The value of each setting outside of tables that exist several times, by key.
        recurring: The recurring tasks.
        file_groups: The values of each worker group of the file; None without groups.
        group_values: The values that variables and flags set for worker groups, by key.
        queues: The values of each limited queue, by its name.
    """

    file: Path | None = None
    environment: str = DEFAULT
    home: Path = attrs.field(factory=Path.cwd)
    values: Mapping[str, Value] = attrs.field(factory=dict[str, Value], repr=False)
    recurring: tuple[RecurringEntry, ...] = ()
    file_groups: tuple[Mapping[str, Value], ...] | None = None
    group_values: Mapping[str, Value] = attrs.field(factory=dict[str, Value])
    queues: Mapping[str, Mapping[str, Value]] = attrs.field(factory=dict[str, Mapping[str, Value]], repr=False)

    def get(self, key: str) -> Any:
        """Return the value of a setting, or its default.

        Args:
            key: Its key in the table of settings.
        """
        return self.values[key].value if key in self.values else default_of(key)

    def origin(self, key: str) -> str:
        """Return the origin of a setting.

        Args:
            key: Its key in the table of settings.
        """
        return self.values[key].origin if key in self.values else DEFAULT

    @property
    def queue_limits(self) -> dict[str, QueueLimit]:
        """The limits of the queues of the file, by name."""
        return {
            name: QueueLimit(*(values[key].value if key in values else default_of(key) for key in LIMIT_KEYS))
            for name, values in self.queues.items()
        }

    def is_flag(self, key: str) -> bool:
        """Return whether a flag of the command line sets this setting."""
        return self.origin(key) == SETTINGS[key].flag

    @classmethod
    def load(
        cls,
        variables: Mapping[str, str] | None = None,
        folder: Path | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Configuration:
        """Load the configuration.

        Args:
            variables: The environment variables; those of the process by default.
            folder: Where the search for a file starts; the working folder by default.
            flags: The values of flags, by key of the table of settings; those of the command line by default.

        Raises:
            ConfigurationError: The file, a variable or a flag is invalid.
        """
        variables = os.environ if variables is None else variables
        passed = _variables(variables) | _flags(command_flags.get() if flags is None else flags)
        file, home = _find(passed.get("config"), folder or Path.cwd())
        environment = passed.get("env", Value(DEFAULT))
        layers = [] if file is None else [file.top, *_environment_layer(file, environment)]
        values: dict[str, Value] = {}
        recurring: dict[str, RecurringEntry] = {}
        queues: dict[str, Mapping[str, Value]] = {}
        groups = None
        for layer in layers:
            values |= layer.values
            recurring |= layer.recurring
            queues |= layer.queues
            groups = groups if layer.groups is None else layer.groups
        values |= {key: value for key, value in passed.items() if key not in GROUP_KEYS}
        return cls(
            None if file is None else file.path,
            environment.value,
            home,
            values,
            tuple(recurring.values()),
            groups,
            {key: value for key, value in passed.items() if key in GROUP_KEYS},
            queues,
        )

    def worker_groups(self, only: Collection[str] = ()) -> tuple[WorkerGroup, ...]:
        """Return the worker groups with the values of variables and flags; one group if the file has none.

        Args:
            only: The names of the groups to return; all by default.

        Raises:
            ConfigurationError: A name is unknown, or a variable or flag for one group meets several.
        """
        named = {
            str(group.get("workers.name", Value(str(index))).value): group
            for index, group in enumerate(self.file_groups or (), start=1)
        }
        for name in only:
            if name not in named:
                raise ConfigurationError(
                    f"--group: unknown worker group {name!r}; expected one of {listed(named)}. Correct the name, or "
                    f"add [[{WORKERS}]] to the file.{did_you_mean(name, named)}"
                )
        selected = {name: group for name, group in (named or {"": {}}).items() if not only or name in only}
        ambiguous = [value.origin for key, value in self.group_values.items() if key in OF_ONE_GROUP]
        if len(selected) > 1 and ambiguous:
            raise ConfigurationError(
                f"{ambiguous[0]}: sets one worker group, but {self.file} has {len(selected)}: {listed(selected)}. "
                "Set it in the file, or choose one of them with --group."
            )
        return tuple(WorkerGroup.of(name, {**group, **self.group_values}) for name, group in selected.items())


def _variables(environment: Mapping[str, str]) -> dict[str, Value]:
    known = {setting.variable: setting for setting in SETTINGS.values() if setting.has_variable}
    values: dict[str, Value] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or not text:
            continue
        setting = known.get(variable)
        if setting is not None:
            values[setting.key] = Value(_parsed(setting, text, variable), variable)
        elif difflib.get_close_matches(variable, known, n=1, cutoff=1 - (1 - SIMILARITY) / 2):
            raise ConfigurationError(
                f"{variable}: unknown variable. Rename or remove it.{did_you_mean(variable, known)}"
            )
    return values


def _flags(values: Mapping[str, Any]) -> dict[str, Value]:
    return {key: Value(value, SETTINGS[key].flag) for key, value in values.items()}


def _parsed(setting: Setting, text: str, where: str) -> Any:
    try:
        return setting.kind.from_text(text)
    except InvalidSetting as error:
        raise ConfigurationError(f"{where}: {error.problem}") from None


def _find(named: Value | None, folder: Path) -> tuple[ConfigurationFile | None, Path]:
    """Return the file, and the folder of the project."""
    home = project_folder(folder)
    path = find_file(home) if named is None else Path(folder, named.value)
    if named is not None and path is not None and not path.is_file():
        raise ConfigurationError(f"{named.origin}: no such file: {path}. Create it, or correct the path.")
    return None if path is None else read_file(path), home


def _environment_layer(file: ConfigurationFile, named: Value) -> list[Layer]:
    if named.value in file.environments:
        return [file.environments[named.value]]
    if named.value != DEFAULT and file.environments:
        names = [DEFAULT, *file.environments]
        raise ConfigurationError(
            f"{named.origin}: unknown environment {named.value!r}; {file.path} has {listed(names)}. Correct the name, "
            f"or add an empty table for it.{did_you_mean(named.value, names)}"
        )
    return []
