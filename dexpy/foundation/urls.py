"""URLs of databases and brokers as they may be shown: only the parts that hold no secret, and only where they are sure.

An allow-list: a password may be in any other part, wherever a slip has put it.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

from dexpy.foundation.secrets import forms_of, replace_secrets

HIDDEN = "<hidden>"
"""Replaces the hidden parts of a URL."""

_SCHEME = re.compile(r"([a-z][a-z0-9]*(?:\+[a-z0-9_]+)?)://(.*)", re.DOTALL)
_ADDRESS = r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
_ADDRESSES = re.compile(rf"{_ADDRESS}(?:,{_ADDRESS})*")
_PATH = re.compile(r"(?:/(?:%2[Ff]|[A-Za-z0-9._~-])*)*")
_WORDS = re.compile(r"[A-Za-z0-9 ._/-]{1,100}")
_FILE_SCHEMES = ("sqlite", "unix")


def displayed_url(url: str) -> str:
    """Return scheme, hosts, ports and path of a URL; `HIDDEN` for all that may be a secret.

    Args:
        url: As it was given, readable or not.

    Example:
        >>> displayed_url("postgresql+psycopg://shop:hunter2@db.internal:5432/shop?token=hunter2")
        'postgresql+psycopg://db.internal:5432/shop'
        >>> displayed_url("redis://:hunt/er2@cache/0"), displayed_url("shop:hunter2@cache/0")
        ('redis://<hidden>', '<hidden>')
    """
    match = _SCHEME.fullmatch(url)
    if match is None:
        # Perhaps the name of a file, which has no user and password.
        return url if _WORDS.fullmatch(url) and "//" not in url else HIDDEN
    scheme, plain = match[1], match[2].partition("?")[0]
    if _is_file(url):
        # What follows the slashes is a file's name, and ends at the first option.
        return f"{scheme}://{plain if plain.isprintable() else HIDDEN}"
    if not is_unambiguous(url):
        return f"{scheme}://{HIDDEN}"
    authority, slash, path = plain.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path if _PATH.fullmatch(slash + path) else HIDDEN}"


def is_unambiguous(url: str) -> bool:
    """Return whether a URL has one reading: no sign in it may belong to a password that should have been escaped."""
    match = _SCHEME.fullmatch(url)
    if match is None or _is_file(url):
        return match is not None
    plain, _, options = match[2].partition("?")
    authority, _, path = plain.partition("/")
    # Without a user, the text after a question mark may be the end of a password.
    is_cut = "@" in path or ("@" in options and "@" not in authority)
    address = authority.rpartition("@")[2]
    return authority.count("@") <= 1 and not is_cut and "#" not in plain and bool(_ADDRESSES.fullmatch(address))


def _is_file(url: str) -> bool:
    scheme, _, rest = url.partition("://")
    authority = rest.partition("?")[0].partition("/")[0]
    return scheme.partition("+")[0] in _FILE_SCHEMES and "@" not in authority and ":" not in authority


_PARTS = re.compile(r"[:/@?&=#,;{}()\[\]'\"\s]+")
_PUBLIC = frozenset({"true", "false", "none", "null", "require", "prefer", "allow", "disable", "utf8", "utf8mb4"})


def without_secrets(text: object, url: str) -> str:
    """Return a client's message about a URL, without the parts of it that `displayed_url` hides.

    The user's name stays where it is clearly no password: servers name it when they refuse it.

    Args:
        text: The message.
        url: As it was given.
    """
    displayed = displayed_url(url)
    rest = url.partition("://")[2] or url
    public_parts = {*_PARTS.split(displayed), *_PUBLIC}
    if HIDDEN not in displayed:
        user, _, password = rest.partition("/")[0].rpartition("@")[0].partition(":")
        public_parts.add(user)
        rest = f"{password}?{rest.partition('?')[2]}"
    parts = {part for part in _PARTS.split(rest) if part} | {rest} | set(rest.partition("?")[2].split("&"))
    parts |= {unquote(part) for part in parts} | {unquote_plus(part) for part in parts}
    names = {part.partition("=")[0] for part in rest.partition("?")[2].split("&") if "=" in part}
    public = public_parts | {name for name in names if re.fullmatch("[a-z_]{2,40}", name)}
    secrets = {form for part in parts - public if part.strip() for form in forms_of(part)}
    return replace_secrets(str(text), sorted(secrets, key=len, reverse=True))
