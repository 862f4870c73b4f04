"""The language of dexpy: words and phrases that its code, its pages and its tests do not use.

A line that quotes them, such as a line of an application's code, has the marker ``style: quotation`` in a comment.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
MARKER = "style: quotation"
BANNED = {
    r"for one(?=[,.;:)'\"]|$)": "for example",
    r"somebody|anybody": "name the component or the reader",
    r"nobody": "no process, no user, nothing",
    r"whoever": "name the component or the reader",
    r"called off|calls? off|calling off": "cancelled, cancel",
    r"mend(?:s|ed|ing)?": "fix",
    r"sees? to|seen to": "handle, ensure",
    r"look(?:s|ed|ing)? after": "handle, monitor",
    r"taken for dead": "lease expired",
    r"lifelines?": "lease",
    r"(?:is|are|was|were|be|been|being) told": "receives, gets an error",
    r"wants(?!=)": "expected, requires",
    r"out of time|time (?:is|was) over": "timed out, expired",
    r"(?:lies|lie|lay) there": "is stored, remains",
    r"strangers?": "unknown operation",
    r"verdicts?|judge[sd]?": "decision, decides",
    r"parcels?|shipments?|mailbox(?:es)?|postings?": "prepared job, message, transport",
    r"repost(?:s|ed)?": "republish",
    r"hand(?:s|ed)? over|owe[sd]?": "publish, pass",
    r"vigils?|hearts?": "heartbeat",
    r"insists?|insisted": "require, retry with backoff",
    r"milestones?": "checkpoint, durable step",
    r"rehears(?:e|es|ed|al|als)": "dry run",
    r"surroundings": "context",
    r"washed": "redacted",
    r"deeds?": "operation",
    r"undone": "rolled back",
    r"given back|gives? back|let go": "released, returned",
    r"as ever": "as before, unchanged",
    r"is no (?:policy|prop|option|name|queue name)": "expected ..., got ...",
    r"cannot be made": "invalid",
    r"no sooner|to be had|comes? of it|makes good": "write what happens",
}
"""Patterns of whole words, without regard to case, and what to write."""
WORDS = {pattern: re.compile(rf"(?<![\w])(?:{pattern})(?![\w])", re.IGNORECASE | re.MULTILINE) for pattern in BANNED}


def files_of(*folders: str) -> list[Path]:
    """Return the Python files and pages in folders of the project, without this file."""
    files = [file for folder in folders for suffix in ("py", "md") for file in (HOME / folder).rglob(f"*.{suffix}")]
    return sorted(file for file in files if file != Path(__file__).resolve())


FOLDERS = ("dexpy", "docs", "tests", "benchmarks")
WRITTEN = [HOME / "README.md", HOME / "Makefile", HOME / "pyproject.toml", *files_of(*FOLDERS)]


@functools.cache
def words_of(text: str) -> str:
    """Return a text without quoting lines and names of indexes, with spaces for underscores in names."""
    unmarked = "\n".join("" if MARKER in line else line for line in text.splitlines())
    return re.sub(r"(?<=\w)_(?=\w)", " ", re.sub(r"\bix_\w+", "", unmarked))


def banned_lines(text: str, pattern: str) -> list[tuple[int, str]]:
    """Return the numbers and texts of the lines with a banned word."""
    words, lines = words_of(text), text.splitlines()
    numbers = {words.count("\n", 0, match.start()) for match in WORDS[pattern].finditer(words)}
    return [(number + 1, lines[number]) for number in sorted(numbers)]


def test_there_are_files_to_read() -> None:
    assert len(WRITTEN) > 450


@pytest.mark.parametrize("pattern", BANNED)
def test_no_file_uses_a_banned_word(pattern: str) -> None:
    problems = [
        f"{file.relative_to(HOME)}:{number}: {line.strip()}"
        for file in WRITTEN
        for number, line in banned_lines(file.read_text("utf-8"), pattern)
    ]
    assert not problems, f"write {BANNED[pattern]}:\n" + "\n".join(problems)


def test_a_banned_word_is_found_in_prose_and_in_names_and_a_quotation_is_exempt() -> None:
    assert banned_lines("Whoever reads it.", "whoever") == [(1, "Whoever reads it.")]
    assert banned_lines("def test_nobody_waits():", "nobody")
    assert banned_lines("order = nobody()  # style: quotation", "nobody") == []
