"""Both type checkers infer the model of a reference that a base class declares."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
SHOP = """
from __future__ import annotations
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from dexpy import Operation, OptRef, Ref, Refs, prop

class Model(DeclarativeBase): ...

class User(Model):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]

class UserOperation(Operation):
    user: Ref[User]
    referrer: OptRef[User] = prop(default=None)
    friends: Refs[User] = prop(factory=list)

class Greet(UserOperation):
    def perform(self) -> str:
        return self.user.name

class GreetAll(Greet):
    def perform(self) -> str:
        names = [self.user.name, *(friend.name for friend in self.friends)]
        return ", ".join([*names, self.referrer.name if self.referrer else ""])

GreetAll(user=1, referrer=2, friends=[3]).call().upper()
GreetAll(user=1).user = 2
GreetAll(user=1).friends = [2]
"""
"""A module of an application; only the assignments of its last two lines are errors."""
LENGTH = len(SHOP.splitlines())


def lines_refused_by_mypy(shop: Path) -> list[int]:
    output = run("mypy", "--strict", "--output=json", str(shop))
    documents = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [one["line"] for one in documents if one["severity"] == "error"]


def lines_refused_by_pyright(shop: Path) -> list[int]:
    if shutil.which("node") is None and not os.environ.get("CI"):
        pytest.skip("pyright runs on node, which is not on PATH; with CI set this is a failure")
    site = shop.parent / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    (site / "installed.pth").write_text(f"{HOME}\n{sysconfig.get_path('purelib')}\n")
    settings = {"include": [shop.name], "typeCheckingMode": "strict", "venvPath": str(shop.parent), "venv": "venv"}
    (shop.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    document = json.loads(run("pyright", "--outputjson", "--project", str(shop.parent)))["generalDiagnostics"]
    return [one["range"]["start"]["line"] + 1 for one in document if one["severity"] == "error"]


def run(checker: str, *arguments: str) -> str:
    command = [sys.executable, "-m", checker, *arguments]
    process = subprocess.run(command, cwd=HOME, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert process.returncode in (0, 1), f"{checker} did not work: {process.stdout}{process.stderr}"
    return process.stdout


@pytest.mark.parametrize("lines_refused", [lines_refused_by_mypy, lines_refused_by_pyright], ids=["mypy", "pyright"])
def test_p10_a_reference_of_a_base_class_is_the_row_in_its_subclasses(
    lines_refused: Callable[[Path], list[int]], tmp_path: Path
) -> None:
    shop = tmp_path / "users.py"
    shop.write_text(SHOP)
    assert lines_refused(shop) == [LENGTH - 1, LENGTH]
