"""The lines of keys in a TOML file: the same keys as tomllib's, each on the line where it stands."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from dexpy.configuration.toml_lines import Path, key_lines

TEXT = """\
a.b = 1.5 # [not.a.table]
"c d" = \"\"\"x
[y]
z = 1
\"\"\"
'e.f' = 'it = "s"'

[tool.dexpy]
workers = [
  { queues = ["a", "b"], threads = 5 }, # {

  { threads = 3, queues = [
      "]",
    ] },
]
[[x.w]]
q = 1
[x.w.sub]
r = { a = 1, b.c = 2 }
[[x.w]]
q = 2026-01-01 10:00:00
[[x.w.deep]]
s = '''
[[x.w]]'''
[[x.w.deep]]
"" = \"\"\"a"\"\"\"\"
last = "]" # end
"""


def paths_of(value: Any, path: Path = ()) -> set[Path]:
    """The paths of all keys and elements."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return {(*path, key) for key, _ in items}.union(*(paths_of(inner, (*path, key)) for key, inner in items))


@pytest.mark.parametrize("text", [TEXT, TEXT.replace("\n", "\r\n"), "", "a = []\n", "a = { }", "# only a comment"])
def test_every_key_and_element_has_a_line(text: str) -> None:
    assert set(key_lines(text)) == paths_of(tomllib.loads(text))


def test_a_key_is_on_the_line_where_it_is_written() -> None:
    lines = key_lines(TEXT)

    assert {path: lines[path] for path in [("a", "b"), ("c d",), ("e.f",), ("tool", "dexpy"), ("x", "w", 0, "q")]} == {
        ("a", "b"): 1, ("c d",): 2, ("e.f",): 6, ("tool", "dexpy"): 8, ("x", "w", 0, "q"): 17,
    }  # fmt: skip
    workers = ("tool", "dexpy", "workers")
    assert [lines[*workers, 0, "threads"], lines[*workers, 1], lines[*workers, 1, "queues", 0]] == [10, 12, 13]
    assert [lines["x", "w", 1, "q"], lines["x", "w", 1, "deep", 1], lines["x", "w", 1, "deep", 1, "last"]] == [
        21,
        25,
        27,
    ]
