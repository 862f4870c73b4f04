"""The tables of docs/reference/logging.md match the catalog of log events.

``python tests/test_logging_page.py`` writes them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dexpy.foundation.log_catalog import FIELDS, LOGGERS, LogEvent

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "logging.md"
TABLE = re.compile(r"(<!-- (loggers|fields|events) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def loggers() -> Iterator[str]:
    """Return the lines of the table of child loggers."""
    yield "| logger | about |"
    yield "|---|---|"
    yield from (f"| `{name}` | {about} |" for name, about in sorted(LOGGERS.items()))


def fields() -> Iterator[str]:
    """Return the lines of the table of fields."""
    yield "| field | meaning |"
    yield "|---|---|"
    yield "| `event` | the name of the event |"
    yield from (f"| `{name}` | {meaning} |" for name, meaning in FIELDS.items())


def events() -> Iterator[str]:
    """Return the lines of a table of events for each logger."""
    for logger in LOGGERS:
        yield f"### {logger}\n"
        yield "| event | level | meaning | what to do |"
        yield "|---|---|---|---|"
        for event in LogEvent:
            if event.logger.name == logger:
                level = logging.getLevelName(event.level)
                yield f"| `{event.event}` | `{level}` | {event.meaning} | {event.action} |"
        yield ""


TABLES = {"loggers": loggers, "fields": fields, "events": events}


def table_of(name: str) -> str:
    """Return a table as text."""
    return "\n".join(TABLES[name]()).strip()


def with_tables(page: str) -> str:
    """Return the page with the tables of the catalog."""
    return TABLE.sub(lambda match: f"{match[1]}\n{table_of(match[2])}\n\n{match[4]}", page)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_the_page_is_that_of_the_catalog(table: str) -> None:
    tables = {match[2]: match[3] for match in TABLE.finditer(PAGE.read_text("utf-8"))}

    assert tables[table].strip().splitlines() == table_of(table).splitlines()


def test_the_page_is_in_the_index() -> None:
    assert "(reference/logging.md)" in (PAGE.parents[1] / "index.md").read_text("utf-8")


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
