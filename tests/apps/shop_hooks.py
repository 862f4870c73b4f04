"""An application whose hooks write each call to a file."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import dexpy
from apps.shop import create_tables
from dexpy import Error, Operation, RunEnd

__all__ = ["Pay", "create_tables", "noted"]

FILE = "HOOK_CALLS"


def noted(folder: Path) -> list[str]:
    """Return the calls that hooks have noted: hook, operation, failure, number of the call."""
    file = folder / FILE
    return file.read_text().splitlines() if file.exists() else []


def note(hook: str, end: RunEnd) -> None:
    with open(os.environ[FILE], "a") as file:
        file.write(f"{hook} {end.operation} {end.failure} {end.call}\n")


def on_failure(end: RunEnd) -> None:
    note("on_failure", end)
    if end.error == "exits":
        sys.exit(3)
    if end.error == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if end.error == "raises":
        raise RuntimeError("card 4111 1111 1111 1111")
    if end.error == "recurses":
        on_failure(end)


if FILE in os.environ:
    dexpy.configure(on_failure=on_failure)


class Pay(Operation, name="hooks.pay"):
    """Fails with an error code, or does not."""

    code: str = ""

    def perform(self) -> str:
        if self.code:
            raise Error(self.code)
        return "paid"
