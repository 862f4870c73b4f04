"""Each equivalent on the pages "From ..." is proven by a test, which `coming_from.toml` names."""

from __future__ import annotations

import ast
import functools
import tomllib
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
PAGES = TESTS.parent / "docs" / "explanation"
EVIDENCE: dict[str, dict[str, Any]] = tomllib.loads((TESTS / "coming_from.toml").read_text("utf-8"))
ROWS_WITHOUT_CODE = {"advice", "installing", "design", "naming", "one broker"}
"""Why a row needs no test: it advises, says how to install or name something, or that there is nothing to choose."""


def left_cells(page: str) -> list[str]:
    """Return the left cells of the tables of a page, without the heads of the tables."""
    lines = (PAGES / page).read_text("utf-8").splitlines()
    cells: list[str] = []
    for number, line in enumerate(lines):
        is_head = number + 1 < len(lines) and lines[number + 1].startswith("|---")
        if line.startswith("| ") and not is_head:
            cells.append(line.split(" | ")[0].removeprefix("| "))
    return cells


@functools.cache
def names_of(file: str) -> set[str]:
    folder, _, name = file.rpartition("/")
    tree = ast.parse((TESTS / folder / f"test_{name}.py").read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_page_for_users_of_another_framework_has_its_evidence() -> None:
    assert sorted(EVIDENCE) == sorted(path.name for path in PAGES.glob("from-*.md"))


@pytest.mark.parametrize("page", EVIDENCE)
def test_each_row_of_a_page_names_the_tests_of_its_equivalent(page: str) -> None:
    cells = left_cells(page)
    unnamed = [cell for cell in cells if not any(cell.startswith(key) for key in EVIDENCE[page])]
    unused = [key for key in EVIDENCE[page] if not any(cell.startswith(key) for cell in cells)]
    assert (unnamed, unused) == ([], [])


@pytest.mark.parametrize("page", EVIDENCE)
def test_the_named_tests_exist(page: str) -> None:
    for key, tests in EVIDENCE[page].items():
        if isinstance(tests, str):
            assert tests in ROWS_WITHOUT_CODE, key
            continue
        assert tests, key
        for test in tests:
            file, _, name = test.partition("::")
            assert f"test_{name}" in names_of(file), (key, test)
