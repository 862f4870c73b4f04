"""`Settings`: the settings of a runtime, from ``configure(...)``, flags, variables and the configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dexpy.configuration.kinds import InvalidSetting
from dexpy.configuration.loading import Configuration
from dexpy.configuration.table import SETTINGS, TOP
from dexpy.foundation.errors import ConfigurationError
from dexpy.foundation.urls import displayed_url

DEFAULT_FILE = "dexpy.db"
CONFIGURED = "dexpy.configure()"
"""The origin of a setting that the application configures."""
_OF_COMMANDS = ("config", "env", "app")
NAMES = tuple(key for key, setting in SETTINGS.items() if setting.table == TOP and key not in _OF_COMMANDS)
"""The settings outside of tables."""


@attrs.define
class CommandModules:
    """The modules on the command line of this process."""

    _names: tuple[str, ...] = ()

    def get(self) -> tuple[str, ...]:
        """Return their names."""
        return self._names

    def set(self, names: tuple[str, ...]) -> None:
        """Set their names, for the advice in messages."""
        self._names = names


command_modules = CommandModules()


def _displayed(url: str | None) -> str:
    return repr(None if url is None else displayed_url(url))


def checked(key: str, value: str | None) -> Any:
    """Return an argument of ``configure(...)`` as a setting; None if it was left out.

    Args:
        key: The key of the setting.
        value: The argument.

    Raises:
        ConfigurationError: The argument is invalid.
    """
    if value is None:
        return None
    try:
        return SETTINGS[key].kind.from_file(value)
    except InvalidSetting as error:
        raise ConfigurationError(f"configure({key}=...): {error.problem}") from None


@attrs.frozen
class Settings:
    """The configured database, broker and limits; None means "not set".

    Attributes:
        database: A SQLAlchemy URL.
        broker: The URL of a broker; a database URL for a queue in that database.
        table_prefix: The prefix of the names of dexpy's tables.
        schema: The schema of dexpy's tables, or their database on MariaDB; None for the one that connections are in.
        recover_within: The time within which lost runs are recovered, in seconds.
        zone: The time zone of schedules without one.
        skip_recurring: Whether this process enqueues no ticks of recurring tasks.
        home: The folder of the project, for the default SQLite file.
        encryption_keys: The keys of the default encryptor, joined by commas; the first one encrypts.
        accept_unbound_ciphertext: Whether ciphertext of earlier releases is decrypted.
        log_format: The format of log lines of workers and relays.
        dump_signal: The name of the signal at which workers log their threads, or "off".
        origins: The origin of each setting that has another one than in `configuration`.
        configuration: The configuration of the process, with worker groups, relay and recurring tasks.
    """

    database: str | None = attrs.field(default=None, repr=_displayed)
    broker: str | None = attrs.field(default=None, repr=_displayed)
    table_prefix: str | None = None
    schema: str | None = None
    recover_within: float | None = None
    zone: str | None = None
    skip_recurring: bool = False
    home: Path = attrs.field(factory=Path.cwd)
    encryption_keys: str | None = attrs.field(default=None, repr=False)
    accept_unbound_ciphertext: bool = False
    log_format: str | None = None
    dump_signal: str = "USR1"
    origins: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    configuration: Configuration = attrs.field(factory=Configuration, repr=False)

    @classmethod
    def find(cls, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
        """Return the settings of flags, variables and the configuration file.

        Raises:
            ConfigurationError: The file, a variable or a flag is invalid.
        """
        configuration = Configuration.load(environment, folder)
        values = {name: configuration.get(name) for name in NAMES}
        origins = {name: value.origin for name, value in configuration.values.items()}
        return cls(**values, home=configuration.home, origins=origins, configuration=configuration)

    def with_argument(self, name: str, value: object) -> Settings:
        """Return these settings with an argument of ``configure(...)``; a flag of the command line wins.

        Args:
            name: The name of a setting.
            value: Its value; None if the argument was left out.
        """
        if value is None or self.configuration.is_flag(name):
            return self
        return self.replaced(**{name: value})

    def replaced(self, **values: Any) -> Settings:
        """Return these settings with values that code configures."""
        return attrs.evolve(self, **values, origins={**self.origins, **dict.fromkeys(values, CONFIGURED)})

    @property
    def database_source(self) -> str | None:
        """The origin of `database`: a flag, a variable, a line of a file, or ``dexpy.configure()``; None by default."""
        return self.origins.get("database")

    def db_command(self, action: str) -> str:
        """Return the command of ``dexpy db`` for this database, with the modules to import.

        Args:
            action: init or upgrade.
        """
        # Only these flags: a URL may hold a password.
        passed = [key for key in ("config", "env", "table_prefix", "schema") if self.configuration.is_flag(key)]
        flags = [f"{SETTINGS[key].flag} {self.configuration.get(key)}" for key in passed]
        # Only --app accepts an application in a module.
        names = [f"--app {name}" if ":" in name else name for name in command_modules.get()]
        command = " ".join(["dexpy db", action, *names, *flags])
        if self.database_source == CONFIGURED and not command_modules.get():
            return f"{command} --app MODULE, where MODULE is the one that calls dexpy.configure()"
        return command

    @property
    def default_database(self) -> str:
        """The URL of the default SQLite file."""
        return f"sqlite:///{self.home / DEFAULT_FILE}"
