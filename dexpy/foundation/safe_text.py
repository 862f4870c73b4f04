"""Text conversions that never raise, with results that all databases store.

The code between the end of a run and its row must not raise: these functions return a marker instead.
"""

from __future__ import annotations

import re
from typing import Any, TypeGuard, cast

CONTROL_CHARACTERS = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
"""Characters that no id or name contains: control characters and lone surrogates."""


def text_of(value: Any) -> str:
    """Return the text of a value as an exact `str`; a marker if its methods raise.

    Example:
        >>> text_of(1.5), text_of(ValueError("no"))
        ('1.5', 'no')
    """
    try:
        # A subclass of str may override any method; this reads its characters directly.
        return str.__str__(value) if issubclass(type(value), str) else str.__str__(str(value))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - an application's __str__ may raise anything
        return f"<{class_name(value)} cannot be printed>"


def storable(text: str, limit: int | None = None) -> str:
    """Return a text without the characters that databases refuse, cut to a maximum length.

    Args:
        text: Any text; NUL and lone surrogates become escapes.
        limit: The maximum length of the result, in characters; None for no limit.

    Example:
        >>> storable("declined " + chr(0xD800)), storable("abc", 2)
        ('declined \\\\ud800', 'ab')
    """
    if limit is not None:
        text = text[:limit]
    if "\0" in text or not text.isascii():
        text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return text if limit is None else text[:limit]


def class_name(value: Any) -> str:
    """Return the name of the class of a value, without calling a metaclass of the application."""
    kind = cast("type[object]", type(value))
    return storable(text_of(_attribute(kind, "__name__")))


def class_path(error: BaseException | type[BaseException]) -> str:
    """Return the class path of an exception: ``ConnectionError``, ``shop.errors.CardError``."""
    kind: type = error if issubclass(type(error), type) else type(error)  # type: ignore[assignment]
    module, name = (text_of(_attribute(kind, attribute)) for attribute in ("__module__", "__qualname__"))
    return storable(name if module == "builtins" else f"{module}.{name}")


def _attribute(kind: type, name: str) -> Any:
    try:
        return type.__dict__[name].__get__(kind)
    except AttributeError:
        return "<unknown>"


def why_not_plain(text: str) -> str | None:
    """Return why a database would refuse a text; None if all accept it."""
    if "\0" in text:
        return "has a NUL character, which databases refuse in text: remove it, or use bytes"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "has a lone surrogate, which is invalid in Unicode text: decode it differently, or use bytes"
    return None


def is_plain_text(value: object) -> TypeGuard[str]:
    """Return whether all databases can store a text and find it."""
    return isinstance(value, str) and why_not_plain(value) is None


_SHOWN = 100


def shortened(value: object) -> str:
    """Return the repr of a value for a message, with a bounded length."""
    try:
        text = repr(value[: _SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    except Exception:  # noqa: BLE001 - an int of very many digits has none, and what a class raises is its own
        return f"<{type(value).__name__}>"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
