"""URLs of databases and brokers for display: only parts that certainly contain no secret.

An allow-list, because a typing error may put a password into any other part.
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
    """Return the scheme, hosts, ports and path of a URL, with `HIDDEN` for parts that may be secret.

    Args:
        url: The URL as configured, valid or not.

    Example:
        >>> displayed_url("postgresql+psycopg://shop:hunter2@db.internal:5432/shop?token=hunter2")
        'postgresql+psycopg://db.internal:5432/shop'
        >>> displayed_url("redis://:hunt/er2@cache/0"), displayed_url("shop:hunter2@cache/0")
        ('redis://<hidden>', '<hidden>')
    """
    match = _SCHEME.fullmatch(url)
    if match is None:
        # It may be the name of a file, without a user and password.
        return url if _WORDS.fullmatch(url) and "//" not in url else HIDDEN
    scheme, plain = match[1], match[2].partition("?")[0]
    if _is_file(url):
        # The slashes are followed by the name of a file, which ends at the first option.
        return f"{scheme}://{plain if plain.isprintable() else HIDDEN}"
    if not is_unambiguous(url):
        return f"{scheme}://{HIDDEN}"
    authority, slash, path = plain.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path if _PATH.fullmatch(slash + path) else HIDDEN}"


def is_unambiguous(url: str) -> bool:
    """Return whether a URL is unambiguous: no character may belong to a password that is not escaped."""
    match = _SCHEME.fullmatch(url)
    if match is None or _is_file(url):
        return match is not None
    plain, _, options = match[2].partition("?")
    authority, _, path = plain.partition("/")
    # Without a user, text after a question mark may be the end of a password.
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
    """Return a message of a client about a URL, without the parts that `displayed_url` hides.

    The name of the user stays if it is certainly not a password: servers quote it in refusals.

    Args:
        text: The message.
        url: The URL as configured.
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
