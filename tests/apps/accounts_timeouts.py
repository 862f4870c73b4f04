"""Operations of the accounts application that time out, are cancelled or lose their worker."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from apps.accounts import AccountsOperation
from dexpy import Async, Retry, TimedOut

LONG_S = 60.0
"""Longer than the timeout of any test."""


class TimedOperation(AccountsOperation):
    """The base class; each operation logs its progress to a file."""

    diary: str

    def write(self, what: str) -> None:
        """Append a line to the file, which no rollback removes."""
        with Path(self.diary).open("a") as file:
            file.write(f"{what}\n")

    def entries(self) -> list[str]:
        """Return the lines of the file."""
        return Path(self.diary).read_text().splitlines() if Path(self.diary).exists() else []


class SlowReport(TimedOperation):
    """Exceeds its timeout."""

    timeout = 0.4

    def perform(self) -> None:
        self.note("timed out")
        try:
            until = time.monotonic() + LONG_S
            while time.monotonic() < until:
                time.sleep(0.01)
        finally:
            self.write("cleaned up")


class SlowAsyncReport(TimedOperation):
    """Exceeds its timeout in a coroutine."""

    timeout = 0.4

    async def perform(self) -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            await asyncio.sleep(0.01)
            self.write("cleaned up")


class SlowFirstReport(TimedOperation):
    """Exceeds its timeout in the first attempt only."""

    timeout = 0.4
    retry_on = (Retry(TimedOut, attempts=2, wait=0.1),)

    def perform(self) -> int:
        self.write("ran")
        while len(self.entries()) == 1:
            time.sleep(0.01)
        self.note("in time")
        return len(self.entries())


class UninterruptibleReport(TimedOperation):
    """Blocks in C code, where no exception can interrupt it."""

    timeout = 0.4

    def perform(self) -> None:
        self.write("stuck")
        time.sleep(LONG_S)


class CancellableReport(TimedOperation):
    """Runs until it is cancelled."""

    def perform(self) -> None:
        self.write("running")
        try:
            while True:
                time.sleep(0.01)
                self.check_cancelled()
        finally:
            self.write("cleaned up")


class CancellableAsyncReport(TimedOperation):
    """Awaits for a long time, until it is cancelled."""

    async def perform(self) -> None:
        self.write("running")
        try:
            await asyncio.sleep(LONG_S)
        finally:
            self.write("cleaned up")


class ReportThatIgnoresCancellation(TimedOperation):
    """Swallows its cancellation, so that only the check at the commit detects it."""

    def perform(self) -> None:
        self.write("running")
        is_cancelled = False
        while not is_cancelled:
            time.sleep(0.01)
            try:
                self.check_cancelled()
            except BaseException:
                is_cancelled = True
        self.write("ignored cancellation")


class ExpiringReport(TimedOperation):
    """Expires a short time after the enqueue."""

    async_ = Async(queue="promises", expires_in=1.5)

    def perform(self) -> None:
        self.write("ran")


class KillWorkerOnce(TimedOperation):
    """Kills its worker in the first attempt."""

    def perform(self) -> int:
        self.write("ran")
        if len(self.entries()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        self.note("survived")
        return len(self.entries())


class KillWorkerWithoutRetry(KillWorkerOnce):
    """Kills its worker, and must not be repeated after a lost worker."""

    max_lost = 0
