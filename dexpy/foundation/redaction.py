"""Redaction of all texts about a failure, before they are stored or logged.

Rows, log lines, tickets and pages use its results.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time
from enum import Enum
from pathlib import Path
from typing import Any, cast

import attrs

from dexpy.foundation.errors import SENSITIVE
from dexpy.foundation.exception_groups import is_group, leaves_of
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.safe_text import class_name, class_path, storable, text_of
from dexpy.foundation.secrets import SHORT, bytes_forms_of, forms_of, replace_secrets

__all__ = ["MAX_LENGTH", "Redactor", "class_path", "frames_of", "message_of"]

HOME = str(Path(__file__).parents[1])
MAX_LENGTH = 2000
"""The maximum length of a stored message, in characters."""
MAX_FRAMES_LENGTH = 16_000
"""The maximum length of a stored traceback: four bytes a character, within the limit of MariaDB."""


@attrs.frozen
class Redactor:
    """Replaces secrets in texts; each run has its own redactor.

    Attributes:
        secrets: Texts that are replaced.
        custom: A function of the application, applied last.
    """

    secrets: tuple[str, ...] = ()
    custom: Callable[[str], str] | None = None
    _learned: set[str] = attrs.field(factory=set[str], init=False, eq=False, repr=False)
    # By the number of secrets: built at the first failure, because most runs have none.
    _forms: dict[int, tuple[str, ...]] = attrs.field(
        factory=dict[int, tuple[str, ...]], init=False, eq=False, repr=False
    )

    def __call__(self, text: object) -> str:
        """Return the text with secrets replaced, cut to `MAX_LENGTH`, in characters that all databases accept."""
        try:
            return self._redacted(text_of(text))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - no memory, for example; the run must end in spite of it
            log_event(LogEvent.REDACTOR_FAILED, error=class_path(error))
            return SENSITIVE

    def _redacted(self, text: str) -> str:
        text = replace_secrets(text, self._all_forms())
        if self.custom is not None:
            text = self._customized(self.custom, text)
        return storable(text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…")

    def _all_forms(self) -> tuple[str, ...]:
        secrets = {*self.secrets, *tuple(self._learned)}
        if len(secrets) not in self._forms:
            forms = {form for secret in secrets for form in forms_of(secret)}
            self._forms[len(secrets)] = tuple(sorted(forms, key=len, reverse=True))
        return self._forms[len(secrets)]

    def _customized(self, custom: Callable[[str], str], text: str) -> str:
        try:
            return str.__str__(custom(text))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - the application's own; the failure must be reported
            # No text at all, rather than one with secrets.
            log_event(LogEvent.REDACTOR_FAILED, error=class_path(error))
            return SENSITIVE

    def knowing(self, values: Iterable[Any]) -> Redactor:
        """Return a redactor with these sensitive values added, in all their written forms."""
        secrets = {form for value in values for form in _written(value)} | set(self.secrets)
        return Redactor(tuple(sorted(secrets, key=len, reverse=True)), self.custom)

    def learn(self, failed: Redactor) -> None:
        """Add the secrets of a nested run that failed, because this redactor may redact its error too."""
        self._learned.update(failed.secrets, tuple(failed._learned))

    def of(self, error: BaseException) -> str:
        """Return the redacted message of an exception."""
        return self(message_of(error, self))

    def names(self, text: str) -> str:
        """Return the name of a file or function without secrets, at full length, without the custom function."""
        try:
            return replace_secrets(text, self._all_forms()) if self.secrets or self._learned else text
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - no memory, for example; the run must end in spite of it
            log_event(LogEvent.REDACTOR_FAILED, error=class_path(error))
            return SENSITIVE


def _written(value: Any) -> Iterator[str]:
    """Yield all forms of a value; an error in one part does not affect the other parts."""
    try:
        yield from _forms(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - an application's class may raise anything in any method
        log_event(LogEvent.REDACTOR_VALUE_SKIPPED, error=class_path(error))


def _forms(value: Any) -> Iterator[str]:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield from _written(key)
            yield from _written(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in cast("Iterable[object]", value):
            yield from _written(item)
    elif isinstance(value, Enum):
        yield str(value)
        yield from _written(value.value)
    elif isinstance(value, str):
        if text := text_of(value):
            yield text
    elif attrs.has(kind := cast("type[object]", type(value))):
        yield from _written([getattr(value, field.name) for field in attrs.fields(kind)])
    elif dataclasses.is_dataclass(value):
        yield from _written([getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, bytes):
        yield from {repr(value), repr(value)[2:-1], *(bytes_forms_of(value) if len(value) >= SHORT else ())}
        yield from _written(value.decode(errors="ignore"))
    else:
        yield from {str(value), repr(value)}
        if isinstance(value, (date, time)):
            yield value.isoformat()


def message_of(error: BaseException, redact: Callable[[str], str] = text_of) -> str:
    """Return the message of an exception, without the statement and parameters of a database error.

    Args:
        error: The exception.
        redact: A function applied to the message of each member of a group before it is cut, so that no part of a
            secret remains.
    """
    try:
        return text_of(_message_of(error, redact))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - an application's exception; the failure itself must still be reported
        return f"<{class_name(error)} cannot be printed>"


def _message_of(error: BaseException, redact: Callable[[str], str]) -> object:
    driver = getattr(error, "orig", None)
    if driver is not None and hasattr(error, "statement"):
        # Only the primary message, because DETAIL lines quote the row.
        primary = getattr(getattr(driver, "diag", None), "message_primary", None)
        return primary or next(iter(str(driver).splitlines()), "")
    return f"{text_of(error)}{_members(error, redact)}"


MAX_MEMBERS = 10
"""The number of exceptions of a group in its message."""


def _members(error: BaseException, redact: Callable[[str], str]) -> str:
    """Return the members of a group of exceptions: ": ConnectionError: away; ValueError: no"."""
    if not is_group(error):
        return ""
    messages: list[str] = []
    count = 0
    for leaf in leaves_of(error):
        count += 1
        if count <= MAX_MEMBERS:
            messages.append(redact(f"{class_path(leaf)}: {message_of(leaf)}")[:300])
    suffix = f"; and {count - MAX_MEMBERS} more" if count > MAX_MEMBERS else ""
    return f": {'; '.join(messages)}{suffix}"


def frames_of(error: BaseException, redactor: Redactor | None = None) -> str:
    """Return the traceback of an exception as file, line and function: no source text, no local values.

    Frames of dexpy are omitted if there are others; very long tracebacks are cut in the middle.

    Args:
        error: The exception.
        redactor: Replaces secrets in the names of files and functions, which generated code may contain.
    """
    names = str if redactor is None else redactor.names
    raised = BaseException.__dict__["__traceback__"].__get__(error)
    frames = [(frame.f_code, number) for frame, number in traceback.walk_tb(raised)]
    shown = [(code, number) for code, number in frames if not code.co_filename.startswith(HOME)]
    text = "\n".join(f"{names(code.co_filename)}:{number} {names(code.co_name)}" for code, number in shown or frames)
    half = MAX_FRAMES_LENGTH // 2 - 3
    return storable(text if len(text) <= MAX_FRAMES_LENGTH else f"{text[:half]}\n…\n{text[-half:]}")
