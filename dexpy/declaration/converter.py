"""The hooks that dexpy's cattrs converters are made of: strict on the way in, exact on the way out.

A hook is made once for one annotation and called with a value and, because that is how cattrs calls, its type.
Which hooks an annotation gets is in `forms`; here is what they do.
While a refusal unwinds, each hook around it puts its step before the path.

Longer than most files, because the ways in and the way out of one kind of value belong side by side.
"""

from __future__ import annotations

import base64
import binascii
import copy
import dataclasses
import json
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import partial
from operator import length_hint
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from types import NoneType
from typing import Any, TypeAlias
from uuid import UUID

import attrs

from dexpy.foundation.errors import NotSerializable, Problem, listed

Hook: TypeAlias = Callable[..., Any]
"""``(value)`` or ``(value, type)`` to a value; raises `Misfit` on the way in, `NotSerializable` on the way out.

Hooks inside of others are given both arguments. Python 3.13 does not count a call that leaves out a default
(python/cpython#132744), and a value that holds itself would take all memory instead of raising RecursionError.
"""

TAG = "$type"
"""The key that tells the classes of one union apart."""

_GOT_LENGTH = 80
_SAID_LENGTH = 200
_DICT: type[Any] = dict  # compared with a class of its own name, a value of any type turns into a dict of unknowns
_LIST: type[Any] = list
_TUPLE: type[Any] = tuple
_INT_LIMIT = 10**4300
"""Python refuses to write or read longer ints as text (`sys.set_int_max_str_digits`)."""


class Misfit(Exception):
    """A value that does not fit its form; it becomes a `PropsError` or `Undecodable` before users see it.

    Attributes:
        problems: All that is wrong with the value, each with its path from the value's root.

    Example:
        >>> raise Misfit([Problem("[2].sku", "str", "int 7")])
        Traceback (most recent call last):
        ...
        dexpy.declaration.converter.Misfit: [2].sku: wants str, got int 7
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Gathers the problems."""
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """All problems in one line."""
        return "; ".join(str(problem) for problem in self.problems)

    def under(self, prefix: str) -> Iterator[Problem]:
        """The problems, seen from one level further out."""
        return (problem.under(prefix) for problem in self.problems)


_short_repr = reprlib.Repr()  # cuts before it writes, so that a list of a million items costs nothing
_short_repr.maxstring = _short_repr.maxother = _short_repr.maxlong = _GOT_LENGTH - 20


def shown(value: object) -> str:
    """A short text of a value for a message, with its type; never raises.

    Example:
        >>> shown("7"), shown(None), shown([1, 2])
        ("str '7'", 'None', 'list [1, 2]')
    """
    if value is None:
        return "None"
    return _cut(f"{type(value).__name__} {_repr(value)}")


def step(key: object) -> str:
    """The piece of a path that leads to a key."""
    return f"[{_cut(_repr(key))}]"


def misfit(wanted: str, value: object) -> Misfit:
    """The one problem of a value that is wrong as a whole."""
    return Misfit([Problem("", wanted, shown(value))])


def _repr(value: object) -> str:
    try:
        return _short_repr.repr(value)
    except Exception:  # noqa: BLE001 - the repr of somebody's class must not hide the problem itself
        return "<no repr>"


def _cut(text: str, length: int = _GOT_LENGTH) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


# ---------------------------------------------------------------------------------------------- scalars


@attrs.frozen
class Scalar:
    """The hooks of a type without parts.

    Attributes:
        kind: The JSON kind that it encodes to.
        types: Python types that it takes by exact type.
        is_open: Takes subclasses too.
    """

    kind: str
    check: Hook
    decode: Hook
    parse: Hook
    encode: Hook
    types: frozenset[type]
    is_open: bool = False


def exactly(cls: type, wanted: str) -> Hook:
    """A hook that takes values of one type, and none of its subclasses."""

    def check(value: Any, _: Any = None) -> Any:
        if type(value) is cls:
            return value
        raise misfit(wanted, value)

    return check


def changed(value: object, label: str) -> NotSerializable:
    """The refusal of a value that was put there after its prop was checked."""
    return NotSerializable(f"is of type {type(value).__name__}, and {label} is declared")


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


def encode_int(value: Any) -> int:
    """An int as it is, if it can be written as text."""
    if type(value) is not int:
        raise changed(value, "int")
    if -_INT_LIMIT < value < _INT_LIMIT:
        return value
    raise NotSerializable("has more than 4300 digits, which Python does not write or read as text")


