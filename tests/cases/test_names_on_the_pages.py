"""Every name that a page mentions can be imported."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_docs

import dexpy

DOTTED = re.compile(r"(?<![\w./\-@\[])dexpy(?:\.[A-Za-z_]\w*)+")
IMPORT = re.compile(r"from (dexpy[\w.]*) import ([\w, ]+|\([^)]*\))")
ACTORS = {"dexpy.RecordJob", "dexpy.DirectJob"}
"""Names of actors, which are not imported."""
FILES = ("dexpy.db", "dexpy.toml")
LOGGERS = re.compile(r"getLogger\(\"(dexpy[\w.]*)\"")


def claims_of(text: str) -> Iterator[str]:
    """Return the dotted names of a page, in code and in prose."""
    text = re.sub(r"^```(?:text|toml)\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for module, names in IMPORT.findall(text):
        yield from (
            f"{module}.{name.split(' as ')[0].strip()}" for name in re.sub(r"[()]", "", names).split(",") if name
        )
    loggers = set(LOGGERS.findall(text))
    for name in DOTTED.findall(text):
        if name not in ACTORS | loggers and not name.startswith(FILES):
            yield name


def resolve(dotted: str) -> Any:
    """What a dotted name of a module and its attributes is.

    Raises:
        AttributeError: There is nothing of that name.
    """
    parts = dotted.split(".")
    resolved: Any = importlib.import_module(parts[0])
    for number, part in enumerate(parts[1:], start=1):
        try:
            resolved = getattr(resolved, part)
        except AttributeError:
            try:
                resolved = importlib.import_module(".".join(parts[: number + 1]))
            except ModuleNotFoundError:
                raise AttributeError(f"{dotted}: there is no {part!r} in {'.'.join(parts[:number])}") from None
    return resolved


def current(text: str) -> str:
    """Return a page without its history and without sections about removed names."""
    return re.sub(r"^## \[?\d.*", "", text, flags=re.MULTILINE | re.DOTALL)


PAGES = [page for page in test_docs.PAGES if "decisions" not in page.parts]


@pytest.mark.parametrize("page", PAGES, ids=test_docs.title)
def test_d12_names_on_the_page_can_be_imported(page: Path) -> None:
    missing: list[str] = []
    for name in sorted(set(claims_of(current(page.read_text("utf-8"))))):
        try:
            resolve(name)
        except AttributeError as error:
            missing.append(str(error))

    assert missing == []


def test_d12_every_error_in_the_tree_of_the_page_is_importable_from_dexpy_errors() -> None:
    page = (test_docs.HOME / "docs/reference/errors.md").read_text("utf-8")
    tree = page.partition("```text\n")[2].partition("```")[0]
    names = re.findall(r"^[│├└─ ]*([A-Z]\w+)", tree, flags=re.MULTILINE)

    assert len(names) > 40
    assert {"BaseException"} == {name for name in names if not hasattr(dexpy.errors, name)}


def test_d12_the_check_finds_a_missing_name() -> None:
    page = "Use `dexpy.nothing()`.\n```python\nfrom dexpy import Operation, Missing\nfrom dexpy.gone import x\n```\n"

    with pytest.raises(AttributeError, match="no 'Missing' in dexpy"):
        resolve("dexpy.Missing")
    assert set(claims_of(page)) == {"dexpy.nothing", "dexpy.Operation", "dexpy.Missing", "dexpy.gone.x", "dexpy.gone"}
    assert set(claims_of("`records.get` of `dexpy.records.get`, `shop.dexpy.db`")) == {"dexpy.records.get"}


LISTS_OF_WHAT_IS_MISSING = re.compile(
    r"^#+ .*\b(?:not there|not yet|yet to come|planned)\b.*|.*\bno policy\.$", re.MULTILINE
)
"""Headings and sentences about missing features, which become wrong when the feature is added."""


@pytest.mark.parametrize("page", PAGES, ids=test_docs.title)
def test_d5_the_page_lists_only_existing_features(page: Path) -> None:
    assert LISTS_OF_WHAT_IS_MISSING.findall(current(page.read_text("utf-8"))) == []
