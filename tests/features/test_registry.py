"""Stable names, by which workers find the operation of a record or message."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dexpy import Operation
from dexpy.declaration import registry
from dexpy.errors import DeclarationError, UnknownOperation
from dexpy.testing import Isolated


class Plain(Operation):
    def perform(self) -> str:
        return "plain"


class Named(Operation, name="registry.named", aliases=("registry.before", "registry.long_before")):
    def perform(self) -> str:
        return "named"


class Outer:
    class Inner(Operation):
        def perform(self) -> str:
            return "inner"


def statement(name: str, module: str = "nowhere", /, **keywords: Any) -> Any:
    """Declare a class as in another module."""
    return type(name, (Operation,), {"__module__": module, "__qualname__": name}, **keywords)


def test_a_class_is_found_by_its_module_and_qualified_name() -> None:
    assert Plain.contract.name == "features.test_registry.Plain"
    assert registry.find("features.test_registry.Plain") is Plain
    assert registry.find("features.test_registry.Outer.Inner") is Outer.Inner


def test_a_class_with_an_explicit_name_is_found_by_it_and_by_its_earlier_names() -> None:
    assert Named.contract.name == "registry.named"
    assert Named.contract.aliases == ("registry.before", "registry.long_before")
    for name in ("registry.named", "registry.before", "registry.long_before"):
        assert registry.find(name) is Named
    with pytest.raises(UnknownOperation):
        registry.find("features.test_registry.Named")


def test_an_unknown_name_is_refused_with_a_hint_and_nothing_is_imported() -> None:
    with pytest.raises(UnknownOperation) as caught:
        registry.find("registry.namd")
    assert isinstance(caught.value, LookupError)
    assert str(caught.value) == (
        "Unknown operation 'registry.namd': this process does not declare it. Did you mean 'registry.named'? "
        "Import its module, or declare the earlier name as an alias of the class."
    )
    assert "this" not in sys.modules
    with pytest.raises(UnknownOperation):
        registry.find("this.Anything")
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("keywords", "name"),
    [
        ({"name": "registry.named"}, "registry.named"),
        ({"name": "registry.before"}, "registry.before"),
        ({"name": "registry.other", "aliases": ("registry.named",)}, "registry.named"),
        ({"aliases": ("features.test_registry.Plain",)}, "features.test_registry.Plain"),
    ],
)
def test_a_duplicate_name_is_refused_and_nothing_is_registered(keywords: dict[str, Any], name: str) -> None:
    before = registry.names()
    with pytest.raises(DeclarationError) as caught:
        statement("Twin", **keywords)
    other = "Plain" if name.endswith("Plain") else "Named"
    assert str(caught.value) == (
        f"nowhere.Twin: the name {name!r} is already used by features.test_registry.{other}. "
        'Give one of them another name: class Twin(Operation, name="...").'
    )
    assert registry.names() == before


def test_declaring_the_same_class_of_the_same_module_again_replaces_it() -> None:
    first = statement("Again")
    assert registry.find("nowhere.Again") is first
    second = statement("Again")
    assert registry.find("nowhere.Again") is second


def test_two_modules_may_have_classes_of_the_same_name() -> None:
    one, other = statement("Same", "nowhere.one"), statement("Same", "nowhere.other")
    assert registry.find("nowhere.one.Same") is one
    assert registry.find("nowhere.other.Same") is other


def test_a_module_may_be_reloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reloaded_operations.py").write_text(
        "from dexpy import Operation\n"
        "class Reloaded(Operation, name='registry.reloaded', aliases=('registry.reloaded_before',)):\n"
        "    def perform(self) -> int:\n"
        "        return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module: Any = importlib.import_module("reloaded_operations")
    first = module.Reloaded
    again: Any = importlib.reload(module)
    assert again.Reloaded is not first
    assert registry.find("registry.reloaded") is registry.find("registry.reloaded_before") is again.Reloaded


def test_a_local_class_works_in_place_and_is_refused_by_an_enqueue(isolated_runtime: Isolated) -> None:
    class Local(Operation):
        def perform(self) -> int:
            return 1

    assert Local().call() == 1
    name = "test_a_local_class_works_in_place_and_is_refused_by_an_enqueue.<locals>.Local"
    assert Local.contract.name == f"features.test_registry.{name}"
    with pytest.raises(UnknownOperation):
        registry.find(Local.contract.name)
    with pytest.raises(DeclarationError) as caught:
        Local().async_().call()
    assert str(caught.value) == (
        f"{name}: workers cannot import the class: it is declared inside a function. Move it to the top of a module. "
        "call() works without a worker."
    )


# ------------------------------------------------------------------------------------------------- __main__

SCRIPT = """
from dexpy import Operation

class Job(Operation):
    def perform(self) -> int:
        return 1

if __name__ == "__main__":
    print(Job.contract.name, Job.contract.unreachable, Job().call())
"""


def run_program(environment: dict[str, str], *arguments: str, folder: Path, text: str | None = None) -> str:
    """Return the output of a Python process."""
    command = [sys.executable, *arguments]
    process = subprocess.run(
        command, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=30
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_a_class_of_a_script_is_named_like_the_module_of_its_file(tmp_path: Path, environment: dict[str, str]) -> None:
    package = tmp_path / "my jobs" / "mailing"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "tool.py").write_text(SCRIPT)
    root = package.parent
    assert run_program(environment, "mailing/tool.py", folder=root) == "tool.Job None 1"
    assert run_program(environment, "-m", "mailing.tool", folder=root) == "mailing.tool.Job None 1"
    (package / "__main__.py").write_text(SCRIPT)
    assert run_program(environment, "-m", "mailing", folder=root) == "mailing.__main__.Job None 1"


def test_a_script_that_is_imported_too_is_the_same_class(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "tool.py").write_text(
        SCRIPT
        + "    import tool\n"
        + "    from dexpy.declaration import registry\n"
        + "    print(registry.find('tool.Job') is tool.Job, tool.Job is Job)\n"
    )
    assert run_program(environment, "tool.py", folder=tmp_path) == "tool.Job None 1\nTrue False"


def test_a_class_of_an_interactive_session_works_in_place_and_is_refused_by_an_enqueue(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    session = SCRIPT + (
        "    try:\n"
        "        Job().async_().call()\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    assert run_program(environment, "-", folder=tmp_path, text=session).splitlines() == [
        "__main__.Job it is declared in an interactive session. Put it into a module 1",
        "DeclarationError Job: workers cannot import the class: it is declared in an interactive session. "
        "Put it into a module. call() works without a worker.",
    ]
    assert list(tmp_path.iterdir()) == []
