"""The lists of failpoints and the failpoints in the code are the same, and a test can arm no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import kill_orders
from harness import die_at_failpoints
from harness.failpoint_names import APPLICATION_FAILPOINTS

from dexpy.foundation.failpoints import FAILPOINTS

TESTS = Path(__file__).parents[1]
PLACEHOLDER = "0"
"""In place of a value in an f-string."""
COMMITS_OF_THE_RELAY = ("recovery", "expiry", "publish")
"""The actions of `update_each`, which passes ``before_{action}_commit``."""


def names_in(folder: Path) -> Iterator[str]:
    """The names that the files of a folder pass to ``failpoint``."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                (name,) = node.args
                match name:
                    case ast.Constant(value=str(text)):
                        yield text
                    case ast.JoinedStr(values=parts):
                        yield "".join(
                            str(part.value) if isinstance(part, ast.Constant) else PLACEHOLDER for part in parts
                        )
                    case _:
                        raise AssertionError(f"{file}: failpoint() takes a literal, got {ast.dump(name)}")


def test_the_list_has_exactly_the_failpoints_of_dexpy() -> None:
    used = set(names_in(TESTS.parent / "dexpy"))
    assert f"before_{PLACEHOLDER}_commit" in used, "the commits of the relay"
    used.remove(f"before_{PLACEHOLDER}_commit")
    assert used | {f"before_{action}_commit" for action in COMMITS_OF_THE_RELAY} == set(FAILPOINTS)


def test_every_action_of_the_relay_has_its_failpoint() -> None:
    maintenance = "".join(file.read_text() for file in (TESTS.parent / "dexpy" / "maintenance").glob("*.py"))
    assert set(re.findall(r'update_each\(\s*self\._store, "(\w+)"', maintenance)) == set(COMMITS_OF_THE_RELAY)


def test_the_patterns_match_exactly_the_failpoints_of_the_example_applications() -> None:
    used = {name for folder in ("apps", "chaos") for name in names_in(TESTS / folder)}
    matched = {name: [pattern for pattern in APPLICATION_FAILPOINTS if re.fullmatch(pattern, name)] for name in used}
    assert all(len(patterns) == 1 for patterns in matched.values()), matched
    assert {pattern for patterns in matched.values() for pattern in patterns} == set(APPLICATION_FAILPOINTS)
    assert not used & set(FAILPOINTS)


def test_a_test_that_arms_an_unknown_failpoint_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown names \['before_comit'\]"):
        die_at_failpoints.FailpointActions(tmp_path, "after_claim,before_comit=wait")
    with pytest.raises(ValueError, match=r"unknown names \['before_comit'\]"):
        kill_orders.FailpointActions(tmp_path, {"after_claim": 0.5, "before_comit": 0.5})
