"""The processes of a run: workers with their supervisors, and producers; dead ones are recorded and replaced."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from chaos.journal import DEATHS, FOLDER, Journal

ROOT = Path(__file__).parents[2]
STARTED = re.compile(r"worker\.started pid=(\d+)")
DIED = re.compile(r"worker\.died pid=(\d+) exit_status=(-?\d+)")
KILLED = -signal.SIGKILL
REPLACED_AFTER_S = 0.3
STOP_S = 40.0


@attrs.frozen
class Death:
    """A process that was killed, or frozen for a while.

    Attributes:
        place: The failpoint or kind of the kill, as in the table.
        pid: The pid of the process.
        at: The time, by this machine's clock.
        counts: Whether it counts as a kill, and is not part of another one.
        until: When a frozen process was resumed; None if it was killed or is still frozen.
    """

    place: str
    pid: int
    at: float
    counts: bool = True
    until: float | None = None


class Member:
    """One process that is restarted when it has ended.

    Args:
        name: The name of its log.
        command: The command that starts it.
        fleet: The fleet that it belongs to.
    """

    def __init__(self, name: str, command: Sequence[str], fleet: Fleet) -> None:
        self.name = name
        self._command = command
        self._fleet = fleet
        self._log = fleet.folder / f"{name}.log"
        self._log_offset = 0
        self._rest = ""
        self.ended_at = 0.0
        self.kind: str = name.partition("-")[0]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self._log_offset, self._rest = log.tell(), ""
            self.serving: dict[int, bool] = {}
            self.deaths = 0
            self.is_asked_to_stop = False
            return subprocess.Popen(
                self._command, cwd=self._fleet.folder, env=self._fleet.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def restart(self) -> None:
        """Start the process again after its end."""
        self.process = self._start()
        self.ended_at = 0.0

    def news(self) -> Iterator[str]:
        """Return the lines of its log since the last call."""
        with self._log.open("rb") as log:
            log.seek(self._log_offset)
            data = log.read()
        self._log_offset += len(data)
        *lines, self._rest = (self._rest + data.decode("utf-8", "replace")).split("\n")
        yield from lines

    @property
    def pid(self) -> int | None:
        """The pid of a supervisor's worker process, or of a producer; None while there is none."""
        if self.kind == "producer":
            return self.process.pid if self.process.poll() is None else None
        return next((pid for pid, serves in self.serving.items() if serves), None)


