"""The lines of the keys of a TOML file, which `tomllib` does not return."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""The keys from the root of a file to a value; a number is an index of an array."""

_TOKEN = re.compile(
    r"""
    (?P<string>"{3}(?:\\.|[^\\])*?"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*')
    | (?P<comment>\#[^\n]*)
    | (?P<newline>\n)
    | (?P<space>[ \t\r]+)
    | (?P<mark>[\[\]{}=,.])
    | (?P<bare>[^\s\[\]{}=,.\#"']+)
    """,
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> Mapping[Path, int]:
    """Return the line of each key and each element of an array.

    Args:
        text: The text of a valid TOML file.

    Example:
        >>> key_lines("[relay]\\ninterval = '1s'\\n")
        {('relay',): 1, ('relay', 'interval'): 2}
    """
    return _Scanner(text).lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._tokens: list[tuple[str, str, int]] = []
        line = 1
        for match in _TOKEN.finditer(text):
            kind, token = str(match.lastgroup), match[0]
            if kind not in ("comment", "space"):
                self._tokens.append((kind, token, line))
            line += token.count("\n")
        self._next = 0
        self._last_elements: dict[Path, int] = {}
        """The index of the last element of each array of tables."""
        self._scan()

    def _scan(self) -> None:
        table: Path = ()
        while not self._is_at_end():
            if self._skip("\n"):
                continue
            if self._skip("["):
                table = self._header(is_array=self._skip("["))
            else:
                self._key_value(table)

    def _is_at_end(self) -> bool:
        return self._next >= len(self._tokens)

    def _peek(self) -> str:
        """Return the next mark or newline; "" for another token or at the end."""
        if self._is_at_end():
            return ""
        kind, token, _ = self._tokens[self._next]
        return token if kind in ("mark", "newline") else ""

    def _skip(self, mark: str) -> bool:
        is_next = self._peek() == mark
        self._next += is_next
        return is_next

    def _key(self, end: str) -> tuple[list[str], int]:
        """Read a dotted key and the mark after it; return its parts and its line."""
        line, text = self._tokens[self._next][2], ""
        while not self._is_at_end() and not self._skip(end):
            text += self._tokens[self._next][1]
            self._next += 1
        parts: list[str] = []
        value: object = tomllib.loads(f"{text} = 0")
        while isinstance(value, dict):
            ((part, value),) = value.items()  # pyright: ignore[reportUnknownVariableType]
            parts.append(str(part))  # pyright: ignore[reportUnknownArgumentType]
        return parts, line

    def _header(self, *, is_array: bool) -> Path:
        parts, line = self._key("]")
        path: Path = ()
        for part in parts[:-1]:
            path = self._element((*path, part), line)
        path = (*path, parts[-1])
        if is_array:
            self._skip("]")
            self._last_elements[path] = self._last_elements.get(path, -1) + 1
        return self._element(path, line)

    def _element(self, path: Path, line: int) -> Path:
        """Record a path; of an array of tables, return the path of its last element."""
        self.lines.setdefault(path, line)
        if path in self._last_elements:
            path = (*path, self._last_elements[path])
            self.lines.setdefault(path, line)
        return path

    def _key_value(self, table: Path) -> None:
        parts, line = self._key("=")
        for part in parts:
            table = (*table, part)
            self.lines.setdefault(table, line)
        self._value(table)

    def _value(self, path: Path) -> None:
        if self._skip("["):
            self._array(path)
        elif self._skip("{"):
            self._inline_table(path)
        else:
            while not self._is_at_end() and self._peek() not in (",", "]", "}", "\n"):
                self._next += 1

    def _array(self, path: Path) -> None:
        index = 0
        while not self._is_at_end() and not self._skip("]"):
            if self._skip("\n") or self._skip(","):
                continue
            self.lines[*path, index] = self._tokens[self._next][2]
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: Path) -> None:
        while not self._is_at_end() and not self._skip("}"):
            if self._skip("\n") or self._skip(","):
                continue
            self._key_value(path)
