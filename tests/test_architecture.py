"""The house stands: a room imports rooms below it, nobody imports a surface, and the files of a room form a line."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import attrs
import pytest

HOUSE = Path(__file__).parents[1] / "dexpy"
ROOMS = ("foundation", "declaration", "recording", "execution", "background")
HALL = ("__init__", "calls", "deferred", "operation", "records", "runtime")
SURFACES = ("cli", "broker", "dashboard", "testing", "integrations")
FLOORS = {room: floor for floor, room in enumerate((*ROOMS, "hall"))} | dict.fromkeys(SURFACES, len(ROOMS) + 1)


@attrs.frozen
class Import:
    """One import of one file of the house by another; `runs` is False under ``if TYPE_CHECKING:``."""

    source: str
    target: str
    line: int
    runs: bool


def room_of(module: str) -> str:
    """The room of a module; the hall for what stands above the rooms, and the command line for its entrance."""
    _, _, inside = module.partition(".")
    first = inside.partition(".")[0] or "__init__"
    return "hall" if first in HALL else "cli" if first == "__main__" else first


def modules_of(house: Path) -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {file.relative_to(house.parent).with_suffix(""): file for file in house.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): file for name, file in found.items()}


def imports_of(source: str, file: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """What a file imports of the house, wherever in it: in functions too, and by `import_module` of a literal."""
    package = source if file.stem == "__init__" else source.rpartition(".")[0]
    below: list[tuple[ast.AST, bool]] = [(ast.parse(file.read_text("utf-8")), True)]
    while below:
        node, runs = below.pop()
        for target in targets_of(node, package, modules):
            yield Import(source, target, getattr(node, "lineno", 0), runs)
        hidden = node.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" else []
        below += [(child, runs and child not in hidden) for child in ast.iter_child_nodes(node)]


def targets_of(node: ast.AST, package: str, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of the house that one node imports."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = resolve_name("." * node.level + (node.module or ""), package)
        names = [full if (full := f"{base}.{alias.name}") in modules else base for alias in node.names]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
        called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if called == "import_module" and node.args and isinstance(node.args[0], ast.Constant):
            names = [str(node.args[0].value)]
    yield from (name for name in names if name in modules)


def violations(house: Path) -> Iterator[str]:
    """Everything that is wrong with a house."""
    modules = modules_of(house)
    lines: dict[str, dict[str, set[str]]] = {}
    for source, file in modules.items():
        own = room_of(source)
        if own not in FLOORS:
            yield f"{source} is in no room of the plan"
            continue
        for one in imports_of(source, file, modules):
            other = room_of(one.target)
            where = f"{source}:{one.line} imports {one.target}"
            if other == own:
                if one.runs:
                    lines.setdefault(own, {}).setdefault(source, set()).add(one.target)
            elif other in SURFACES:
                yield f"{where}, a surface"
            elif FLOORS.get(other, -1) >= FLOORS[own]:
                yield f"{where}, which is not below it"
    for room, graph in lines.items():
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            yield f"{room} has a circle: {' > '.join(reversed(error.args[1]))}"


def test_rooms_import_downwards_and_their_files_form_a_line() -> None:
    assert list(violations(HOUSE)) == []


def test_every_room_of_the_house_is_looked_at() -> None:
    seen = {room_of(module) for module in modules_of(HOUSE)}
    assert seen >= {*ROOMS, "hall", "cli", "testing"}


WRONG = {
    "upwards": ("recording/a.py", "from dexpy.execution.b import x", "recording.a:1 imports dexpy.execution.b, which"),
    "beside": ("foundation/a.py", "from dexpy import operation", "foundation.a:1 imports dexpy.operation, which"),
    "the front door": ("recording/a.py", "from dexpy import x", "recording.a:1 imports dexpy, which is not below it"),
    "in a function": (
        "recording/a.py",
        "def f():\n  import dexpy.execution.b",
        "recording.a:2 imports dexpy.execution.b",
    ),
    "for types": (
        "recording/a.py",
        "if TYPE_CHECKING:\n  from dexpy.execution import b",
        "recording.a:2 imports dexpy.execution.b",
    ),
    "by name": ("recording/a.py", "import_module('dexpy.execution.b')", "recording.a:1 imports dexpy.execution.b"),
    "a relative one": ("recording/a.py", "from ..execution import b", "recording.a:1 imports dexpy.execution.b"),
    "a surface": ("operation.py", "import dexpy.cli.main", "operation:1 imports dexpy.cli.main, a surface"),
    "a surface by one": ("testing/a.py", "import dexpy.cli.main", "testing.a:1 imports dexpy.cli.main, a surface"),
    "no room": ("utils/a.py", "", "dexpy.utils.a is in no room of the plan"),
    "a circle": ("execution/c.py", "from dexpy.execution import b", "execution has a circle: dexpy.execution."),
}
RIGHT = {
    "downwards": ("execution/d.py", "from dexpy.recording import e\nimport sqlalchemy"),
    "a room's line": ("execution/d.py", "from dexpy.execution import b"),
    "a circle of types alone": ("execution/c.py", "if TYPE_CHECKING:\n  from dexpy.execution import b"),
    "by a surface": ("cli/other.py", "from dexpy import __version__, records\nfrom dexpy.cli.main import x"),
    "by the entrance": ("__main__.py", "from dexpy.cli.main import run"),
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house in order."""
    planted = {
        "__init__.py": "from dexpy.operation import Operation",
        "operation.py": "from dexpy.execution import b",
        "records.py": "",
        "recording/e.py": "",
        "execution/b.py": "from dexpy.execution import c",
        "execution/c.py": "",
        "cli/main.py": "",
    }
    for name, text in planted.items():
        (tmp_path / "dexpy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dexpy" / name).write_text(text)
    return tmp_path / "dexpy"


def plant(house: Path, name: str, text: str) -> list[str]:
    """What is wrong with a house after one more file."""
    (house / name).parent.mkdir(exist_ok=True)
    (house / name).write_text(text)
    return list(violations(house))


@pytest.mark.parametrize(("name", "text", "complaint"), WRONG.values(), ids=WRONG)
def test_an_import_that_does_not_belong_is_found(house: Path, name: str, text: str, complaint: str) -> None:
    found = plant(house, name, text)
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(("name", "text"), RIGHT.values(), ids=RIGHT)
def test_an_import_that_belongs_is_left_alone(house: Path, name: str, text: str) -> None:
    assert plant(house, name, text) == []
