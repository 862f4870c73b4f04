"""The reference page "Schedules" has the forms, aliases and members that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dexpy import Cron, Every
from dexpy.schedules.cron_expressions import ALIASES
from dexpy.schedules.phrases import FORMS
from dexpy.schedules.schedule import Schedule

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "schedules.md").read_text("utf-8")


def rows_of(title: str) -> list[list[str]]:
    """The cells of the table whose header begins with a title."""
    table = re.search(rf"^\| {title} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]


def test_the_table_of_phrases_has_every_form_with_its_meaning() -> None:
    table = {phrase.strip("`"): meaning.removesuffix(" |") for phrase, meaning in rows_of("phrase")}
    assert list(table) == list(FORMS)
    assert table == {phrase: Every(phrase).describe() for phrase in FORMS}


def test_the_table_of_aliases_is_complete() -> None:
    assert {alias.strip("`"): meaning.strip("` |") for alias, meaning in rows_of("alias")} == ALIASES


@pytest.mark.parametrize("kind", [Every, Cron])
def test_the_table_of_members_is_complete(kind: type[Schedule]) -> None:
    listed = {re.sub(r"\W.*", "", row[0].strip("`")) for row in rows_of("member")} - {"str"}
    public = {name for base in (kind, Schedule) for name in vars(base) if not name.startswith("_")}
    assert listed == public - {"phrase", "expression", "seconds", "zone"}


@pytest.mark.parametrize("row", rows_of("field"), ids=lambda row: row[0])
def test_the_limits_of_a_field_are_those_of_the_table(row: list[str]) -> None:
    position = [field[0] for field in rows_of("field")].index(row[0])
    low, high = map(int, re.findall(r"\d+", row[1])[:2])

    def with_value(value: object) -> Cron:
        fields: list[object] = ["0", "0", "*", "*", "*"]
        fields[position] = value
        return Cron(" ".join(map(str, fields)))

    for value in (
        low,
        high,
        *re.findall(r"`(\w+)`", row[1]),
        *re.findall(r"`([\w#]+)`", row[2] if len(row) > 2 else ""),
    ):
        with_value(value)
    for value in (low - 1, high + 1):
        with pytest.raises(TypeError):
            with_value(value)
