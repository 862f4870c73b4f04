"""Files that dexpy creates are accessible to their owner only, and links beside a database are not followed."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

import dexpy
from dexpy import ConfigurationError, Lock, Operation
from dexpy.database.engine import Database
from dexpy.errors import DatabaseUnavailable, RecordNotFound
from dexpy.liveness.worker_registry import SqliteLivenessLocks
from dexpy.runtime import install


class CountStock(Operation, name="private.count_stock"):
    lock = Lock(template="stock")
    transaction = False

    def perform(self) -> None: ...


@pytest.fixture(autouse=True)
def readable_for_all() -> Generator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {file.name: oct(stat.S_IMODE(file.lstat().st_mode)) for file in folder.rglob("*")}


def test_s7_every_file_of_a_new_database_is_accessible_to_its_owner_only(tmp_path: Path) -> None:
    CountStock().async_().call()
    CountStock().call()
    runtime = dexpy.current_runtime()
    liveness_locks = SqliteLivenessLocks(runtime.store.database)
    liveness_locks.acquire("worker-1")
    try:
        file_modes = modes(tmp_path)
    finally:
        liveness_locks.release("worker-1")
        runtime.close()
        install(None)

    folders = {name for name in file_modes if name.endswith("-workers")}
    assert {"dexpy.db", "dexpy.db-wal", "dexpy.db-shm"} <= set(file_modes)
    assert {file_modes[name] for name in folders} == {"0o700"}
    assert {mode for name, mode in file_modes.items() if name not in folders} == {"0o600"}


def test_s7_an_existing_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    path.touch(0o640)
    database = Database(f"sqlite:///{path}")
    database.connect().close()
    database.dispose()

    assert modes(tmp_path)["shared.db"] == "0o640"


def test_s7_a_database_in_a_missing_folder_is_refused_with_the_error_of_sqlite(tmp_path: Path) -> None:
    with pytest.raises(dexpy.errors.DatabaseUnavailable, match="unable to open database file"):
        Database(f"sqlite:///{tmp_path}/nowhere/x.db").connect()


def test_s7_a_link_in_place_of_a_lock_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "dexpy.db-locks").symlink_to(target)
    dexpy.configure(database=f"sqlite:///{tmp_path}/dexpy.db")

    with pytest.raises(ConfigurationError, match="expected a regular file or folder, got a symbolic link"):
        CountStock().call()
    assert not target.exists()


def test_s7_a_link_in_place_of_the_folder_of_workers_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "dexpy.db-workers").symlink_to(target)

    with pytest.raises(ConfigurationError, match="expected a regular file or folder, got a symbolic link"):
        SqliteLivenessLocks(Database(f"sqlite:///{tmp_path}/dexpy.db")).acquire("worker-1")
    assert list(target.iterdir()) == []


def test_s7_a_link_in_place_of_a_workers_file_is_not_followed(tmp_path: Path) -> None:
    liveness_locks = SqliteLivenessLocks(Database(f"sqlite:///{tmp_path}/dexpy.db"))
    (tmp_path / "dexpy.db-workers").mkdir()
    (tmp_path / "dexpy.db-workers" / "worker-1").symlink_to(tmp_path / "target")

    with pytest.raises(ConfigurationError, match="expected a regular file or folder, got a symbolic link"):
        liveness_locks.acquire("worker-1")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("is_replaced", [True, False])
def test_s7_a_process_reports_that_its_file_was_deleted_or_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_replaced: bool
) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/app.db")
    heartbeat = runtime.services.heartbeat
    assert heartbeat is not None
    assert heartbeat.start()
    heartbeat._current._renew()
    heartbeat._current._renew()
    assert "database.file_replaced" not in caplog.text
    for file in ("app.db", "app.db-wal", "app.db-shm"):
        (tmp_path / file).unlink(missing_ok=True)
    if is_replaced:
        (tmp_path / "app.db").touch()
    expected = (OperationalError, "no such table") if is_replaced else (DatabaseUnavailable, "the file was deleted")
    with pytest.raises(expected[0], match=expected[1]):
        heartbeat._current._renew()

    assert f"database.file_replaced path={tmp_path}/app.db" in caplog.text
    install(None)


class Small(Operation, name="files.small"):
    def perform(self) -> int:
        return 1


FILES = ("app.db", "app.db-wal", "app.db-shm")


@pytest.mark.parametrize("is_idle", [True, False])
def test_s7_a_deleted_file_is_not_written(tmp_path: Path, is_idle: bool) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/app.db")
    ticket = Small().async_().call()
    if not is_idle:
        runtime.store.database.engine.dispose()
    for file in FILES:
        (tmp_path / file).unlink(missing_ok=True)
    for use in (lambda: Small().async_().call(), ticket.reload):
        with pytest.raises(DatabaseUnavailable, match="the file was deleted while this process had it open"):
            use()

    assert not (tmp_path / "app.db").exists()
    install(None)
    runtime.close()


def test_s7_a_process_continues_with_a_file_that_replaced_another(tmp_path: Path) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/app.db")
    ticket = Small().async_().call()
    with sqlite3.connect(tmp_path / "app.db") as old, sqlite3.connect(tmp_path / "copy.db") as new:
        old.backup(new)
    old.close()
    new.close()
    second = Small().async_().call()
    for file in FILES:
        (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / "copy.db").rename(tmp_path / "app.db")

    assert ticket.reload().status == "pending"
    with pytest.raises(RecordNotFound):
        second.reload()
    assert Small().async_().call().status == "pending"
    install(None)
    runtime.close()


def test_s7_a_worker_whose_file_was_deleted_ends_with_one_error_and_is_restarted(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "kiosk.py").write_text(
        "import dexpy\n"
        f'dexpy.configure(database="sqlite:///{tmp_path}/app.db")\n'
        'class Small(dexpy.Operation, name="files.kiosk"):\n'
        "    def perform(self) -> int:\n        return 1\n"
    )
    send = [sys.executable, "-c", "import kiosk; print(kiosk.Small().async_().call().wait(30))"]
    log = tmp_path / "log"
    command = [sys.executable, "-m", "dexpy", "worker", "kiosk", "-p", "1", "-t", "1", "--shutdown-timeout", "2s"]
    with log.open("w") as file, subprocess.Popen(command, env=environment, stderr=file) as worker:
        try:
            assert "Ok" in subprocess.check_output(send, env=environment, text=True)
            for name in FILES:
                (tmp_path / name).unlink(missing_ok=True)
            deadline = time.monotonic() + 30
            while log.read_text().count("worker.started") < 2:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            assert "Ok" in subprocess.check_output(send, env=environment, text=True)
        finally:
            worker.terminate()

    lines = [line for line in log.read_text().splitlines() if " ERROR " in line]
    assert len(lines) == 1, log.read_text()
    assert f"database.file_replaced path={tmp_path}/app.db" in lines[0]
