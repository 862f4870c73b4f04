"""Settings: from ``configure(...)``, else the environment, else ``[tool.dexpy]`` in pyproject.toml."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dexpy.foundation.errors import ConfigurationError, did_you_mean, listed
from dexpy.foundation.urls import displayed_url

DEFAULT_FILE = "dexpy.db"
NAMES = ("database", "broker", "recover_within", "accept_unbound_ciphertext")
"""Settings that the environment or pyproject.toml may set."""
FLAGS = ("accept_unbound_ciphertext",)
"""Boolean settings."""
SECRETS = ("encryption_keys",)
"""Settings from the environment only, because pyproject.toml is not secret."""
CONFIGURED = "dexpy.configure()"
"""The `Settings.database_source` of a database that the application configures."""


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


@attrs.frozen
class Settings:
    """The configured database, broker and limits; None means "not set".

    Attributes:
        database: A SQLAlchemy URL.
        broker: The URL of a broker; a database URL for a queue in that database.
        recover_within: The time within which lost runs are recovered, in seconds, as text.
        home: The folder of the nearest pyproject.toml upwards, else the working folder.
        encryption_keys: The keys of the default encryptor, joined by commas; the first one encrypts.
        accept_unbound_ciphertext: Whether ciphertext of earlier releases is decrypted.
        database_source: The source of `database`: a variable, a file or ``dexpy.configure()``; None for the default.
    """

    database: str | None = attrs.field(default=None, repr=_displayed)
    broker: str | None = attrs.field(default=None, repr=_displayed)
    recover_within: str | None = None
    home: Path = attrs.field(factory=Path.cwd)
    encryption_keys: str | None = attrs.field(default=None, repr=False)
    accept_unbound_ciphertext: bool = False
    database_source: str | None = None

    @classmethod
    def find(cls, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
        """Return the settings of the environment and the nearest pyproject.toml.

        Raises:
            ConfigurationError: The file is unreadable, or has an unknown setting.
        """
        environment = os.environ if environment is None else environment
        folder = folder or Path.cwd()
        files = (parent / "pyproject.toml" for parent in (folder, *folder.parents))
        file = next((file for file in files if file.is_file()), None)
        home = file.parent if file is not None else folder
        values: dict[str, Any] = _from_file(file) if file is not None else {}
        for name in NAMES:
            if value := environment.get(f"DEXPY_{name.upper()}"):
                values[name] = _flag(value, f"DEXPY_{name.upper()}") if name in FLAGS else value
            elif name in values and name not in FLAGS:
                values[name] = _resolve_relative(values[name], home)
        keys = environment.get("DEXPY_ENCRYPTION_KEYS") or None
        source = "DEXPY_DATABASE" if environment.get("DEXPY_DATABASE") else f"{file}" if "database" in values else None
        return cls(**values, home=home, encryption_keys=keys, database_source=source)

    def db_command(self, action: str) -> str:
        """Return the command of ``dexpy db`` for this database, with the modules to import.

        Args:
            action: init or upgrade.
        """
        if modules := command_modules.get():
            return f"dexpy db {action} {' '.join(modules)}"
        if self.database_source == CONFIGURED:
            return f"dexpy db {action} --app MODULE, where MODULE is the one that calls dexpy.configure()"
        return f"dexpy db {action}"

    @property
    def default_database(self) -> str:
        """The URL of the default SQLite file."""
        return f"sqlite:///{self.home / DEFAULT_FILE}"


def _resolve_relative(url: str, home: Path) -> str:
    """Return a SQLite URL with a path relative to the folder of the file."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path or path.startswith((":", "/")) or Path(path).is_absolute():
        return url
    return f"sqlite:///{home / path}"


def _flag(text: str, where: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ConfigurationError(f"{where}: expected 1 or 0, got another text. Set it to 1 to turn it on.")


def _from_file(file: Path) -> dict[str, Any]:
    try:
        # utf-8-sig, because some editors write a byte order mark.
        table: dict[str, Any] = tomllib.loads(file.read_text("utf-8-sig")).get("tool", {}).get("dexpy", {})
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: invalid settings: {error}. Fix the file.") from None
    for name, value in table.items():
        if name in SECRETS:
            raise ConfigurationError(
                f"{file}: [tool.dexpy] {name} must not be stored in a file. "
                f"Remove the keys, generate new ones, and set DEXPY_{name.upper()}."
            )
        if name not in NAMES:
            raise ConfigurationError(
                f"{file}: [tool.dexpy] unknown setting {name!r}; expected one of "
                f"{listed(set(NAMES) - set(FLAGS))}.{did_you_mean(name, NAMES)}"
            )
        if name in FLAGS:
            if not isinstance(value, bool):
                raise ConfigurationError(f"{file}: [tool.dexpy] {name}: expected true or false.")
            continue
        if name == "recover_within" and type(value) in (int, float):
            table[name] = str(value)
        elif not isinstance(value, str):
            # A list or a table may hold a URL with a password.
            got = repr(value) if type(value) in (int, float, bool) else type(value).__name__
            raise ConfigurationError(f"{file}: [tool.dexpy] {name}: expected a URL as text, got {got}.")
    return table
