"""Applications that change the process of their worker: signals, child processes, logging, modules that exit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from apps import process_changes
from click.testing import CliRunner
from harness.workers import SECRET_FREE, Deployment, Worker, eventually, is_alive

import dexpy
from dexpy.cli.main import main
from dexpy.runtime import Runtime, install
from dexpy.worker.importing import StartupError, import_modules

WAIT_S = 30.0


class Served:
    """A worker of `apps.process_changes`, in its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deployment = Deployment(folder)
        options = ["-p", "1", "-t", "1", "--shutdown-timeout", "2s"]
        command = [sys.executable, "-m", "dexpy", "worker", "apps.process_changes", *options]
        self.worker: Worker = self.deployment.serve(command)
        eventually(lambda: "worker.started" in self.log(), "the worker starts", WAIT_S, self.worker.output)
        self.runtime: Runtime = dexpy.configure(database=self.deployment.url)

    def log(self) -> str:
        """Return the content of the application's log."""
        file = self.folder / "mine.log"
        return file.read_text() if file.exists() else ""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """One worker for all tests of the file; one of them stops it."""
    before = install(None)
    server = Served(tmp_path_factory.mktemp("process_changes"))
    yield server
    server.deployment.close()
    server.runtime.close()
    install(before)


@pytest.fixture
def runtime(served: Served) -> Generator[Runtime]:
    """Configure this process with the worker's database."""
    before = install(served.runtime)
    yield served.runtime
    install(before)


# ---------------------------------------------------------------------------------------- child processes


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_n7_a_process_that_a_run_starts_can_be_terminated(runtime: Runtime, method: str) -> None:
    assert process_changes.Terminated(method=method).async_().call().result(WAIT_S) == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGPIPE], ids=lambda number: number.name)
def test_n7_a_program_that_a_run_starts_has_the_usual_signals(runtime: Runtime, number: signal.Signals) -> None:
    assert process_changes.Signalled(number=int(number)).async_().call().result(WAIT_S) == -number


# ---------------------------------------------------------------------------------------- logs


def test_q3_a_worker_uses_the_configuration_of_its_application(served: Served, runtime: Runtime) -> None:
    run = process_changes.Boom().async_().call()
    with pytest.raises(dexpy.OperationFailed):
        run.result(WAIT_S)

    def crashed() -> list[str]:
        return [line for line in served.log().splitlines() if run.id in line and " run.failed " in line]

    lines = eventually(crashed, "the crash is in the log of the application")
    assert len(lines) == 1, lines
    assert lines[0].startswith("MINE ERROR run.failed operation=apps.process_changes.Boom")
    assert "run.failed" not in served.worker.output()


# ---------------------------------------------------------------------------------------- shutdown


def test_n9_a_worker_stops_in_time_although_its_modules_changed_the_signal_handlers(
    served: Served, runtime: Runtime
) -> None:
    child_pids = process_changes.LeavesBehind().async_().call().result(WAIT_S)
    may_end = served.folder / "may_end"
    runs = [process_changes.Slow(file=str(may_end)).async_().call().id for _ in range(4)]
    served.deployment.wait_for_status(runs[0], "running")
    family = served.worker.processes()

    os.kill(int(served.deployment.row(runs[0])["claimed_by"].split(":")[1]), signal.SIGINT)
    served.worker.signal(signal.SIGTERM)
    eventually(lambda: "worker.draining" in served.log(), "the process has begun to stop", WAIT_S, served.log)
    may_end.touch()

    # Two seconds for the run, and five to end the processes that runs have left.
    assert served.worker.ended(within_s=2 + 5) == 0, served.worker.output()
    assert "worker.killed" not in served.worker.output()
    assert served.deployment.row(runs[0])["status"] in ("done", "pending")
    assert [served.deployment.status(run) for run in runs[1:]] == ["pending"] * 3, "no other run was started"
    assert len(child_pids) == 4
    eventually(lambda: not any(map(is_alive, {*family, *child_pids})), "the processes that runs have left end too")


