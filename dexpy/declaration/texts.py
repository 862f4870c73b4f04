"""Text in JSON: what a str may hold, and the types that are written as text, read strictly."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

from dexpy.declaration.misfits import changed, misfit
from dexpy.declaration.shapes import Hook, Shape, instance_of, leaf
from dexpy.foundation.errors import NotSerializable


def encode_text(value: Any) -> str:
    """A str as it is, if every database and every JSON parser takes it."""
    if type(value) is not str:
        raise changed(value, "str")
    if "\0" in value:
        raise NotSerializable("has a NUL character, which databases refuse in text: take it out, or use bytes")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            reason = "has a lone surrogate, which is no valid Unicode text: decode it otherwise, or use bytes"
            raise NotSerializable(reason) from None
    return value


def from_text(read: Callable[[str], Any], wanted: str) -> Hook:
    """A hook that takes text; what `read` raises about it says that it does not fit."""

    def decode(value: Any, _: Any = None) -> Any:
        if type(value) is str:
            try:
                return read(value)
            except (ValueError, ArithmeticError, NotImplementedError):
                pass
        raise misfit(wanted, value)

    return decode


def matching(pattern: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Python's readers take more than they write; only text of this pattern gets to them."""
    matches = re.compile(pattern, re.ASCII).fullmatch

    def checked(text: str) -> Any:
        if matches(text) is None:
            raise ValueError
        return read(text)

    return checked


def _path(cls: type[PurePath]) -> Shape:
    """A path goes by isinstance, because what `Path()` gives is a subclass; out go only those that come back."""
    try:
        comes_back = type(cls())
    except NotImplementedError:  # the paths of another system
        comes_back = cls
    label = cls.__name__
    decode = from_text(cls, f"{label} text")

    def parse(value: Any, _: Any = None) -> Any:
        return value if isinstance(value, cls) else decode(value)

    def encode(value: Any) -> str:
        if type(value) is comes_back:
            return encode_text(str(value))
        raise NotSerializable(f"is of type {type(value).__name__}, and would come back as {comes_back.__name__}")

    check = instance_of(cls, label)
    return leaf(["string"], check=check, decode=decode, parse=parse, encode=encode, types=[comes_back], is_open=True)


PATHS = {cls: _path(cls) for cls in (PurePath, PurePosixPath, PureWindowsPath, Path, PosixPath, WindowsPath)}