class Fleet:
    """All processes of a run.

    Args:
        folder: The folder of the run.
        environment: The environment of all processes.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment | {FOLDER: str(folder)}
        self.members: list[Member] = []
        self.deaths: list[Death] = []
        self.oddities: list[str] = []
        self.frozen: dict[int, float] = {}
        self.freezes: list[Death] = []
        self.deploys = 0
        self._dying: dict[int, Death] = {}
        self._journal = Journal(DEATHS, folder)
        self._journal_read = 0
        self._pids: set[int] = set()
        self._is_stopping = False

    def add_worker(self, arguments: Sequence[str], threads: int) -> None:
        """Start a worker of one process."""
        # The timeout is so short that running operations are released.
        dexpy = ["-p", "1", "-t", str(threads), "--shutdown-timeout", "0.1s"]
        command = [sys.executable, "-m", "chaos.worker", *arguments, "--", *dexpy]
        self._add("worker", command)

    def add_producer(self, arguments: Sequence[str]) -> None:
        """Start a producer."""
        self._add("producer", [sys.executable, "-m", "chaos.producer", *arguments])

    def _add(self, kind: str, command: Sequence[str]) -> None:
        number = sum(member.kind == kind for member in self.members)
        self.members.append(Member(f"{kind}-{number}", command, self))

    def of(self, kind: str) -> list[Member]:
        """Return the workers or the producers."""
        return [member for member in self.members if member.kind == kind]

    def ready(self) -> list[Member]:
        """Return the workers that are serving and not frozen."""
        serving = [worker for worker in self.of("worker") if worker.pid is not None and not worker.is_asked_to_stop]
        return [worker for worker in serving if worker.pid not in self.frozen]

    @property
    def kills(self) -> list[Death]:
        """Return the deaths, each kill once."""
        return [death for death in self.deaths if death.counts]

    def tend(self) -> None:
        """Record dead processes, and replace them."""
        self._hear_of_deaths()
        for member in self.members:
            self._look_at(member)

    def _hear_of_deaths(self) -> None:
        entries = self._journal.lines()
        for place, pid, at in entries[self._journal_read :]:
            self._dying[int(pid)] = Death(place, int(pid), float(at))
        self._journal_read = len(entries)
        for pid, death in list(self._dying.items()):
            if not is_alive(pid):
                self.deaths.append(death)
                del self._dying[pid]

    def _look_at(self, member: Member) -> None:
        if member.kind == "worker":
            for line in member.news():
                if match := STARTED.search(line):
                    member.serving[int(match[1])] = True
                    self._pids.add(int(match[1]))
                elif match := DIED.search(line):
                    member.serving[int(match[1])] = False
                    member.deaths += 1
                    self._check_end(int(match[1]), int(match[2]), member)
        status = member.process.poll()
        if status is None:
            return
        if not member.ended_at:
            member.ended_at = time.time()
            # SIGTERM ends the process itself if it arrives before the handler is installed.
            if status not in (0, -signal.SIGTERM) or not (self._is_stopping or member.is_asked_to_stop):
                self._check_end(member.process.pid, status, member)
        elif time.time() - member.ended_at > REPLACED_AFTER_S and not self._is_stopping:
            member.restart()

    def _check_end(self, pid: int, status: int, member: Member) -> None:
        """Check that an ended process was killed by this run."""
        self._hear_of_deaths()
        if status != KILLED:
            self.oddities.append(f"{member.name} (pid {pid}) ended by itself with status {status}")
        elif not any(death.pid == pid for death in self.deaths):
            self.oddities.append(f"{member.name} (pid {pid}) was killed by another process")

    def _kill(self, pid: int, place: str, counts: bool = True) -> None:
        self._dying[pid] = Death(place, pid, time.time(), counts)
        _signal(pid, signal.SIGKILL)

    def kill(self, member: Member, place: str) -> None:
        """Kill the worker process or the producer."""
        if (pid := member.pid) is not None:
            self._kill(pid, place)

    def kill_supervisor(self, worker: Member, *, alone: bool) -> None:
        """Kill a supervisor, with its process or alone; an orphaned process must end by itself."""
        pid = worker.pid
        self._kill(worker.process.pid, "supervisor, alone" if alone else "supervisor and process")
        if not alone and pid is not None:
            self._kill(pid, "supervisor and process", counts=False)

    def deploy(self, worker: Member) -> None:
        """Stop a worker gracefully; another one replaces it."""
        worker.is_asked_to_stop = True
        worker.process.terminate()
        self.deploys += 1

    def freeze(self, worker: Member) -> None:
        """Freeze the process of a worker with SIGSTOP."""
        if (pid := worker.pid) is not None and _signal(pid, signal.SIGSTOP):
            self.frozen[pid] = time.time()
            self.freezes.append(Death("frozen", pid, time.time()))

    def thaw(self, frozen_for_s: float = 0.0) -> None:
        """Resume the processes that were frozen for this time, in seconds."""
        for pid, since in list(self.frozen.items()):
            if time.time() - since >= frozen_for_s:
                _signal(pid, signal.SIGCONT)
                del self.frozen[pid]
                self.freezes = [
                    attrs.evolve(one, until=time.time()) if one.pid == pid and one.until is None else one
                    for one in self.freezes
                ]

    def end_producers(self) -> None:
        """Stop the producers after their current transactions."""
        self._is_stopping = True
        self._end(self.of("producer"))
        self._is_stopping = False
        self.members = self.of("worker")

    def end_workers(self) -> None:
        """Stop the workers gracefully."""
        self._is_stopping = True
        self._end(self.of("worker"))
        deadline = time.monotonic() + STOP_S
        # Orphans are not children of this process, so they are awaited by their pids.
        while remaining_pids := [pid for pid in self._pids if self._is_ours(pid)]:
            if time.monotonic() > deadline:
                self.oddities.append(f"processes {remaining_pids} have not ended within {STOP_S:g} s")
                break
            time.sleep(0.05)
        self._hear_of_deaths()

    def _end(self, members: Sequence[Member]) -> None:
        for member in members:
            if member.process.poll() is None:
                member.process.terminate()
        for member in members:
            try:
                member.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.oddities.append(f"{member.name} has not ended within {STOP_S:g} s")
            self._look_at(member)

    def close(self) -> None:
        """Kill all remaining processes."""
        self.thaw()
        for member in self.members:
            if member.process.poll() is None:
                os.killpg(member.process.pid, signal.SIGKILL)
                member.process.wait()
        for pid in self._pids:
            if self._is_ours(pid):
                _signal(pid, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        """Whether a pid is a living process of this run, and not another process with a reused pid."""
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"{FOLDER}={self.folder}".encode() in environment.split(b"\0") and is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