def test_n9_a_relay_stops_although_its_module_changed_the_signal_handlers(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    (tmp_path / "taker.py").write_text(
        "import signal\n"
        "for number in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})\n"
    )
    relay = deployment.serve([sys.executable, "-m", "dexpy", "relay", "taker"])
    try:
        eventually(lambda: "The relay is running" in relay.output(), "the relay runs", WAIT_S, relay.output)
        relay.signal(signal.SIGTERM)
        assert relay.ended() == 0
    finally:
        deployment.close()


def test_n9_plain_dramatiq_stops_although_a_module_changed_the_signal_handlers(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    (tmp_path / "taker.py").write_text(
        "import multiprocessing, signal, time\n"
        "from dexpy import Operation\n"
        "if multiprocessing.parent_process() is not None:\n"
        "    signal.signal(signal.SIGTERM, lambda *_: print('tidy up'))\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "class Terminated(Operation):\n"
        "    def perform(self) -> int | None:\n"
        "        child = multiprocessing.Process(target=time.sleep, args=(60,))\n"
        "        child.start()\n"
        "        child.terminate()\n"
        "        child.join(10)\n"
        "        status = child.exitcode\n"
        "        child.kill()\n"
        "        return status\n"
    )
    command = [sys.executable, "-m", "dramatiq", "dexpy.broker:from_settings", "taker", "-p", "1", "-t", "1"]
    worker = deployment.serve(command)
    code = "import taker; print(taker.Terminated().async_().call().result(30))"
    try:
        completed = deployment.run([sys.executable, "-c", code])
        worker.signal(signal.SIGTERM)
        assert worker.ended() == 0, worker.output()
    finally:
        deployment.close()

    assert completed.stdout.strip() == str(-signal.SIGTERM), completed.stderr


def test_q14_a_process_that_exits_after_an_error_message_is_one_error(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    (tmp_path / "stuck.py").write_text(
        "import time\n"
        "from dexpy import Operation\n"
        "from dexpy.worker import watchdog\n"
        "watchdog.HARD_AFTER_S = 0.2\n"
        "class Stuck(Operation):\n"
        "    timeout = 0.2\n"
        "    def perform(self) -> None:\n"
        "        time.sleep(60)\n"
    )
    worker = deployment.start(module="stuck", threads=1)
    code = "import stuck; stuck.Stuck().async_().call()"
    try:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=deployment.environment, timeout=60, check=True)
        ended = eventually(lambda: worker.lines("worker.exited"), "the process is replaced", WAIT_S, worker.output)
    finally:
        deployment.close()

    assert " INFO " in ended[0]
    assert len(worker.lines("worker.stuck")) == 1
    assert not worker.lines("worker.died")


# ------------------------------------------------------------------------------- modules that cannot be imported

ENDS = {
    "exit": "import sys; sys.exit(0)",
    "exit with a text": "import sys; sys.exit('no more')",
    "interrupt": "raise KeyboardInterrupt",
    "generator exit": "raise GeneratorExit('x')",
    "a class of its own": "class End(BaseException):\n    def __str__(self): raise ValueError\nraise End()",
}


@pytest.mark.parametrize("case", ENDS)
def test_n10_a_module_that_exits_is_reported_as_an_import_error(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends.py").write_text(ENDS[case])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "ends", raising=False)

    with pytest.raises(StartupError, match=r"Cannot import the module 'ends'.*ends the program") as refused:
        import_modules(("ends",))
    assert refused.value.exit_status == 2

    result = CliRunner().invoke(main, ["check", "ends"])
    assert result.exit_code == 1
    assert f"FAIL module ends: {refused.value}" in result.output


@pytest.mark.parametrize("ends", ["SystemExit(0)", "KeyboardInterrupt", "GeneratorExit"])
def test_n10_a_check_fails_when_a_function_of_the_application_exits(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends.py").write_text(
        f"import dexpy\ndef session():\n    raise {ends}\n"
        f"dexpy.configure(database='sqlite:///{tmp_path}/a.db', session_factory=session)"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "ends", raising=False)

    result = CliRunner().invoke(main, ["check", "ends"])
    assert result.exit_code == 1, result.output
    assert "FAIL" in result.output
    assert ends.removesuffix("(0)") in result.output


@pytest.mark.parametrize("command", ["worker", "relay"])
def test_n10_a_command_exits_with_status_two_if_a_module_exits(tmp_path: Path, command: str) -> None:
    deployment = Deployment(tmp_path)
    (tmp_path / "ends.py").write_text(ENDS["exit"])
    try:
        completed = deployment.dexpy(command, "ends")
    finally:
        deployment.close()

    assert completed.returncode == 2
    assert "Error: Cannot import the module 'ends': it raised SystemExit(0)" in completed.stderr
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("./app", "app"),
        ("./app.py", "app"),
        ("shop/app.py", "shop.app"),
        ("shop\\app", "shop.app"),
        ("/srv/shop/app.py", "app"),
        ("app:broker", "app"),
        (".app", "app"),
        ("shop..app", None),
        ("", None),
        ("app.", "app"),
        ("my app", None),
    ],
)
def test_q11_a_path_for_a_module_is_refused_with_the_name_that_is_meant(path: str, meant: str | None) -> None:
    with pytest.raises(StartupError) as refused:
        import_modules((path,))

    text = str(refused.value)
    assert repr(path) in text
    assert "dotted name" in text
    assert "relative import" not in text
    assert ("for example" in text) == (meant is not None)
    if meant is not None:
        assert f"for example {meant!r}" in text


def test_q11_a_file_for_a_module_is_refused_with_the_name_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "there.py").touch()

    with pytest.raises(StartupError, match=r"for example 'there'"):
        import_modules(("there.py",))


