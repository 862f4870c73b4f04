"""The reference documents every public name, in an entry with an example that runs.

An entry is a section whose heading has the name in backticks, as ``### `Lock` ``, or several names with commas.
`tests/test_docs.py` runs the examples.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from test_docs import FENCE, HOME, blocks_of

import dexpy
from dexpy import errors

PAGES = sorted((HOME / "docs" / "reference").glob("*.md"))
HEADING = re.compile(r"^(#{2,4}) (.+)$", re.MULTILINE)
NAME = re.compile(r"`(?:dexpy\.)?(\w+)`")
NOT_CALLED = {
    *("Batch", "BatchTicket", "Call", "Explanation", "RunEnd", "Runtime", "Ticket"),  # created by dexpy
    *("DeferredCall", "Encryptor", "Operation"),  # subclassed
    *("OptRef", "Ref", "Refs"),  # annotations
    "Problem",
}
"""Classes that users do not call with the arguments of their `__init__`."""


@attrs.frozen
class Entry:
    """A section of a page about one or more names.

    Attributes:
        page: The page.
        text: The section without its heading, up to the next heading of its level.
    """

    page: Path
    text: str

    def examples(self) -> list[str]:
        """Return the executed code of the section."""
        blocks = blocks_of(self.text)
        return [block.code for block in blocks if block.language in ("python", "pycon") and block.word != "not run"]

    def column(self, title: str) -> list[str] | None:
        """Return the names in the first column of the table with this title; None without such a table."""
        table = re.search(rf"^\| {title} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", f"{self.text}\n", re.MULTILINE)
        if table is None:
            return None
        cells = [line.split("|")[1] for line in table[1].splitlines()]
        return [name for cell in cells for name in re.findall(r"`\**(\w+)[^`]*`", cell)]


def entries_of(page: Path) -> Iterator[tuple[str, Entry]]:
    text = page.read_text("utf-8")
    # Code is blanked, because its lines that begin with # are not headings.
    plain = FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    headings = list(HEADING.finditer(plain))
    for index, heading in enumerate(headings):
        if not re.fullmatch(rf"{NAME.pattern}(?:, {NAME.pattern})*", heading[2]):
            continue
        level = len(heading[1])
        end = next((later.start() for later in headings[index + 1 :] if len(later[1]) <= level), len(text))
        for name in NAME.findall(heading[2]):
            yield name, Entry(page, text[heading.end() : end])


ENTRIES: dict[str, list[Entry]] = {}
for _page in PAGES:
    for _name, _entry in entries_of(_page):
        ENTRIES.setdefault(_name, []).append(_entry)

PUBLIC = {name: getattr(errors, name) for name in errors.__all__}
PUBLIC |= {name: getattr(dexpy, name) for name in dexpy.__all__}


def arguments_of(value: object) -> list[str]:
    """Return the names of the arguments of a call, including ``**name``."""
    parameters = inspect.signature(value).parameters  # type: ignore[arg-type]
    return [name for name in parameters if name != "self"]


def documented_attributes(error: type) -> list[str]:
    """Return the attributes in the docstring of an exception."""
    section = re.search(r"Attributes:\n((?: {8}.*\n|\n)+)", f"{vars(error).get('__doc__') or ''}\n")
    return re.findall(r"^ {8}(\w+): ", section[1], re.MULTILINE) if section else []


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_has_one_entry_whose_example_uses_it(name: str) -> None:
    entries = ENTRIES.get(name, [])
    assert len(entries) == 1, f"{name} has entries on {[entry.page.name for entry in entries]}"
    assert any(re.search(rf"\b{name}\b", code) for code in entries[0].examples()), f"no example of {name} is executed"


CALLED = sorted(
    name
    for name, value in PUBLIC.items()
    if callable(value)
    and name not in NOT_CALLED
    and not (isinstance(value, type) and issubclass(value, BaseException))
    and arguments_of(value)
)


@pytest.mark.parametrize("name", CALLED)
def test_the_arguments_of_an_entry_are_those_of_the_signature(name: str) -> None:
    (entry,) = ENTRIES[name]
    assert entry.column("argument") == arguments_of(PUBLIC[name])


@pytest.mark.parametrize("name", sorted(name for name in errors.__all__ if documented_attributes(PUBLIC[name])))
def test_the_attributes_of_an_exception_are_those_of_its_docstring(name: str) -> None:
    (entry,) = ENTRIES[name]
    line = re.search(r"^Attributes: (.*)\.$", entry.text, re.MULTILINE)
    assert line is not None, f"{name} has no line `Attributes: ...`"
    assert re.findall(r"`(\w+)`", line[1]) == documented_attributes(PUBLIC[name])


@pytest.mark.parametrize("name", ["BatchTicket", "Operation", "Ticket"])
def test_every_public_member_is_in_the_entry_of_its_class(name: str) -> None:
    (entry,) = ENTRIES[name]
    members = [member for member in vars(PUBLIC[name]) if not member.startswith("_")]
    internal = {"become_duplicate_of", "become_rolled_back", "become_skipped", "restore"}
    assert [member for member in members if member not in internal and f"`{member}" not in entry.text] == []
