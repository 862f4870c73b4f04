"""Every example in a docstring runs and prints the documented output."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys
import types
from collections.abc import Generator
from pathlib import Path

import dramatiq
import pytest

import dexpy
from dexpy.declaration import registry
from dexpy.runtime import install
from dexpy.testing import Isolated

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _modules() -> list[str]:
    modules = pkgutil.walk_packages(dexpy.__path__, "dexpy.")
    return ["dexpy", *(module.name for module in modules if not module.name.endswith("__main__"))]


def _examples() -> Generator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in _modules():
        yield from (one for one in finder.find(importlib.import_module(name), name) if one.examples)


@pytest.fixture
def _in_a_folder_of_its_own(
    isolated_runtime: Isolated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[None]:
    """Isolate the configuration, operations and files of an example."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_by_name", dict(registry._by_name))
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    yield
    configured = install(isolated_runtime.runtime)
    if configured is not None and configured is not isolated_runtime.runtime:
        configured.close()


@pytest.mark.usefixtures("_in_a_folder_of_its_own")
@pytest.mark.parametrize("example", tuple(_examples()), ids=lambda example: example.name)
def test_the_example_in_the_docstring_holds(example: doctest.DocTest, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a user's program, the example is in a separate module, and its annotations are not strings.
    program = types.ModuleType("program")
    names = {name: value for name, value in example.globs.items() if name != "annotations" and name[:2] != "__"}
    vars(program).update(names)
    example.globs = vars(program)
    monkeypatch.setitem(sys.modules, "program", program)
    monkeypatch.setattr(registry, "_by_name", {})
    collected: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    failed, num_examples = runner.run(example, out=collected.append)

    assert num_examples, "no example ran"
    assert not failed, "".join(collected)


def test_examples_are_found_in_many_modules() -> None:
    names = {example.name.rpartition(".")[0] for example in _examples()}
    assert {"dexpy.operation", "dexpy.codec.codecs", "dexpy.testing", "dexpy.foundation.outcome"} <= names
    assert "dexpy" in names, "the examples of the errors, whose public module is dexpy"
