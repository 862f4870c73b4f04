"""A fork inside a run: the parent continues; the child writes nothing and exits after the application's code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import database

TESTS = Path(__file__).parents[1]
CASES = (
    "Forks", "InTransaction", "InBlock", "InStep", "InHooks", "InCoroutine", "InCoroutineThatAwaits", "InTask",
    "InSession", "InThread", "Inside", "Asks", "Calls", "InSavepoint", "Holds",
)  # fmt: skip
STATUSES = {"return": {0}, "raise": {1}, "exit": {3}, "os_exit": {4}}
"""The exit statuses of a child, by the way in which it leaves the application's code."""
OTHERS = {"InTask": {0}, "InThread": {0}, "InSavepoint": {1}}
"""Further statuses: the child ends with its loop or thread, or because it cannot end the savepoint of its parent."""


def forked(url: str, folder: Path, environment: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Run the program, and return the reports of its forks by case."""
    command = [sys.executable, str(TESTS / "apps" / "forking.py"), url]
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    reports: dict[str, list[dict[str, Any]]] = {}
    for line in ended.stdout.splitlines():
        document = json.loads(line)
        reports.setdefault(document["case"], []).append(document)
    return reports


def check(reports: list[dict[str, Any]], case: str) -> None:
    assert len(reports) == 6, (
        "two reports of calls in place, four of background runs, and none of a child that returned"
    )
    assert len({one["pid"] for one in reports}) == 1
    for one in reports:
        assert one["result"] == "parent", one
        assert one["written"] == (2 if case == "Inside" else 1), one
        if case == "Calls":
            assert one["children"] == []
        elif case in ("Asks", "Holds"):
            assert one["children"] == [1], "the child cannot use a session of its parent"
        else:
            assert set(one["children"]) <= STATUSES[one["how"]] | OTHERS.get(case, set()), one
            assert one["children"]


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The reports of one run of the program on a SQLite file."""
    folder = tmp_path_factory.mktemp("forks")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEXPY_")}
    return forked(f"sqlite:///{folder}/a.db", folder, environment | {"PYTHONPATH": str(TESTS.parent)})


@pytest.mark.parametrize("case", CASES)
def test_n11_a_forked_child_writes_nothing_and_its_parent_continues(
    on_sqlite: dict[str, list[dict[str, Any]]], case: str
) -> None:
    check(on_sqlite[case], case)


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_n11_a_forked_child_sends_nothing_over_its_parents_connection(
    kind: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    with database(kind, tmp_path) as url:
        reports = forked(url, tmp_path, environment)
    for case in CASES:
        check(reports[case], case)