@pytest.mark.parametrize("command", ["worker", "relay", "check"])
def test_q11_every_command_names_its_invalid_argument(command: str) -> None:
    result = CliRunner().invoke(main, [command, "./app"])

    assert result.exit_code != 0
    assert "'./app' is not the name of a module" in f"{result.output} {result.exception}"


# ---------------------------------------------------------------------------------- configuration of logging

CONFIGURED = {
    "nothing": "",
    "basicConfig": "logging.basicConfig(level='DEBUG', format='MINE %(message)s', filename='mine.log')",
    "a handler of the root": "h = logging.FileHandler('mine.log'); logging.root.addHandler(h);"
    " logging.root.setLevel(10)",
    "dictConfig": "logging.config.dictConfig({'version': 1, 'root': {'handlers': ['f'], 'level': 'INFO'},"
    " 'handlers': {'f': {'class': 'logging.FileHandler', 'filename': 'mine.log'}}})",
    "dictConfig of itself": "logging.config.dictConfig({'version': 1, 'loggers': {'shop': {'handlers': ['f'], 'level': "
    "'INFO'}}, 'handlers': {'f': {'class': 'logging.FileHandler', 'filename': 'mine.log'}}})",
    "its own logger": "h = logging.FileHandler('mine.log'); logging.getLogger('shop').addHandler(h);"
    " logging.getLogger('shop').propagate = False; logging.getLogger('shop').setLevel(20)",
    "dexpy's logger": "h = logging.FileHandler('mine.log'); logging.getLogger('dexpy').addHandler(h)",
    "all disabled": "logging.disable(logging.CRITICAL)",
    "a level for disasters": "logging.basicConfig(level=logging.CRITICAL, filename='mine.log')",
    "a handler for disasters": "h = logging.FileHandler('mine.log'); h.setLevel(60); logging.root.addHandler(h)",
    "a handler that raises": "h = logging.Handler(); h.emit = lambda record: 1 / 0; logging.root.addHandler(h)",
    "standard error closed": "sys.stderr.close()",
    "only later": "later = lambda: logging.basicConfig(level='INFO', filename='mine.log')",
    "disabled later": "later = lambda: logging.config.dictConfig({'version': 1})",
}
"""The code of an application that changes logging at its import."""
IN_FILE = {"basicConfig", "a handler of the root", "dictConfig", "dexpy's logger", "only later"}
"""The configurations with which a crash is logged only in the application's file."""
SCRIPT = """
import json, logging, logging.config, os, sys
import dexpy
from dexpy.worker.log_setup import complete_logging, set_up_logging
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event

for number, code in enumerate(json.loads(sys.argv[1])):
    os.mkdir(str(number))
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    os.chdir(str(number))
    os.dup2(os.open("errors", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    # As the parent of the workers, which forks them; then as the worker.
    set_up_logging(logging.INFO)
    complete_logging(logging.INFO)
    set_up_logging(logging.INFO)
    given = {"logging": logging, "sys": sys}
    exec(code, given)
    complete_logging(logging.INFO)
    given.get("later", int)()
    log_event(LogEvent.RUN_SUCCEEDED, run_id="op_1")
    log_event(LogEvent.RUN_FAILED, run_id="op_2")
    logging.getLogger("shop").info("sold")
    os._exit(0)
"""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Return the texts of standard error and of the application's file for each configuration."""
    folder = tmp_path_factory.mktemp("logs")
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(CONFIGURED.values()))]
    subprocess.run(command, cwd=folder, env=SECRET_FREE, timeout=60, check=True)
    logs = {}
    for number, name in enumerate(CONFIGURED):
        mine = folder / str(number) / "mine.log"
        logs[name] = (folder / str(number) / "errors").read_text(), mine.read_text() if mine.exists() else ""
    return logs


@pytest.mark.parametrize("case", CONFIGURED)
def test_q3_a_crash_is_logged_once_by_the_application_or_the_worker(
    logged: dict[str, tuple[str, str]], case: str
) -> None:
    errors, mine = logged[case]

    assert (errors.count("run.failed"), mine.count("run.failed")) == ((0, 1) if case in IN_FILE else (1, 0))
    assert errors.count("run.succeeded") + mine.count("run.succeeded") <= 1
    assert errors.count("sold") + mine.count("sold") <= 1


def test_q3_the_worker_configures_logging_that_the_application_does_not(logged: dict[str, tuple[str, str]]) -> None:
    errors, _ = logged["nothing"]
    assert [word in errors for word in ("run.succeeded run_id=op_1", "run.failed run_id=op_2", "sold")] == [True] * 3
    errors, mine = logged["its own logger"]
    assert "run.succeeded" in errors
    assert "sold" in mine
    assert "sold" not in errors
