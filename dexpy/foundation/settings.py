"""Settings: from ``configure(...)``, else the environment, else ``[tool.dexpy]`` in pyproject.toml."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from dexpy.foundation.errors import ConfigurationError, did_you_mean, listed

DEFAULT_FILE = "dexpy.db"
NAMES = ("database", "broker", "rescue_within")
"""Settings that may come from outside the program."""
SECRETS = ("encryption_keys",)
"""Those that come from the environment alone: files like pyproject.toml are for everybody to read."""


@attrs.frozen
class Settings:
    """Where records and messages go; None is "not named".

    Attributes:
        database: A SQLAlchemy URL.
        broker: A broker's URL; a database URL for a queue in that database.
        rescue_within: How soon what is lost is taken up again, in seconds, as text.
        home: The folder of the nearest pyproject.toml upwards, else the working folder.
        encryption_keys: Of the default encryptor, joined by commas; the first one encrypts.
    """

    database: str | None = None
    broker: str | None = None
    rescue_within: str | None = None
    home: Path = attrs.field(factory=Path.cwd)
    encryption_keys: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def find(cls, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
        """The settings that the environment and the nearest pyproject.toml name.

        Raises:
            ConfigurationError: The file cannot be read, or has a setting that does not exist.
        """
        environment = os.environ if environment is None else environment
        folder = folder or Path.cwd()
        files = (place / "pyproject.toml" for place in (folder, *folder.parents))
        file = next((file for file in files if file.is_file()), None)
        home = file.parent if file is not None else folder
        named: dict[str, str] = _from_file(file) if file is not None else {}
        for name in NAMES:
            if value := environment.get(f"DEXPY_{name.upper()}"):
                named[name] = value
            elif name in named:
                named[name] = _beside(named[name], home)
        keys = environment.get("DEXPY_ENCRYPTION_KEYS") or None
        return cls(named.get("database"), named.get("broker"), named.get("rescue_within"), home, keys)

    @property
    def default_database(self) -> str:
        """The SQLite file that is used when nothing is named."""
        return f"sqlite:///{self.home / DEFAULT_FILE}"


def _beside(url: str, home: Path) -> str:
    """A relative SQLite path in a file counts from the file's folder."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path or path.startswith((":", "/")) or Path(path).is_absolute():
        return url
    return f"sqlite:///{home / path}"


def _from_file(file: Path) -> dict[str, str]:
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text("utf-8")).get("tool", {}).get("dexpy", {})
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The settings in {file} cannot be read: {error}. Mend the file.") from None
    for name, value in table.items():
        if name in SECRETS:
            raise ConfigurationError(
                f"{file}: [tool.dexpy] has {name}, and everybody who reads the file reads them. "
                f"Take them out, make new ones, and set DEXPY_{name.upper()}."
            )
        if name not in NAMES:
            raise ConfigurationError(
                f"{file}: [tool.dexpy] has {name!r}, which is no setting. The settings are {listed(NAMES)}."
                f"{did_you_mean(name, NAMES)}"
            )
        if name == "rescue_within" and type(value) in (int, float):
            table[name] = str(value)
        elif not isinstance(value, str):
            raise ConfigurationError(f"{file}: [tool.dexpy] {name} = {value!r} wants text, a URL.")
    return table
