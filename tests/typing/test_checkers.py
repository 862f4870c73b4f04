"""Both checkers in strict mode on a user's files: what is right passes, and each promise has a line that fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RIGHT = "right_calls.py"
WRONG = "wrong_calls.py"
MARK = "  # wrong: "
ONLY = "  # wrong for {}: "
"""Of a line that one checker alone refuses."""

Errors = dict[tuple[str, int], list[str]]
"""What a checker says, by file name and line."""


def ask_mypy() -> Errors:
    """Mypy, with the project's settings, so that it shares the cache of a plain run."""
    output = run("mypy", "--strict", "--output=json", str(HERE / RIGHT), str(HERE / WRONG))
    diagnostics = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return gathered((one["file"], one["line"], one["severity"], one["message"]) for one in diagnostics)


def ask_pyright(folder: Path) -> Errors:
    """Pyright, which takes an installed library at its word only: the settings make dexpy one."""
    if shutil.which("node") is None and not os.environ.get("CI"):
        pytest.skip("pyright runs on node, which is not on PATH; with CI set this is a failure")
    site = folder / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    (site / "installed.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    settings: dict[str, Any] = {
        "include": [RIGHT, WRONG],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "venvPath": str(folder),
        "venv": "venv",
    }
    for name in (RIGHT, WRONG):
        shutil.copy(HERE / name, folder)
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    output = run("pyright", "--outputjson", "--project", str(folder))
    diagnostics = json.loads(output)["generalDiagnostics"]
    return gathered(
        (one["file"], one["range"]["start"]["line"] + 1, one["severity"], one["message"]) for one in diagnostics
    )


def run(checker: str, *arguments: str) -> str:
    """What a checker writes."""
    command = [sys.executable, "-m", checker, *arguments]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert process.returncode in (0, 1), f"{checker} did not work: {process.stdout}{process.stderr}"
    return process.stdout


def gathered(diagnostics: Any) -> Errors:
    """The errors in the two files."""
    errors: Errors = {}
    for file, line, severity, message in diagnostics:
        if severity == "error" and Path(file).name in (RIGHT, WRONG):
            errors.setdefault((Path(file).name, line), []).append(message)
    return errors


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def checker(request: pytest.FixtureRequest) -> str:
    """Each of the two."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def errors(checker: str, tmp_path_factory: pytest.TempPathFactory) -> Errors:
    """What one of the checkers says about both files."""
    return ask_mypy() if checker == "mypy" else ask_pyright(tmp_path_factory.mktemp("user"))


def marked_for(checker: str) -> dict[int, str]:
    """The lines of mistakes that a checker has to see."""
    marks = (MARK, ONLY.format(checker))
    return {line: text.strip() for line, text in lines_of(WRONG).items() if any(mark in text for mark in marks)}


def lines_of(file: str) -> dict[int, str]:
    """The lines of a file by number."""
    return dict(enumerate((HERE / file).read_text("utf-8").splitlines(), 1))


def test_correct_calls_pass_the_checkers(errors: Errors) -> None:
    complaints = {line: message for (file, line), message in errors.items() if file == RIGHT}
    assert complaints == {}


def test_each_wrong_call_is_an_error(checker: str, errors: Errors) -> None:
    marked = marked_for(checker)
    assert len(marked) > 50
    unseen = {line: text for line, text in marked.items() if (WRONG, line) not in errors}
    assert unseen == {}


def test_only_the_marked_lines_of_the_wrong_calls_are_errors(checker: str, errors: Errors) -> None:
    marked = marked_for(checker)
    complaints = {line: message for (file, line), message in errors.items() if file == WRONG and line not in marked}
    assert complaints == {}


def test_the_declarations_of_the_right_calls_work_at_run_time(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", f"import sys; sys.path.append({str(HERE)!r}); import right_calls"]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_the_library_is_marked_as_typed() -> None:
    assert (ROOT / "dexpy" / "py.typed").is_file()