def encode_float(value: Any) -> float:
    """A finite float as it is; an int that a nested class holds in its float field, as a float."""
    number = take_float(value) if type(value) is int else value
    if type(number) is not float:
        raise changed(value, "float")
    if number - number == 0.0:  # neither NaN nor infinite
        return number
    raise NotSerializable("is NaN or infinite, and JSON has neither: use None")


def take_float(value: Any, _: Any = None) -> float:
    """A float, or an int as the float it is."""
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise misfit("float, or an int that a float can hold", value) from None
    raise misfit("float", value)


def _plain_scalar(cls: type, label: str, kind: str, encode: Hook) -> Scalar:
    check = exactly(cls, label)
    return Scalar(kind, check, check, check, encode, frozenset({cls}))


def _written_scalar(
    cls: type, kind: str, write: Hook, decode: Hook, lenient: Hook | None = None, check: Hook | None = None
) -> Scalar:
    """A type that JSON does not have: `write` and `decode` lead there and back, `lenient` from outside."""
    label = cls.__name__
    from_outside = lenient or decode

    def parse(value: Any, _: Any = None) -> Any:
        return value if type(value) is cls else from_outside(value)

    def encode(value: Any) -> Any:
        if type(value) is cls:
            return write(value)
        raise changed(value, label)

    return Scalar(kind, check or exactly(cls, label), decode, parse, encode, frozenset({cls}))


def _from_text(read: Callable[[str], Any], wanted: str) -> Hook:
    def decode(value: Any, _: Any = None) -> Any:
        if type(value) is str:
            try:
                return read(value)
            except (ValueError, ArithmeticError, NotImplementedError):
                pass
        raise misfit(wanted, value)

    return decode


def _matching(pattern: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Python's readers take more than they write; only text of this pattern gets to them."""
    matches = re.compile(pattern, re.ASCII).fullmatch

    def checked(text: str) -> Any:
        if matches(text) is None:
            raise ValueError
        return read(text)

    return checked


_DATE = r"\d{4}-\d{2}-\d{2}"
_OFFSET = r"(?:Z|[+-]\d{2}:\d{2}(?::\d{2}(?P<fine>\.\d{1,6})?)?)?"
_TIME = r"\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?" + _OFFSET
_DECIMAL = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_FINE_OFFSET = re.compile(r"(.+)([+-])(\d{2}):(\d{2}):(\d{2})\.(\d{1,6})", re.ASCII)
_UUID = r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}"
_DURATION = re.compile(
    r"(?P<sign>[+-])?P(?=[\dT])(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d{1,6}))?S)?)?",
    re.ASCII,
)
_MICROSECOND = timedelta(microseconds=1)


