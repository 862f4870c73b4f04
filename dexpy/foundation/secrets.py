"""Secrets in texts: the forms in which a secret is usually written, and its replacement by a marker.

A short secret is replaced only as a separate word, so that the rest of the text stays readable.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

from dexpy.foundation.errors import SENSITIVE

SHORT = 4
"""Shorter secrets are replaced only if no letter adjoins their letters, and no digit their digits."""

_MARK = "\0\ufdd0\0"
"""A temporary replacement until all secrets are replaced: a short secret may be part of `SENSITIVE`."""
_FRAGMENT = "\ufdd1"
"""The prefix of a form that is a fragment of base64; the surrounding base64 text is replaced as a whole."""
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")


def forms_of(secret: str) -> Iterator[str]:
    """Yield the written forms of a text: escaped for Python, JSON, URLs and HTML, and in hex."""
    # Imported here: its tables of entities would slow down `import dexpy`.
    from html import escape

    yield from {
        secret,
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        escape(secret),
        escape(secret, quote=False),
    }
    raw = secret.encode("utf-8", "backslashreplace")
    yield repr(raw)[2:-1]
    for quoted in {quote(raw), quote(raw, safe=""), quote_plus(raw)}:
        yield quoted
        yield re.sub("%..", lambda match: match[0].lower(), quoted)
    if len(secret) >= SHORT:
        yield from bytes_forms_of(raw)


def bytes_forms_of(secret: bytes) -> Iterator[str]:
    """Yield the written forms of bytes: hex, and base64 alone or within longer data."""
    yield from {secret.hex(), secret.hex().upper(), base64.b64encode(secret).decode("ascii")}
    for offset in range(3):
        # Without the characters that depend on the surrounding bytes.
        text = base64.b64encode(b"\0" * offset + secret).decode("ascii").rstrip("=")
        stable = text[(0, 2, 3)[offset] : (offset + len(secret)) * 8 // 6]
        if len(stable) >= SHORT:
            yield from {_FRAGMENT + stable, _FRAGMENT + stable.replace("+", "-").replace("/", "_")}


def replace_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return the text with each secret replaced by `SENSITIVE`.

    Args:
        text: The text.
        secrets: The secrets in all their forms, the longest first.
    """
    short: list[str] = []
    for secret in secrets:
        if secret.startswith(_FRAGMENT):
            text = _without_base64(text, secret.removeprefix(_FRAGMENT))
        elif len(secret) < SHORT:
            short.append(secret)
        else:
            text = text.replace(secret, _MARK)
    patterns = [pattern for pattern in map(_standalone_pattern, short) if pattern]
    if patterns:
        text = re.sub("|".join(patterns), _MARK, text)
    return text.replace(_MARK, SENSITIVE)


def _standalone_pattern(secret: str) -> str | None:
    """Return a pattern for a short secret as a separate word; None if there is none."""
    escaped = re.escape(secret)
    if not any(sign.isalnum() for sign in secret):
        # A punctuation mark is matched only inside quotes.
        return rf"(?<=['\"]){escaped}(?=['\"])" if secret.strip() else None
    before_class, after_class = (_character_class(sign) for sign in (secret[0], secret[-1]))
    return (f"(?<!{before_class})" if before_class else "") + escaped + (f"(?!{after_class})" if after_class else "")


def _character_class(sign: str) -> str:
    if sign.isascii() and sign.isalpha():
        return "[A-Za-z]"
    return "[0-9]" if sign.isascii() and sign.isdigit() else ""


def _without_base64(text: str, fragment: str) -> str:
    """Return the text with each base64 text replaced that contains a replaced part."""
    pieces: list[str] = []
    done = 0
    while (position := text.find(fragment, done)) >= 0:
        start, end = position, position + len(fragment)
        while start > done and text[start - 1] in _BASE64 and text[start - 1] != "=":
            start -= 1
        while end < len(text) and text[end] in _BASE64:
            end += 1
        pieces += [text[done:start], _MARK]
        done = end
    return "".join([*pieces, text[done:]]) if pieces else text
