"""The public names of `dexpy`, and the cost of its import."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dexpy
from dexpy.foundation import errors as foundation_errors

HEAVY = ("sqlalchemy", "dramatiq", "click", "redis")
LATE = {
    "Batch",
    "BatchTicket",
    "EmbeddedWorker",
    "RecordColumn",
    "RunEnd",
    "Ticket",
    "batch",
    "batches",
    "queues",
    "records",
    "recurring",
}
"""Names that are imported at their first use, because they import SQLAlchemy or are rarely used."""
LIMIT = 13
TRIES = 12


def in_a_fresh_process(code: str, environment: dict[str, str], folder: Path) -> str:
    """Run code in a new process, and return its output."""
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_all_is_sorted_and_names_nothing_twice() -> None:
    assert dexpy.__all__ == sorted(set(dexpy.__all__))


def test_all_lists_exactly_the_public_names() -> None:
    defined = {
        name
        for name, value in vars(dexpy).items()
        if not (name.startswith("_") or isinstance(value, ModuleType))
        and getattr(value, "__module__", "").partition(".")[0] == "dexpy"
    }
    assert defined | LATE | {"errors"} == set(dexpy.__all__)


def test_dexpy_errors_lists_every_exception() -> None:
    classes = {
        name
        for name, value in vars(foundation_errors).items()
        if name[0] != "_" and getattr(value, "__module__", "") == "dexpy.errors"
    }
    assert dexpy.errors.__all__ == sorted(classes | {"Problem"})
    assert {name for name in classes if hasattr(dexpy, name)} == {
        *("Cancelled", "ConfigurationError", "DexpyError", "Error", "NotSerializable", "OperationFailed", "PropsError"),
        *("TimedOut", "WaitTimeout", "WorkerLost"),
    }


@pytest.mark.parametrize("name", dexpy.__all__)
def test_every_public_name_exists_and_has_its_own_docstring(name: str) -> None:
    value = getattr(dexpy, name)
    assert (value.__doc__ or "").strip(), f"dexpy.{name} has no docstring"


@pytest.mark.parametrize("name", ["Operation", "Ticket"])
def test_every_public_method_of_the_main_classes_has_a_docstring(name: str) -> None:
    cls = getattr(dexpy, name)
    bare = [
        method
        for method, value in vars(cls).items()
        if not method.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property | classmethod))
        and not value.__doc__
    ]
    assert bare == []


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dexpy' has no attribute 'Operatoin'"):
        dexpy.Operatoin  # type: ignore[attr-defined]  # noqa: B018 - the access is the test


def test_importing_dexpy_imports_nothing_heavy(environment: dict[str, str], tmp_path: Path) -> None:
    code = f"import sys, json, dexpy; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    assert json.loads(in_a_fresh_process(code, environment, tmp_path)) == []


def test_declaring_and_calling_an_operation_imports_nothing_heavy(environment: dict[str, str], tmp_path: Path) -> None:
    code = f"""
import sys, json, dexpy

class Add(dexpy.Operation):
    a: int
    async_ = dexpy.Async(queue="sums")
    retry_on = (dexpy.Retry(OSError),)

    def perform(self) -> int:
        return self.a + 1

assert Add(a=1).call() == 2
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    assert json.loads(in_a_fresh_process(code, environment, tmp_path)) == []


def test_importing_dexpy_is_fast(environment: dict[str, str], tmp_path: Path) -> None:
    # Measured in compilations of a known file, so that the result does not depend on the machine, and from bytecode,
    # as in an installation.
    installed = {**environment, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path / "bytecode")}
    in_a_fresh_process("import dexpy", installed, tmp_path)
    code = """
from time import process_time as now
import argparse
source = open(argparse.__file__).read()
began = now(); [compile(source, "argparse", "exec") for _ in range(4)]; unit = (now() - began) / 4
began = now(); import dexpy; print((now() - began) / unit)
"""
    durations = [float(in_a_fresh_process(code, installed, tmp_path)) for _ in range(TRIES)]
    assert min(durations) < LIMIT, f"the fastest of {TRIES} imports took as long as {min(durations):.1f} compilations"