def _write_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _write_iso(value: datetime | time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise NotSerializable("has a time zone without an offset, which would not come back: use a fixed offset")
    return value.isoformat(timespec="microseconds")


def _iso_reader(cls: type[datetime] | type[time], pattern: str) -> Callable[[str], Any]:
    matches = re.compile(pattern, re.ASCII).fullmatch

    def read(text: str) -> Any:
        match = matches(text)
        if match is None:
            raise ValueError
        return cls.fromisoformat(text) if match["fine"] is None else _read_fine_offset(cls, text)

    return read


def _read_fine_offset(cls: type[datetime] | type[time], text: str) -> Any:
    """`fromisoformat` takes an offset of less than a second for UTC."""
    match = _FINE_OFFSET.fullmatch(text)
    if match is None:
        raise ValueError
    local, sign, hours, minutes, seconds, fraction = match.groups()
    offset = timedelta(0, int(seconds), int(fraction.ljust(6, "0")), 0, int(minutes), int(hours))
    return cls.fromisoformat(local).replace(tzinfo=timezone(-offset if sign == "-" else offset))


def _write_decimal(value: Decimal) -> str:
    if value.is_finite():
        return str(value)
    raise NotSerializable("is NaN or infinite, and JSON has neither: use None")


def _decode_decimal(value: Any, _: Any = None) -> Decimal:
    return Decimal(value) if type(value) is int else _decimal_text(value)


_decimal_text = _from_text(_matching(_DECIMAL, Decimal), "Decimal, as text or int")


def _write_timedelta(value: timedelta) -> int:
    return value // _MICROSECOND


def _decode_timedelta(value: Any, _: Any = None) -> timedelta:
    if type(value) is int:
        try:
            return timedelta(microseconds=value)
        except OverflowError:
            pass
    raise misfit("timedelta, as an int of microseconds", value)


def _parse_timedelta(value: Any) -> Any:
    if type(value) is str:
        return _duration_text(value)
    return _decode_timedelta(value)


def _read_duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError
    sign, fraction = match["sign"], match["fraction"] or ""
    whole = {name: int(match[name] or 0) for name in ("weeks", "days", "hours", "minutes", "seconds")}
    amount = timedelta(**whole, microseconds=int(fraction.ljust(6, "0")))
    return amount * -1 if sign == "-" else amount


_duration_text = _from_text(_read_duration, "timedelta, as an int of microseconds or ISO text such as 'PT1H30M'")


def _path_scalar(cls: type[PurePath]) -> Scalar:
    """A path goes by isinstance, because what `Path()` gives is a subclass; out go only those that come back."""
    try:
        comes_back = type(cls())
    except NotImplementedError:  # the paths of another system
        comes_back = cls
    label = cls.__name__

    def check(value: Any, _: Any = None) -> Any:
        if isinstance(value, cls):
            return value
        raise misfit(label, value)

    def parse(value: Any, _: Any = None) -> Any:
        return value if isinstance(value, cls) else decode(value)

    def encode(value: Any) -> str:
        if type(value) is comes_back:
            return encode_text(str(value))
        raise NotSerializable(f"is of type {type(value).__name__}, and would come back as {comes_back.__name__}")

    decode = _from_text(cls, f"{label} text")
    return Scalar("string", check, decode, parse, encode, frozenset({comes_back}), is_open=True)


def _as_it_is(value: Any) -> Any:
    return value


SCALARS: Mapping[Any, Scalar] = {
    NoneType: _plain_scalar(NoneType, "None", "null", _as_it_is),
    bool: _plain_scalar(bool, "bool", "boolean", _as_it_is),
    int: _plain_scalar(int, "int", "integer", encode_int),
    float: Scalar("number", take_float, take_float, take_float, encode_float, frozenset({float, int})),
    str: _plain_scalar(str, "str", "string", encode_text),
    bytes: _written_scalar(
        bytes,
        "string",
        _write_base64,
        _from_text(partial(binascii.a2b_base64, strict_mode=True), "bytes, as base64 text"),
    ),
    date: _written_scalar(
        date, "string", date.isoformat, _from_text(_matching(_DATE, date.fromisoformat), "ISO date text")
    ),
    datetime: _written_scalar(
        datetime,
        "string",
        _write_iso,
        _from_text(_iso_reader(datetime, f"{_DATE}T{_TIME}"), "ISO datetime text"),
    ),
    time: _written_scalar(time, "string", _write_iso, _from_text(_iso_reader(time, _TIME), "ISO time text")),
    timedelta: _written_scalar(timedelta, "integer", _write_timedelta, _decode_timedelta, _parse_timedelta),
    Decimal: _written_scalar(Decimal, "string", _write_decimal, _decode_decimal),
    UUID: _written_scalar(UUID, "string", str, _from_text(_matching(_UUID, UUID), "UUID text")),
} | {cls: _path_scalar(cls) for cls in (PurePath, PurePosixPath, PureWindowsPath, Path, PosixPath, WindowsPath)}


# ------------------------------------------------------------------------------------------- plain JSON


def plain_json(value: Any) -> Any:
    """Walks a value that has no declared type and gives it back, if it is plain JSON.

    Args:
        value: None, bool, int, float, str, and lists and dicts (with str keys) of these.

    Returns:
        An equal value, in containers of its own.

    Raises:
        NotSerializable: Something in it is not plain JSON; `path` says where.

    Example:
        >>> plain_json({"k": [1, None, "a"]})
        {'k': [1, None, 'a']}
        >>> plain_json({"k": [float("nan")]})
        Traceback (most recent call last):
        ...
        dexpy.NotSerializable: ['k'][0] is NaN or infinite, and JSON has neither: use None
    """
    try:
        return walk_plain(value)
    except RecursionError:
        raise NotSerializable(TOO_DEEP) from None


TOO_DEEP = "is nested too deeply, or holds itself"


def walk_plain(value: object) -> Any:
    """`plain_json` for a part of a value: whoever walks the whole looks after the depth."""
    encode: Hook = _PLAIN.get(type(value)) or _refuse_plain
    return encode(value)


def copied(value: Any, _: Any = None) -> Any:
    """An untyped value in lists and dicts of its own; the rest is looked at when it is to become JSON."""
    if type(value) is _LIST:
        return [copied(item, None) for item in value]
    if type(value) is _DICT:
        return {key: copied(item, None) for key, item in value.items()}
    return value


def encode_keys(value: Mapping[Any, Any]) -> None:
    """Refuses a dict with keys that JSON does not have."""
    for key in value:
        if type(key) is not str:
            raise NotSerializable(
                f"has a key of type {type(key).__name__}, and keys must be str in JSON: "
                "turn the keys into str, or carry a list of pairs"
            )
        try:
            encode_text(key)
        except NotSerializable as error:
            raise NotSerializable(f"has a key that {error.reason}") from None


_TYPED_REMEDIES: Mapping[type, str] = {
    tuple: "tuple[int, ...]",
    set: "set[int]",
    frozenset: "frozenset[int]",
}


def _refuse_plain(value: object) -> Any:
    cls = type(value)
    name = cls.__name__
    is_of_fields = attrs.has(cls) or dataclasses.is_dataclass(value)
    if type(value) in SCALARS or type(value) in _TYPED_REMEDIES or isinstance(value, Enum) or is_of_fields:
        raise NotSerializable(
            f"is of type {name}, and without a declared type only plain JSON travels: "
            f"give the prop a type such as dict[str, {_TYPED_REMEDIES.get(type(value), name)}]"
        )
    for plain in (dict, list, str, int, float):
        if isinstance(value, plain):
            raise NotSerializable(f"is of type {name}, which would not come back as one: use a {plain.__name__}")
    raise NotSerializable(
        f"is of type {name}, which has no JSON form: pass an id or a path, or give the prop a type "
        "that dexpy.register_type knows"
    )


# ------------------------------------------------------------------------------------- lists and the like


def take_array(inner: Hook, *, taken: tuple[type, ...], build: Callable[[list[Any]], Any] | None, wanted: str) -> Hook:
    """A hook for items of one form; `build` makes the container of a list, None leaves the list."""

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) not in taken:
            raise misfit(wanted, value)
        items = iter(value)
        try:
            made = [inner(item, None) for item in items]
        except Misfit as first:
            raise Misfit(_item_problems(first, value, items, inner)) from None
        return made if build is None else build(made)

    return structure


