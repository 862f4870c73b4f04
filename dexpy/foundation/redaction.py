"""The one function that every text about a failure goes through before anybody can read it.

Rows, log lines, tickets and pages take their texts from here.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import attrs

from dexpy.foundation.errors import SENSITIVE
from dexpy.foundation.log import line

HOME = str(Path(__file__).parents[1])
MAX_LENGTH = 2000
"""Characters of a message that are kept."""
MOST_FRAMES = 16_000
"""Characters of a traceback that are kept: four bytes each, and MariaDB takes all that may be in a text."""


@attrs.frozen
class Redactor:
    """Takes secrets out of texts; each run has one of its own.

    Attributes:
        secrets: Texts that must not appear.
        custom: A function of the application's own, applied last.
    """

    secrets: tuple[str, ...] = ()
    custom: Callable[[str], str] | None = None
    _learned: set[str] = attrs.field(factory=set[str], init=False, eq=False, repr=False)

    def __call__(self, text: str) -> str:
        """The text with each secret replaced, cut to a bearable length, in signs that every database takes."""
        secrets = self.secrets
        if self._learned:
            secrets = tuple(sorted({*secrets, *tuple(self._learned)}, key=len, reverse=True))
        for secret in secrets:
            text = text.replace(secret, SENSITIVE)
        if self.custom is not None:
            text = self._customized(self.custom, text)
        text = text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"
        return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()

    def _customized(self, custom: Callable[[str], str], text: str) -> str:
        try:
            return custom(text)
        except Exception as error:  # noqa: BLE001 - the application's own; a failure must be told in spite of it
            # Rather nothing than what it would have taken out.
            line(logging.ERROR, "redactor.failed", error=class_path(error))
            return SENSITIVE

    def knowing(self, values: Iterable[Any]) -> Redactor:
        """A redactor that knows these sensitive values too, in every form they are written in."""
        found = {form for value in values for form in _written(value)} | set(self.secrets)
        return Redactor(tuple(sorted(found, key=len, reverse=True)), self.custom)

    def learn(self, failed: Redactor) -> None:
        """Take over the secrets of a run inside this one that failed, for its error may be told by this one too."""
        self._learned.update(failed.secrets, tuple(failed._learned))

    def of(self, error: BaseException) -> str:
        """The redacted message of an exception."""
        return self(message_of(error))


def _written(value: Any) -> Iterator[str]:
    if value is None or isinstance(value, bool) or value in ("", b""):
        return
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield from _written(key)
            yield from _written(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in cast("Iterable[object]", value):
            yield from _written(item)
    elif isinstance(value, str):
        yield from {value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(value), quote(value, safe="")}
    elif attrs.has(kind := cast("type[object]", type(value))):
        yield from _written([getattr(value, field.name) for field in attrs.fields(kind)])
    elif dataclasses.is_dataclass(value):
        yield from _written([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, bytes):
        yield from {repr(value), repr(value)[2:-1], base64.b64encode(value).decode("ascii")}
        yield from _written(value.decode(errors="ignore"))
    else:
        yield from {str(value), repr(value)}


def message_of(error: BaseException) -> str:
    """What an exception says, without the statement and parameters that a database error drags along."""
    driver = getattr(error, "orig", None)
    if driver is not None and hasattr(error, "statement"):
        # The primary message only: DETAIL lines quote the row.
        primary = getattr(getattr(driver, "diag", None), "message_primary", None)
        return primary or next(iter(str(driver).splitlines()), "")
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - somebody's __str__; the failure itself must still be told
        return f"<{type(error).__name__} cannot be printed>"


def class_path(error: BaseException | type[BaseException]) -> str:
    """The class of an exception, ``ConnectionError`` or ``shop.errors.CardError``."""
    kind = error if isinstance(error, type) else type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def frames_of(error: BaseException) -> str:
    """The traceback of an exception as file, line and function: no source text, no local values.

    Frames of dexpy itself are left out where there are others, and of very many those in the middle.
    """
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames if not frame.filename.startswith(HOME)]
    text = "\n".join(lines or [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames])
    text = text.encode("utf-8", "backslashreplace").decode()
    half = MOST_FRAMES // 2 - 3
    return text if len(text) <= MOST_FRAMES else f"{text[:half]}\n…\n{text[-half:]}"


def jsonable(value: Any, redactor: Callable[[str], str]) -> Any:
    """A value as JSON, for people: texts redacted, and the type's name where something has no JSON form."""
    if value is None or type(value) is bool:
        return value
    if type(value) in (int, float):
        if redactor(str(value)) == SENSITIVE:
            return SENSITIVE
        return value if value - value == 0 else str(value)
    if isinstance(value, str):
        return redactor(value)
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value)
        return {redactor(str(key)): jsonable(item, redactor) for key, item in entries.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item, redactor) for item in cast("Iterable[object]", value)]
    return f"<{type(value).__name__}>"
