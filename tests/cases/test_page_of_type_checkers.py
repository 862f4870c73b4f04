"""The code of the page on type checkers is checked by mypy and pyright in strict mode."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from dexpy import Operation
from dexpy.declaration.class_definition import RESERVED

HOME = Path(__file__).parents[2]
PAGE = (HOME / "docs/howto/type-checkers.md").read_text("utf-8")
CHECKED = HOME / "tests/typing/page_of_type_checkers.py"
"""The copy of the page's code, in the folder that both checkers read in `make check`."""


def lines_of(source: str) -> list[str]:
    statements = [ast.unparse(node) for node in ast.parse(source).body]
    return sorted(text for text in statements if not text.startswith(("import", "from")))


def test_p11_both_type_checkers_accept_the_code_of_the_page() -> None:
    code = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    assert lines_of(code) == lines_of(CHECKED.read_text("utf-8"))


@pytest.mark.parametrize("policy", ["retry_on", "discard_on", "rescue_from", "errors", "lock", "timeout", "record"])
def test_p11_the_page_shows_the_type_of_each_policy(policy: str) -> None:
    assert policy in RESERVED
    assert f"{policy}: ClassVar[" in PAGE
    assert policy in Operation.__annotations__