def _item_problems(first: Misfit, value: Any, rest: Iterator[Any], inner: Hook) -> Iterator[Problem]:
    """The problems of the item that failed and of those after it.

    The iterator stands behind the item that failed, so no item is looked at twice: in nested
    values a second look at each level would double the work of the level below.
    """
    position = _position(value, rest)
    yield from first.under(_item_step(value, position))
    for later, item in enumerate(rest, position + 1):
        try:
            inner(item, None)
        except Misfit as another:
            yield from another.under(_item_step(value, later))


def _position(value: Any, rest: Iterator[Any]) -> int:
    """The index of the item that an iterator gave last."""
    return len(value) - length_hint(rest) - 1


def _item_step(value: Any, position: int) -> str:
    return "[*]" if isinstance(value, set | frozenset) else f"[{position}]"


def hashed(kind: Callable[[list[Any]], Any], wanted: str) -> Callable[[list[Any]], Any]:
    """Makes a set, or a problem of what cannot be in one."""

    def build(items: list[Any]) -> Any:
        try:
            return kind(items)
        except TypeError:
            raise misfit(f"{wanted} of hashable elements", items) from None

    return build


def take_tuple(inners: Sequence[Hook], *, taken: tuple[type, ...], wanted: str) -> Hook:
    """A hook for a tuple with a form for each place."""

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) not in taken:
            raise misfit(wanted, value)
        if len(value) != len(inners):
            raise misfit(f"{wanted}, so {len(inners)} in number", value)
        made: list[Any] = []
        problems: list[Problem] = []
        for position, inner in enumerate(inners):
            try:
                made.append(inner(value[position], None))
            except Misfit as error:
                problems += error.under(f"[{position}]")
        if problems:
            raise Misfit(problems)
        return tuple(made)

    return structure


def take_dict(take_key: Hook, inner: Hook, *, wanted: str) -> Hook:
    """A hook for a dict with keys of one form and values of another."""

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) is not _DICT:
            raise misfit(wanted, value)
        entries = iter(value.items())
        try:
            return {take_key(key, None): inner(item, None) for key, item in entries}
        except Misfit as first:
            raise Misfit(_entry_problems(first, value, entries, take_key, inner)) from None

    return structure


