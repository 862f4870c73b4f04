"""Operations of the shop that somebody or something ends: the clock, a person, the death of their worker."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from apps.accounts import AccountsOperation
from dexpy import Async, Retry, TimedOut

LONG_S = 60.0
"""Longer than any test waits."""


class LimitedOperation(AccountsOperation):
    """The base of these; each says in a file what it comes to."""

    diary: str

    def write(self, what: str) -> None:
        """Outside of every transaction, for the test to read."""
        with Path(self.diary).open("a") as file:
            file.write(f"{what}\n")

    def entries(self) -> list[str]:
        """What was written so far."""
        return Path(self.diary).read_text().splitlines() if Path(self.diary).exists() else []


class Dawdle(LimitedOperation):
    """Takes too long."""

    timeout = 0.4

    def perform(self) -> None:
        self.note("dawdled")
        try:
            until = time.monotonic() + LONG_S
            while time.monotonic() < until:
                time.sleep(0.01)
        finally:
            self.write("tidied up")


class DawdleAsync(LimitedOperation):
    """Takes too long in a coroutine."""

    timeout = 0.4

    async def perform(self) -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            await asyncio.sleep(0.01)
            self.write("tidied up")


class DawdleOnce(LimitedOperation):
    """Takes too long the first time."""

    timeout = 0.4
    retry_on = (Retry(TimedOut, attempts=2, wait=0.1),)

    def perform(self) -> int:
        self.write("ran")
        while len(self.entries()) == 1:
            time.sleep(0.01)
        self.note("in time")
        return len(self.entries())


class Stick(LimitedOperation):
    """Waits where nothing gets in."""

    timeout = 0.4

    def perform(self) -> None:
        self.write("stuck")
        time.sleep(LONG_S)


class Obey(LimitedOperation):
    """Works on until it is called off."""

    def perform(self) -> None:
        self.write("running")
        try:
            while True:
                time.sleep(0.01)
                self.check_cancelled()
        finally:
            self.write("tidied up")


class ObeyAsync(LimitedOperation):
    """Waits for something that never comes, and may be called off."""

    async def perform(self) -> None:
        self.write("running")
        try:
            await asyncio.sleep(LONG_S)
        finally:
            self.write("tidied up")


class Ignore(LimitedOperation):
    """Takes no notice when it is told, and would be done if its commit did not look."""

    def perform(self) -> None:
        self.write("running")
        is_told = False
        while not is_told:
            time.sleep(0.01)
            try:
                self.check_cancelled()
            except BaseException:
                is_told = True
        self.write("ignored it")


class Promise(LimitedOperation):
    """Good for a while only."""

    async_ = Async(queue="promises", expires_in=1.5)

    def perform(self) -> None:
        self.write("ran")


class KillOnce(LimitedOperation):
    """Takes its worker along, the first time."""

    def perform(self) -> int:
        self.write("ran")
        if len(self.entries()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.note("survived")
        return len(self.entries())


class KillAndEnd(KillOnce):
    """The same, with something outside that must not happen twice."""

    on_lost = "fail"
