"""The page on types matches the code: it describes each type correctly and omits none."""

from __future__ import annotations

import collections.abc
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

import pytest

from dexpy import NotSerializable
from dexpy.codec import annotated_metadata, arrays
from dexpy.codec.codecs import codec_of
from dexpy.codec.mappings import is_dict
from dexpy.codec.scalars import SCALARS
from dexpy.declaration import misused_attributes
from dexpy.errors import DeclarationError

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "types.md"
TEXT = PAGE.read_text()
KINDS = {"null", "boolean", "integer", "number", "string", "array", "object"}


def rows_of(title: str) -> list[list[str]]:
    """Return the cells of the first table below a title, without its head."""
    below = TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.partition("\n|")[2].partition("\n\n")[0].splitlines() if line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture(scope="module")
def names() -> Iterator[dict[str, Any]]:
    """The namespace of the page's annotations, with the classes of its blocks."""
    import datetime
    import decimal
    import uuid

    module = sys.modules["types_page"] = types.ModuleType("types_page")
    paths = (PurePath, PurePosixPath, PureWindowsPath, Path, PosixPath, WindowsPath)
    vars(module).update({name: getattr(collections.abc, name) for name in collections.abc.__all__})
    vars(module).update({"Literal": typing.Literal, "Any": Any, "IO": typing.IO, "Never": typing.Never})
    vars(module).update({"AbstractSet": collections.abc.Set, "deque": collections.deque})
    vars(module).update({cls.__name__: cls for cls in (*paths, decimal.Decimal, uuid.UUID)})
    vars(module).update({name: getattr(datetime, name) for name in ("date", "datetime", "time", "timedelta")})
    for block in re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S):
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), vars(module))  # noqa: S102 - the page's own code
    yield vars(module)
    del sys.modules[module.__name__]


def annotation_of(cell: str, names: dict[str, Any]) -> Any:
    return eval(cell.strip("`").replace("&#124;", "|"), names)  # noqa: S307 - the page's own words


def test_accepted_values_are_stored_as_on_the_page(names: dict[str, Any]) -> None:
    rows = rows_of("Supported types")
    assert len(rows) > 40
    for cell, stored, _ in rows:
        kinds = set(re.findall(r"\w+", stored)) & KINDS
        assert codec_of(annotation_of(cell, names)).kinds == kinds, cell


def test_every_type_with_a_json_form_is_on_the_page(names: dict[str, Any]) -> None:
    named = [annotation_of(cell, names) for cell, *_ in rows_of("Supported types")]
    origins = {typing.get_origin(one) or (type(None) if one is None else one) for one in named}
    abstract = {one for one in vars(collections.abc).values() if isinstance(one, type) and is_dict(one)}
    assert origins >= {*SCALARS, *arrays._KINDS, tuple, dict, *abstract}


def test_types_for_calls_in_place_are_checked_and_have_no_json_form(names: dict[str, Any]) -> None:
    rows = rows_of("Types without a JSON form")
    assert len(rows) > 6
    for cell, _ in rows:
        form = codec_of(annotation_of(cell, names))
        assert form.kinds == frozenset(), cell
        with pytest.raises(NotSerializable):
            form.encode(object())
        with pytest.raises(Exception, match="expected"):
            form.check(object())


def test_types_that_the_page_refuses_are_refused(names: dict[str, Any]) -> None:
    rows = rows_of("Unsupported types")
    assert len(rows) > 4
    for cell, _ in rows:
        with pytest.raises(DeclarationError):
            codec_of(annotation_of(cell, names))


def test_names_in_the_code_are_on_the_page() -> None:
    for word in (*misused_attributes.IGNORED_METHODS, *annotated_metadata._BOUNDS_OF):
        if word not in ("__attrs_pre_init__", "__delattr__"):
            assert f"`{word}`" in TEXT, word
