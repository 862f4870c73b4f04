"""``dexpy demo``, run for real: it ends as expected or fails, and removes its files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import attrs
import pytest

from dexpy.cli.demo import Outcome
from dexpy.cli.live_board import StatusBoard, table

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX process groups and signals")

TIMEOUT_S = 60.0
OPERATIONS = ("SendStatement", "Withdraw", "FetchRate", "CheckAddress", "CountVisit", "Remind")


@attrs.frozen
class Demo:
    """One demo on its way, with a TMPDIR and a process group of its own."""

    process: subprocess.Popen[str]
    folder: Path

    def line(self) -> str:
        """The next line of what it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def worker_pid(self) -> int:
        """Of the worker, which says it in the first line."""
        match = re.search(r"pid (\d+)", self.line())
        assert match is not None
        return int(match[1])

    def finish(self) -> tuple[int, str, str]:
        """Its exit status, what it said, and its errors."""
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


StartDemo = Callable[..., Demo]


@pytest.fixture
def start_demo(tmp_path: Path, environment: dict[str, str]) -> Generator[StartDemo]:
    """Starts demos, and ends what a failed test has left of them."""
    started: list[Demo] = []

    def start(*arguments: str, **variables: str) -> Demo:
        folder = tmp_path / f"tmp {len(started)}"
        folder.mkdir()
        process = subprocess.Popen(
            [sys.executable, *(arguments or ("-m", "dexpy", "demo"))],
            env=environment | {"TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        started.append(Demo(process, folder))
        return started[-1]

    yield start
    for demo in started:
        if demo.process.poll() is None:
            demo.process.terminate()
            demo.process.communicate(timeout=TIMEOUT_S)
        for pipe in (demo.process.stdout, demo.process.stderr):
            assert pipe is not None
            pipe.close()


def group_is_gone(pid: int) -> bool:
    """Whether no process of a group is left; a group has the number of its first process."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def records_in(output: str) -> Iterator[list[str]]:
    """The rows of the table of records, as words."""
    return (line.split() for line in output.splitlines() if line.startswith("  op_"))


def test_the_demo_ends_as_expected_and_leaves_nothing_behind(start_demo: StartDemo) -> None:
    began = time.monotonic()
    demo = start_demo()
    worker = demo.worker_pid()
    status, out, err = demo.finish()

    assert (status, err) == (0, "")
    assert {row[1]: row[2:4] for row in records_in(out)} == {
        "SendStatement": ["done", "1"],
        "Withdraw": ["failed", "1"],
        "FetchRate": ["done", "2"],
        "CheckAddress": ["done", "1"],
        "Remind": ["done", "1"],
    }
    assert "no_balance" in out
    assert "'Ada has 120'" in out
    assert out.count("✓") == len(OPERATIONS)
    assert "✗" not in out
    assert "docs/tutorial/first-operation.md" in out
    assert list(demo.folder.iterdir()) == []
    assert group_is_gone(worker)
    assert group_is_gone(demo.process.pid)
    assert time.monotonic() - began < 15


def test_the_pages_that_the_demo_points_to_are_there() -> None:
    from dexpy.cli.demo import NEXT_PAGES

    home = Path(__file__).parents[2]
    assert [page for page, _ in NEXT_PAGES if not (home / page).is_file()] == []


def test_two_concurrent_demos_do_not_share_anything(start_demo: StartDemo) -> None:
    demos = [start_demo(), start_demo()]
    workers = [demo.worker_pid() for demo in demos]
    results = [demo.finish() for demo in demos]

    assert [status for status, _, _ in results] == [0, 0]
    ids = [{row[0] for row in records_in(out)} for _, out, _ in results]
    assert [len(run_ids) for run_ids in ids] == [5, 5]
    assert not ids[0] & ids[1]
    assert [list(demo.folder.iterdir()) for demo in demos] == [[], []]
    assert all(map(group_is_gone, workers))


SHORT_DEMO = "import sys; from dexpy.cli import demo; sys.exit(not demo.run_demo(demo.demo_runs(delay_s=0.2)))"


def test_the_settings_of_a_project_around_it_are_not_the_demos(start_demo: StartDemo, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dexpy]\nbroker = "nonsense://"\n')
    demo = start_demo("-c", SHORT_DEMO, DEXPY_DATABASE="sqlite:////nowhere/at/all.db", DEXPY_BROKER="nonsense://")

    status, out, err = demo.finish()

    assert (status, err) == (0, "")
    assert out.count("✓") == len(OPERATIONS)


WRONG_EXPECTATION = """
import sys, attrs
from dexpy.cli import demo
runs = demo.demo_runs(delay_s=0.2)
wrong = [attrs.evolve(run, expected=demo.Outcome()) if run.title == "Withdraw" else run for run in runs]
sys.exit(not demo.run_demo(wrong))
"""


def test_a_result_other_than_expected_fails_and_shows_the_output_of_the_worker(start_demo: StartDemo) -> None:
    demo = start_demo("-c", WRONG_EXPECTATION)
    worker = demo.worker_pid()
    status, out, _ = demo.finish()

    assert status == 1
    assert re.search(r"✗  Withdraw +done +failed: no_balance\n", out)
    assert out.count("✓") == len(OPERATIONS) - 1
    assert "run.rejected operation=dexpy.cli.demo_operations.Withdraw" in out
    assert "Some operations did not end as expected." in out
    assert "docs/" not in out
    assert list(demo.folder.iterdir()) == []
    assert group_is_gone(worker)


def test_a_worker_that_dies_fails_the_demo_and_its_output_is_shown(start_demo: StartDemo) -> None:
    demo = start_demo()
    worker = demo.worker_pid()
    while "Remind" not in (line := demo.line()) or "pending" not in line:
        assert line
    os.killpg(worker, signal.SIGKILL)
    status, out, _ = demo.finish()

    assert status == 1
    assert "The worker process exited with status -9 before all operations ended." in out
    assert "Output of the worker:" in out
    assert list(demo.folder.iterdir()) == []
    assert group_is_gone(worker)


SHORT_TIMEOUT = """
import sys
from dexpy.cli import demo
sys.exit(not demo.run_demo(demo.demo_runs(delay_s=30), timeout_s=3))
"""


def test_an_operation_that_does_not_end_in_time_fails_the_demo(start_demo: StartDemo) -> None:
    demo = start_demo("-c", SHORT_TIMEOUT)
    worker = demo.worker_pid()
    status, out, _ = demo.finish()

    assert status == 1
    assert "Timeout: not all operations ended within 3 s." in out
    assert re.search(r"✗  Remind .* pending, 0 attempts\n", out)
    assert list(demo.folder.iterdir()) == []
    assert group_is_gone(worker)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_stopped_stops_its_worker_and_removes_its_folder(
    start_demo: StartDemo, number: signal.Signals
) -> None:
    demo = start_demo()
    worker = demo.worker_pid()
    while "Remind" not in (line := demo.line()) or "pending" not in line:
        assert line
    os.killpg(demo.process.pid, number)
    status, _, err = demo.finish()

    assert status != 0
    assert "Traceback" not in err
    assert list(demo.folder.iterdir()) == []
    assert group_is_gone(worker)
    assert group_is_gone(demo.process.pid)


INTERRUPTED = """
import os, signal, subprocess

looks = 0
look = subprocess.Popen._internal_poll

def interrupted(self, *rest, **more):
    global looks
    looks += 1
    if looks == 3:
        os.kill(os.getpid(), signal.SIGINT)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            print("between", flush=True)
    return look(self, *rest, **more)

subprocess.Popen._internal_poll = interrupted
from dexpy.cli.main import run
run(["demo"])
"""


def test_a_signal_during_a_poll_of_the_worker_is_handled_after_it(start_demo: StartDemo) -> None:
    status, out, err = start_demo("-c", INTERRUPTED).finish()

    assert "between" in out, "the look went on, and the signal came after it"
    assert status != 0
    assert "Traceback" not in err


def test_a_missing_temporary_folder_is_reported_in_one_error(start_demo: StartDemo, tmp_path: Path) -> None:
    program = "import tempfile; tempfile.tempdir = {!r}; from dexpy.cli.main import run; run(['demo'])"
    status, out, err = start_demo("-c", program.format(str(tmp_path / "none"))).finish()

    assert (status, out) == (1, "")
    assert err.startswith("Error: Cannot create a temporary folder for the demo: ")
    assert err.endswith("Set TMPDIR to a writable folder.\n")


def test_an_output_that_cannot_encode_check_marks_has_words(start_demo: StartDemo) -> None:
    status, out, _ = start_demo("-c", SHORT_DEMO, PYTHONIOENCODING="ascii").finish()

    assert status == 0
    assert out.count("\n  ok  ") == len(OPERATIONS)


def test_on_a_terminal_the_progress_is_one_block_that_is_redrawn(start_demo: StartDemo) -> None:
    import pty

    reader, writer = pty.openpty()
    with os.fdopen(reader, "rb", closefd=True) as shown:
        process = subprocess.Popen(
            [sys.executable, "-c", "import time; from dexpy.cli.live_board import StatusBoard; import sys\n"
             "b = StatusBoard(['a', 'long name'], sys.stdout)\n"
             "b.show(['pending', 'x' * 200]); b.show(['done', 'done'])"],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "40", "LINES": "20"},
            stdout=writer,
        )  # fmt: skip
        os.close(writer)
        assert process.wait(TIMEOUT_S) == 0
        text = shown.read1(10_000).decode().replace("\r\n", "\n")

    first, _, second = text.partition("\x1b[2F\x1b[J")
    assert first == "  a          pending\n  long name  " + "x" * 26 + "\n"
    assert second == "  a          done\n  long name  done\n"


def test_without_a_terminal_the_progress_is_one_line_per_change(capsys: pytest.CaptureFixture[str]) -> None:
    board = StatusBoard(["a", "b"], sys.stdout)
    board.show(["pending", "pending"])
    board.show(["pending", "pending"])
    board.show(["done", "pending"])

    assert [line.split()[2:] for line in capsys.readouterr().out.splitlines()] == [
        ["a", "pending"],
        ["b", "pending"],
        ["a", "done"],
    ]


def test_a_table_has_a_line_under_its_head() -> None:
    assert table([("id", "what"), ("1", "a long one"), ("23", "")]) == (
        "  id  what\n  --  ----------\n  1   a long one\n  23"
    )


def test_an_outcome_reads_as_a_sentence() -> None:
    assert str(Outcome("failed", "no_balance", 2, 1.0)) == "failed: no_balance, 2 attempts, after 1 s or more"
