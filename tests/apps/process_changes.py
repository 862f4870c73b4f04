"""An application whose import changes signal handlers, the signal mask and logging."""

import concurrent.futures
import faulthandler
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

from dexpy import Operation

if sys.argv[1:2] == ["worker"]:
    logging.basicConfig(level=logging.DEBUG, format="MINE %(levelname)s %(message)s", filename="mine.log")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: print("tidy up", flush=True))
    faulthandler.register(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    socket.setdefaulttimeout(5.0)
    os.chdir("/")
left_processes: list[object] = []


def run_forever() -> None:
    while True:
        time.sleep(0.2)


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run_forever()


class Terminated(Operation):
    """Starts a process, terminates it at once, and returns its exit status."""

    method: str

    def perform(self) -> int | None:
        child = multiprocessing.get_context(self.method).Process(target=time.sleep, args=(60,))  # type: ignore[attr-defined]
        child.start()
        child.terminate()
        child.join(10)
        status: int | None = child.exitcode
        child.kill()
        child.join()
        return status


class Signalled(Operation):
    """Starts a program, sends it a signal, and returns its exit status."""

    number: int

    def perform(self) -> int | None:
        with subprocess.Popen(["sleep", "60"]) as program:
            program.send_signal(self.number)
            try:
                return program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                return None


class Boom(Operation):
    def perform(self) -> int:
        raise ValueError("boom")


class LeavesBehind(Operation):
    """Starts processes that outlive the run: a daemon, a plain one, one that ignores SIGTERM, and a pool."""

    def perform(self) -> list[int | None]:
        children = [
            multiprocessing.Process(target=run_forever, daemon=True),
            multiprocessing.Process(target=run_forever),
            multiprocessing.Process(target=ignore_sigterm, daemon=True),
        ]
        for child in children:
            child.start()
        pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
        left_processes.extend([*children, pool])
        return [child.pid for child in children] + [pool.submit(os.getpid).result(10)]


class Slow(Operation):
    """Runs until a file exists."""

    file: str

    def perform(self) -> int:
        while not os.path.exists(self.file):
            time.sleep(0.1)
        return 1
