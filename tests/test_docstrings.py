"""Docstrings describe only arguments that their function has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "dexpy"


def stale_arguments(source: str) -> Iterator[str]:
    """Return the names under ``Args:`` that are not arguments; functions with ``**`` arguments may describe any."""
    for node in ast.walk(ast.parse(source)):
        functions = [node] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else []
        if isinstance(node, ast.ClassDef):
            functions = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        if not functions or functions[0].args.kwarg is not None:
            continue
        signature = functions[0].args
        parameters = {one.arg for one in (*signature.posonlyargs, *signature.args, *signature.kwonlyargs)}
        parameters |= {signature.vararg.arg} if signature.vararg is not None else set()
        text = ast.get_docstring(node) if isinstance(node, ast.ClassDef) else ast.get_docstring(functions[0])
        section = re.search(r"^Args:\n((?: {4}.*\n|\n)+)", f"{text or ''}\n", re.MULTILINE)
        named = re.findall(r"^ {4}(\w+): ", section[1], re.MULTILINE) if section is not None else []
        yield from (f"{node.name}: {name}" for name in named if name not in parameters)


def test_docstrings_name_existing_arguments() -> None:
    stale = {
        str(file.relative_to(PACKAGE)): list(stale_arguments(file.read_text("utf-8"))) for file in PACKAGE.rglob("*.py")
    }
    assert {file: names for file, names in stale.items() if names} == {}


def test_a_documented_argument_that_does_not_exist_is_found() -> None:
    source = 'def publish(message: str) -> None:\n    """Publish.\n\n    Args:\n        payload: What.\n    """\n'
    assert list(stale_arguments(source)) == ["publish: payload"]
