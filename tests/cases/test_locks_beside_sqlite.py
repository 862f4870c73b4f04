"""Locks in files beside a SQLite file are not released by other code of the process."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from dexpy.database.engine import Database
from dexpy.liveness.worker_registry import SqliteLivenessLocks
from dexpy.locks import file_locks
from dexpy.locks.sqlite import FileLockBackend

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture(params=["open file descriptions", "whole files"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "whole files":
        # As on macOS and on file systems without locks of open file descriptions.
        monkeypatch.setattr(file_locks, "_ofd", None)
    return tmp_path


def another_process_sees(folder: Path) -> str:
    """Return the state of lock and worker as another process finds them."""
    answer, writer = os.pipe()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            lock = "lock taken" if FileLockBackend(str(folder / "app.db")).lock(KEY).wait(0.02) else "lock held"
            dead = SqliteLivenessLocks(Database(f"sqlite:///{folder / 'app.db'}")).find_dead(["host:1:w"])
            os.write(writer, f"{lock}, worker {'dead' if dead else 'alive'}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(answer) as stream:
        return stream.read()


@contextlib.contextmanager
def held_lock(folder: Path) -> Generator[None]:
    path = str(folder / "app.db")
    hold, liveness_locks = FileLockBackend(path).lock(KEY), SqliteLivenessLocks(Database(f"sqlite:///{path}"))
    assert hold.wait(0)
    liveness_locks.acquire("host:1:w")
    try:
        yield
    finally:
        hold.release()
        liveness_locks.release("host:1:w")


def _read_all(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            file.open("rb").close()


def _copy(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / f"{folder.name}-backup")


def _in_a_thread(folder: Path) -> None:
    thread = threading.Thread(target=_read_all, args=(folder,))
    thread.start()
    thread.join()


def _in_a_child(folder: Path) -> None:
    subprocess.run(["true"], close_fds=False, check=True)
    if (pid := os.fork()) == 0:
        _read_all(folder)
        os._exit(0)
    os.waitpid(pid, 0)


def _another_lock_is_released(folder: Path) -> None:
    other = FileLockBackend(str(folder / "app.db")).lock(OTHER)
    assert other.wait(0)
    other.release()


def _asked_after(folder: Path) -> None:
    assert SqliteLivenessLocks(Database(f"sqlite:///{folder / 'app.db'}")).find_dead(["host:1:w", "host:2:w"]) == {
        "host:2:w"
    }
    hold = FileLockBackend(str(folder / "app.db")).lock(KEY)
    assert not hold.wait(0)
    hold.release()


@pytest.mark.parametrize(
    "happens", [_read_all, _copy, _in_a_thread, _in_a_child, _another_lock_is_released, _asked_after]
)
def test_l4_a_lock_survives_other_uses_of_its_file_in_the_process(
    folder: Path, happens: Callable[[Path], None]
) -> None:
    with held_lock(folder):
        happens(folder)
        assert another_process_sees(folder) == "lock held, worker alive"
    assert another_process_sees(folder) == "lock taken, worker dead"


def test_l4_a_forked_child_keeps_no_lock_of_a_dead_parent(folder: Path) -> None:
    ready, writer = os.pipe()
    stay, leave = os.pipe()
    if (parent := os.fork()) == 0:
        FileLockBackend(str(folder / "app.db")).lock(KEY).wait(0)
        SqliteLivenessLocks(Database(f"sqlite:///{folder / 'app.db'}")).acquire("host:1:w")
        if os.fork() == 0:
            # This child outlives its parent until the test closes the pipe.
            os.close(leave)
            os.write(writer, b"x")
            os.read(stay, 1)
            os._exit(0)
        os.read(stay, 1)
        os._exit(0)
    assert os.read(ready, 1) == b"x"
    assert another_process_sees(folder) == "lock held, worker alive"
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    assert another_process_sees(folder) == "lock taken, worker dead"
    for end in (leave, stay, ready, writer):
        os.close(end)


def test_l4_a_child_that_leaves_the_block_of_a_lock_releases_nothing(folder: Path) -> None:
    with held_lock(folder):
        hold = FileLockBackend(str(folder / "app.db")).lock(OTHER)
        assert hold.wait(0)
        if (pid := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                hold.release()
                fresh = FileLockBackend(str(folder / "app.db")).lock(OTHER)
                os._exit(0 if not fresh.wait(0.05) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        hold.release()
        assert another_process_sees(folder) == "lock held, worker alive"


def test_l4_threads_of_one_process_exclude_each_other(folder: Path) -> None:
    keeper = FileLockBackend(str(folder / "app.db"))
    first, second = keeper.lock(KEY), keeper.lock(KEY)
    assert first.wait(0)
    assert not second.wait(0.02)
    first.release()
    assert second.wait(1)
    second.release()
    assert not file_locks._open, "all lock files are closed"


def test_l4_a_file_system_without_such_locks_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = file_locks.fcntl
    real = fcntl.fcntl

    def refuses(descriptor: int, command: int, *rest: object) -> object:
        if command == getattr(fcntl, "F_OFD_SETLK", None):
            raise OSError(22, "Invalid argument")
        return real(descriptor, command, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr(file_locks, "_ofd", 37)
    monkeypatch.setattr(file_locks, "_is_probed", False)
    monkeypatch.setattr(file_locks.fcntl, "fcntl", refuses)
    keeper = FileLockBackend(str(tmp_path / "app.db"))
    first, second = keeper.lock(KEY), keeper.lock(OTHER)
    assert first.wait(0)
    assert second.wait(0)
    assert sorted(file.name for file in tmp_path.glob("app.db-locks-*")) == [
        f"app.db-locks-{key[:15]}" for key in (KEY, OTHER)
    ]
    first.release()
    second.release()