def _entry_problems(
    first: Misfit, value: dict[Any, Any], rest: Iterator[tuple[Any, Any]], take_key: Hook, inner: Hook
) -> Iterator[Problem]:
    key = list(value)[_position(value, rest)]
    of_its_key = list(_key_problems(key, take_key))
    if of_its_key:
        yield from of_its_key
        yield from _value_problems(key, value[key], inner)
    else:
        yield from first.under(step(key))
    for later, item in rest:
        yield from _key_problems(later, take_key)
        yield from _value_problems(later, item, inner)


def _key_problems(key: Any, take_key: Hook) -> Iterator[Problem]:
    try:
        take_key(key, None)
    except Misfit as error:
        for problem in error.problems:
            yield Problem(step(key), f"{problem.wanted} as its key", problem.got)


def _value_problems(key: Any, item: Any, inner: Hook) -> Iterator[Problem]:
    try:
        inner(item, None)
    except Misfit as error:
        yield from error.under(step(key))


_canonical_text = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def encode_array(inner: Hook, *, taken: type[Any], label: str) -> Hook:
    """A hook that makes a JSON array; of a set, a sorted one."""
    is_set = issubclass(taken, set | frozenset)

    def encode(value: Any) -> list[Any]:
        if type(value) is not taken:
            raise changed(value, label)
        items = iter(value)
        try:
            made = [inner(item) for item in items]
        except NotSerializable as error:
            raise error.under(_item_step(value, _position(value, items))) from error.__cause__
        return sorted(made, key=_canonical_text) if is_set else made

    return encode


def encode_tuple(inners: Sequence[Hook], *, label: str) -> Hook:
    """A hook that makes a JSON array of a tuple with a form for each place."""

    def encode(value: Any) -> list[Any]:
        if type(value) is not _TUPLE or len(value) != len(inners):
            raise changed(value, label)
        made: list[Any] = []
        for inner, item in zip(inners, value, strict=True):
            try:
                made.append(inner(item))
            except NotSerializable as error:
                raise error.under(f"[{len(made)}]") from error.__cause__
        return made

    return encode


def encode_dict(inner: Hook, *, label: str) -> Hook:
    """A hook that makes a JSON object of a dict."""

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not _DICT:
            raise changed(value, label)
        encode_keys(value)
        entries = iter(value.items())
        try:
            return {key: inner(item) for key, item in entries}
        except NotSerializable as error:
            key = list(value)[_position(value, entries)]
            raise error.under(step(key)) from error.__cause__

    return encode


_PLAIN: Mapping[type, Hook] = {
    NoneType: _as_it_is,
    bool: _as_it_is,
    int: encode_int,
    float: encode_float,
    str: encode_text,
    list: encode_array(walk_plain, taken=list, label="list"),
    dict: encode_dict(walk_plain, label="dict"),
}


# ------------------------------------------------------------------------------------------ classes


@attrs.frozen
class Field:
    """One field of a class or key of a TypedDict.

    Attributes:
        name: The attribute or key in Python.
        key: The key in JSON: the name of the argument of ``__init__``.
        type: Its annotation.
        label: Its annotation, for messages.
        required: It has no default.
        path: The piece of a path that leads to it.
    """

    name: str
    key: str
    type: Any
    label: str
    required: bool
    path: str


Fields: TypeAlias = Sequence[tuple[Field, Hook]]


def take_instance(cls: type, fields: Fields, *, is_mutable: bool, wanted: str) -> Hook:
    """A hook for an instance of a class: its fields are checked; of what could be changed later it makes a copy."""

    def check(value: Any, _: Any = None) -> Any:
        if type(value) is not cls:
            raise misfit(wanted, value)
        own: dict[str, Any] = {}
        problems: list[Problem] = []
        for field, inner in fields:
            held = getattr(value, field.name)
            try:
                taken = inner(held, None)
            except Misfit as error:
                problems += error.under(field.path)
            else:
                if taken is not held:
                    own[field.name] = taken
        if problems:
            raise Misfit(problems)
        if not is_mutable and not own:
            return value
        made = copy.copy(value)
        for name, taken in own.items():
            object.__setattr__(made, name, taken)  # a frozen one too
        return made

    return check


