"""`RecordColumn`: a column of the application in the table of records."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import attrs

from dexpy.foundation.errors import ConfigurationError, listed
from dexpy.foundation.safe_text import shortened

Scalar: TypeAlias = str | int | bool | date | datetime | UUID
TYPES: Final = (str, int, bool, date, datetime, UUID)
"""The types of columns."""
MAX_LENGTH: Final = 1024
"""The maximum length of text."""
MAX_INDEXED_LENGTH: Final = 768
"""The maximum length of text that every database can index: InnoDB indexes 3072 bytes, at 4 bytes a character."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")


@attrs.frozen
class RecordColumn:
    """A column of the application in the table of records, filled when a run is enqueued or called.

    The value is that of a prop, or else of a context value, or else null. It does not change later.

    Args:
        name: The name of the column, and of its filter in `records.where`.
        type: The type of its values: str, int, bool, date, datetime or UUID.
        length: The maximum length of text, in characters: up to 1024, or up to 768 with an index.
        index: Whether to create an index on it.
        prop: The name of the prop that fills it; by default the name of the column. Classes without this prop use the
            context.
        context: The name of the context value that fills it where the class has no such prop; by default the name of
            the column.
        sensitive: Whether a sensitive or encrypted prop may fill it, unencrypted.

    Raises:
        ConfigurationError: An argument is invalid.

    Example:
        >>> import dexpy
        >>> runtime = dexpy.configure(
        ...     database="sqlite:///app.db",
        ...     record_columns=[
        ...         dexpy.RecordColumn("tenant", str, length=64, index=True),
        ...         dexpy.RecordColumn("order_id", int, prop="order"),
        ...     ],
        ... )
    """

    name: str
    type: type[Scalar] = str
    length: int = attrs.field(default=255, kw_only=True)
    index: bool = attrs.field(default=False, kw_only=True)
    prop: str = attrs.field(default="", kw_only=True)
    context: str = attrs.field(default="", kw_only=True)
    sensitive: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"RecordColumn: invalid name {shortened(self.name)}; use at most 41 lowercase letters, digits and '_', "
                "with a letter first."
            )
        if self.type not in TYPES:
            raise ConfigurationError(
                f"RecordColumn({self.name!r}): unsupported type {shortened(self.type)}; expected one of "
                f"{listed(kind.__name__ for kind in TYPES)}."
            )
        is_indexed = self.index and self.type is str
        longest = MAX_INDEXED_LENGTH if is_indexed else MAX_LENGTH
        if type(self.length) is not int or not 1 <= self.length <= longest:
            raise ConfigurationError(
                f"RecordColumn({self.name!r}, length=...): expected an int from 1 to {longest}"
                f"{' with an index' if is_indexed else ''}, got {shortened(self.length)}."
            )
        sources: dict[str, Any] = {"prop": self.prop, "context": self.context}
        for source, value in sources.items():
            if not isinstance(value, str):
                raise ConfigurationError(
                    f"RecordColumn({self.name!r}, {source}=...): expected a name, got {shortened(value)}."
                )

    @property
    def expected(self) -> str:
        """A noun phrase for valid values."""
        if self.type is str:
            return f"a str of at most {self.length} characters"
        if self.type is int:
            return "an int of at most 64 bits"
        return "an aware datetime" if self.type is datetime else f"a {self.type.__name__}"
