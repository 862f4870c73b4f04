"""Output of the command line: tables, and a status board of the runs in progress."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from typing import IO

import click


class StatusBoard:
    """Shows the progress of runs: one block that is redrawn on a terminal, elsewhere a line for each change.

    Args:
        titles: The titles of the runs.
        out: The stream to write to.
    """

    def __init__(self, titles: Sequence[str], out: IO[str]) -> None:
        self._titles = titles
        self._out = out
        self._redraws = out.isatty()
        self._began = time.monotonic()
        self._shown: list[str] = ["" for _ in titles]
        self._drawn = False

    def show(self, states: Sequence[str]) -> None:
        """Show the state of each run."""
        if list(states) == self._shown and not (self._redraws and not self._drawn):
            return
        elapsed_s = time.monotonic() - self._began
        width = max(map(len, self._titles))
        if self._redraws:
            redraw_prefix = f"\x1b[{len(self._titles)}F\x1b[J" if self._drawn else ""
            columns = shutil.get_terminal_size().columns - 1
            lines = [f"  {title:{width}}  {state}"[:columns] for title, state in zip(self._titles, states, strict=True)]
            click.echo(redraw_prefix + "\n".join(lines), file=self._out)
        else:
            for title, state, previous in zip(self._titles, states, self._shown, strict=True):
                if state != previous:
                    click.echo(f"  {elapsed_s:4.1f} s  {title:{width}}  {state}", file=self._out)
        self._out.flush()
        self._shown, self._drawn = list(states), True


def table(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text as a table; the first one is its header."""
    lines = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines
    )


def can_write(text: str, out: IO[str]) -> bool:
    """Return whether the encoding of a stream has all characters of a text."""
    try:
        text.encode(getattr(out, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
