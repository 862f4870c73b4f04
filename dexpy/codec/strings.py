"""Text in JSON: valid text, and the types that are encoded as text and decoded strictly."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

from dexpy.codec.base import Hook, Shape
from dexpy.codec.problems import changed, invalid_value
from dexpy.codec.simple_values import instance_of, leaf
from dexpy.foundation.errors import NotSerializable
from dexpy.foundation.safe_text import why_not_plain


def encode_text(value: Any) -> str:
    """Return a str unchanged, if all databases and JSON parsers accept it."""
    if type(value) is not str:
        raise changed(value, "str")
    if (reason := why_not_plain(value)) is not None:
        raise NotSerializable(reason)
    return value


def from_text(read: Callable[[str], Any], expected: str) -> Hook:
    """Return a hook that decodes text; an exception of `read` means that the text is invalid."""

    def decode(value: Any, _: Any = None) -> Any:
        if type(value) is str:
            try:
                return read(value)
            except (ValueError, ArithmeticError, NotImplementedError):
                pass
        raise invalid_value(expected, value)

    return decode


def matching(pattern: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return `read` for text that matches the pattern; alone it accepts more than Python writes."""
    matches = re.compile(pattern, re.ASCII).fullmatch

    def checked(text: str) -> Any:
        if matches(text) is None:
            raise ValueError
        return read(text)

    return checked


def _path(cls: type[PurePath]) -> Shape:
    """Return the shape of a path: checked by isinstance (`Path()` is a subclass), and encoded if it decodes equal."""
    try:
        restored_class = type(cls())
    except NotImplementedError:  # paths of another operating system
        restored_class = cls
    label = cls.__name__
    decode = from_text(cls, f"{label} text")

    def parse(value: Any, _: Any = None) -> Any:
        return value if isinstance(value, cls) else decode(value)

    def encode(value: Any) -> str:
        if type(value) is restored_class:
            return encode_text(str(value))
        raise NotSerializable(f"is of type {type(value).__name__}, but would be restored as {restored_class.__name__}")

    def key(value: Any) -> str:
        text = encode(value)
        return text.lower() if isinstance(value, PureWindowsPath) else text

    return leaf(
        ["string"],
        check=instance_of(cls, label),
        decode=decode,
        parse=parse,
        encode=encode,
        types=[restored_class],
        is_open=True,
        key=key,
    )


PATHS = {cls: _path(cls) for cls in (PurePath, PurePosixPath, PureWindowsPath, Path, PosixPath, WindowsPath)}
