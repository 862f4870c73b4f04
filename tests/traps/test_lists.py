"""The list in the module docstring of each file of trap tests names all of its tests, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OVER_SERVERS = HERE.parent / "conformance" / "test_traps_on_servers.py"
LISTS = {"test_traps_of_ancestors.py": 20, "test_traps_of_peers.py": 15}
"""The number of traps of each file."""


def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def list_of(name: str) -> str:
    return ast.get_docstring(ast.parse((HERE / name).read_text())) or ""


@pytest.mark.parametrize("name", LISTS)
def test_the_list_of_each_file_names_exactly_its_tests(name: str) -> None:
    listed = set(re.findall(r"\btest_\w+\b(?!\.py)", list_of(name)))
    assert functions_of(HERE / name) <= listed
    assert listed <= functions_of(HERE / name) | functions_of(OVER_SERVERS)


def test_every_test_over_servers_is_on_one_of_the_lists() -> None:
    listed = {test_name for name in LISTS for test_name in re.findall(r"\btest_\w+\b(?!\.py)", list_of(name))}
    assert functions_of(OVER_SERVERS) <= listed


@pytest.mark.parametrize("name", LISTS)
def test_the_traps_are_numbered_in_order(name: str) -> None:
    numbers = re.findall(r"^ ?(\d+)\.", list_of(name), re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, LISTS[name] + 1))