def take_record(
    fields: Fields, *, build: Callable[[dict[str, Any]], Any] | None, refuses_unknown: bool, wanted: str
) -> Hook:
    """A hook for a dict with known keys; `build` makes an instance of it, None leaves the dict."""
    keys = frozenset(field.key for field, _ in fields)

    def structure(value: Any, _: Any = None) -> Any:
        if type(value) is not _DICT:
            raise misfit(wanted, value)
        made: dict[str, Any] = {}
        problems: list[Problem] = []
        for field, inner in fields:
            if field.key in value:
                try:
                    made[field.key] = inner(value[field.key], None)
                except Misfit as error:
                    problems += error.under(field.path)
            elif field.required:
                problems.append(Problem(field.path, f"{field.label}, nothing was given"))
        if refuses_unknown and not value.keys() <= keys:
            problems.append(_unknown_keys(value, keys))
        if problems:
            raise Misfit(problems)
        return made if build is None else build(made)

    return structure


def _unknown_keys(value: dict[Any, Any], keys: frozenset[str]) -> Problem:
    unknown = ", ".join(_cut(_repr(key)) for key in value if key not in keys)
    return Problem("", f"only the keys {listed(keys)}", _cut(unknown))


def rebuilt(cls: type) -> Callable[[dict[str, Any]], Any]:
    """Makes an instance through its ``__init__``, so that converters and validators run."""

    def build(arguments: dict[str, Any]) -> Any:
        try:
            return cls(**arguments)
        except Exception as error:
            # a validator may raise anything; whatever it is, the value does not fit
            # attrs puts more than the message into args, and str() of that is a tuple
            said = error.args[0] if error.args and type(error.args[0]) is str else _repr(error)
            got = _cut(f"{type(error).__name__}: {said}", _SAID_LENGTH)
            raise Misfit([Problem("", f"values that {cls.__name__} takes", got)]) from error

    return build


def encode_record(fields: Fields, *, taken: type[Any], label: str, is_dict: bool) -> Hook:
    """A hook that makes a JSON object of an instance, or of a dict with known keys."""
    keys = frozenset(field.key for field, _ in fields)

    def encode(value: Any) -> dict[str, Any]:
        if type(value) is not taken:
            raise changed(value, label)
        if is_dict and not (value.keys() <= keys and all(field.key in value for field, _ in fields if field.required)):
            raise NotSerializable(f"has other keys than {label} declares")
        made: dict[str, Any] = {}
        for field, inner in fields:
            if is_dict and field.key not in value:
                continue
            try:
                made[field.key] = inner(value[field.name] if is_dict else getattr(value, field.name))
            except NotSerializable as error:
                raise error.under(field.path) from error.__cause__
        return made

    return encode


# ------------------------------------------------------------------------------------------- unions


def take_union(by_type: Mapping[type, Hook], others: Sequence[Hook], *, wanted: str, or_none: bool) -> Hook:
    """A hook that finds the member by the value's type, and else asks the others one by one."""

    def structure(value: object, _: Any = None) -> Any:
        hook = by_type.get(type(value))
        refusal: Misfit | None = None
        if hook is not None:
            try:
                return hook(value, None)
            except Misfit as error:
                refusal = error
        for other in others:
            try:
                return other(value, None)
            except Misfit:
                continue
        if refusal is None:
            raise misfit(wanted, value)
        raise _with_none(refusal) if or_none else refusal

    return structure


def _with_none(refusal: Misfit) -> Misfit:
    """The refusal of the member that was meant, saying that None would have done as well."""
    return Misfit(
        problem if problem.path else attrs.evolve(problem, wanted=f"{problem.wanted} or None")
        for problem in refusal.problems
    )


def encode_union(by_type: Mapping[type, Hook], others: Sequence[tuple[Hook, Hook]], *, label: str) -> Hook:
    """A hook that encodes by the member that a value belongs to; `others` are pairs of check and encode."""

    def encode(value: object) -> Any:
        hook = by_type.get(type(value))
        if hook is not None:
            return hook(value)
        for check, other in others:
            try:
                check(value)
            except Misfit:
                continue
            return other(value)
        raise changed(value, label)

    return encode


def take_tagged(by_tag: Mapping[str, Hook]) -> Hook:
    """A hook for JSON objects that name their class."""
    wanted = f"object whose {TAG!r} is one of {listed(by_tag)}"

    def structure(value: Any, _: Any = None) -> Any:
        tag = value.get(TAG)
        if type(tag) is not str or tag not in by_tag:
            raise misfit(wanted, value)
        return by_tag[tag]({key: item for key, item in value.items() if key != TAG}, None)

    return structure


def encode_tagged(tag: str, inner: Hook) -> Hook:
    """A hook that names the class in its JSON object."""

    def encode(value: Any) -> dict[str, Any]:
        return {TAG: tag, **inner(value)}

    return encode
