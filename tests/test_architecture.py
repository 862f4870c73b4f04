"""The architecture: a package imports only packages of lower layers, and the files of a package have no import cycle.

Imports under ``if TYPE_CHECKING:`` and inside of functions count like all others. Only the imports of `LAZY` may be
inside of functions, each for a reason.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import attrs
import pytest

PACKAGE = Path(__file__).parents[1] / "dexpy"
LAYERS = {
    "foundation": 0,
    "codec": 1,
    "policies": 1,
    "schedules": 1,
    "database": 1,
    "declaration": 2,
    "configuration": 3,
    "transactions": 3,
    "locks": 3,
    "brokers": 3,
    "recording": 4,
    "execution": 5,
    "liveness": 5,
    "enqueue": 6,
    "worker": 7,
    "maintenance": 7,
    "top": 8,
    "surfaces": 9,
}
TOP = (
    "__init__",
    "alembic",
    "assembly",
    "batches",
    "calls",
    "deferred",
    "errors",
    "operation",
    "queues",
    "records",
    "recurring",
    "runtime",
)
"""Modules and packages above the layers."""
SURFACES = ("__main__", "cli", "broker", "testing", "web", "contrib")
"""Modules and packages that may import all others, and that no other imports."""
LIGHT = "`import dexpy` imports neither SQLAlchemy nor Dramatiq"
DRIVER = "only the driver that the URL names is needed"
LAZY = {
    "dexpy": (
        LIGHT,
        *("dexpy.batches", "dexpy.queues", "dexpy.recording.ticket", "dexpy.records", "dexpy.recurring"),
        *("dexpy.foundation.run_end", "dexpy.policies.record_column", "dexpy.worker.embedded"),
    ),
    "dexpy.runtime": (LIGHT, "dexpy.assembly", "dexpy.recording.recorder", "dexpy.transactions.run_sessions"),
    "dexpy.transactions.sessions": (LIGHT, "dexpy.database.dialects", "dexpy.transactions.session_listeners"),
    "dexpy.declaration.model_loaders": (LIGHT, "dexpy.declaration.row_loading"),
    "dexpy.brokers.redis_urls": (DRIVER, "dexpy.brokers.redis"),
    "dexpy.brokers.rabbitmq_urls": (DRIVER, "dexpy.brokers.rabbitmq"),
}
"""Module to the reason of its imports inside of functions, and to the imported modules."""
LAZY_PACKAGES = ("dexpy.cli",)
"""Packages whose commands import modules when they run, so that ``--help`` is fast and works with wrong settings."""


@attrs.frozen
class Import:
    """An import of a module of dexpy by another one."""

    source: str
    target: str
    line: int
    is_lazy: bool


def package_of(module: str) -> str:
    """Return the package of a module; ``top`` or ``surfaces`` above the layers."""
    _, _, inside = module.partition(".")
    first = inside.partition(".")[0] or "__init__"
    return "top" if first in TOP else "surfaces" if first in SURFACES else first


def modules_of(root: Path) -> dict[str, Path]:
    """Return the files of all modules by their dotted names."""
    files = {file.relative_to(root.parent).with_suffix(""): file for file in root.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): file for name, file in files.items()}


@functools.cache
def import_nodes(text: str) -> tuple[tuple[ast.AST, bool], ...]:
    """The nodes of a text that may import something, and whether they are in a function."""
    tree = ast.parse(text)
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    in_functions = {node for function in functions for node in ast.walk(function)}
    kinds = ast.Import | ast.ImportFrom | ast.Call
    return tuple((node, node in in_functions) for node in ast.walk(tree) if isinstance(node, kinds))


def imports_of(source: str, file: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """Return the imports of dexpy in a file, also in functions, for type checkers, and by a literal `import_module`."""
    package = source if file.stem == "__init__" else source.rpartition(".")[0]
    for node, is_in_function in import_nodes(file.read_text("utf-8")):
        for target in targets_of(node, package, modules):
            yield Import(source, target, getattr(node, "lineno", 0), is_in_function)


def targets_of(node: ast.AST, package: str, modules: dict[str, Path]) -> Iterator[str]:
    """Return the modules of dexpy that a node imports."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = resolve_name("." * node.level + (node.module or ""), package)
        names = [full if (full := f"{base}.{alias.name}") in modules else base for alias in node.names]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
        function_name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if function_name == "import_module" and node.args and isinstance(node.args[0], ast.Constant):
            names = [str(node.args[0].value)]
    yield from (name for name in names if name in modules)


def may_be_lazy(one: Import) -> bool:
    """Whether an import inside of a function is one of `LAZY`."""
    _, *targets = LAZY.get(one.source, ("",))
    return one.target in targets or one.source.startswith(tuple(f"{package}." for package in LAZY_PACKAGES))


def violations(root: Path) -> Iterator[str]:
    """Return the violations of the architecture."""
    modules = modules_of(root)
    graphs: dict[str, dict[str, set[str]]] = {}
    for source, file in modules.items():
        own_package = package_of(source)
        if own_package not in LAYERS:
            yield f"{source} is in no package of the architecture"
            continue
        for one in imports_of(source, file, modules):
            other = package_of(one.target)
            where = f"{source}:{one.line} imports {one.target}"
            if other == own_package:
                graphs.setdefault(own_package, {}).setdefault(source, set()).add(one.target)
            elif other == "surfaces":
                yield f"{where}, a surface"
            elif LAYERS.get(other, -1) >= LAYERS[own_package]:
                yield f"{where}, which is not below it"
            if one.is_lazy and not may_be_lazy(one):
                yield f"{where} inside of a function"
    for package, graph in graphs.items():
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            yield f"{package} has an import cycle: {' > '.join(reversed(error.args[1]))}"


def test_packages_import_lower_ones_only_and_their_files_have_no_cycle() -> None:
    assert list(violations(PACKAGE)) == []


def test_every_allowed_import_inside_of_a_function_exists() -> None:
    modules = modules_of(PACKAGE)
    lazy = {name: {one.target for one in imports_of(name, modules[name], modules) if one.is_lazy} for name in LAZY}
    assert lazy == {name: set(targets) for name, (_, *targets) in LAZY.items()}


@pytest.mark.parametrize("module", ["sqlalchemy", "dramatiq", "dexpy.assembly", "dexpy.recording.store"])
def test_importing_dexpy_stays_light(module: str) -> None:
    program = f"import sys, dexpy; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("module", "importers"),
    [
        ("dexpy.brokers.tls_probe", {"dexpy.brokers.diagnostics", "dexpy.brokers.server_check"}),
        ("dexpy.brokers.server_check", {"dexpy.cli.check", "dexpy.worker.startup"}),
        ("dexpy.worker.priority_overtaking", {"dexpy.worker.claims"}),
    ],
)
def test_a_special_case_is_imported_where_it_applies(module: str, importers: set[str]) -> None:
    modules = modules_of(PACKAGE)

    actual = {name for name, file in modules.items() for one in imports_of(name, file, modules) if one.target == module}

    assert actual == importers


def test_every_package_is_checked() -> None:
    checked = {package_of(module) for module in modules_of(PACKAGE)}
    assert checked == LAYERS.keys()


WRONG = {
    "upwards": ("recording/a.py", "from dexpy.execution.b import x", "recording.a:1 imports dexpy.execution.b, which"),
    "beside": ("foundation/a.py", "from dexpy import operation", "foundation.a:1 imports dexpy.operation, which"),
    "the public package": (
        "recording/a.py",
        "from dexpy import x",
        "recording.a:1 imports dexpy, which is not below it",
    ),
    "in a function": (
        "execution/d.py",
        "def f():\n  if x:\n    import dexpy.recording.e",
        "execution.d:3 imports dexpy.recording.e inside of a function",
    ),
    "in a method, by name": (
        "execution/d.py",
        "class C:\n  async def f(self):\n    import_module('dexpy.recording.e')",
        "execution.d:3 imports dexpy.recording.e inside of a function",
    ),
    "another one in a file that has some": (
        "runtime.py",
        "def f():\n  from dexpy.recording import e",
        "runtime:2 imports dexpy.recording.e inside of a function",
    ),
    "for types": (
        "recording/a.py",
        "if TYPE_CHECKING:\n  from dexpy.execution import b",
        "recording.a:2 imports dexpy.execution.b",
    ),
    "by name": ("recording/a.py", "import_module('dexpy.execution.b')", "recording.a:1 imports dexpy.execution.b"),
    "a relative one": ("recording/a.py", "from ..execution import b", "recording.a:1 imports dexpy.execution.b"),
    "beside in a layer": ("codec/a.py", "from dexpy.policies import x", "codec.a:1 imports dexpy.policies, which"),
    "a surface": ("operation.py", "import dexpy.cli.main", "operation:1 imports dexpy.cli.main, a surface"),
    "no package": ("utils/a.py", "", "dexpy.utils.a is in no package of the architecture"),
    "a cycle": ("execution/c.py", "from dexpy.execution import b", "execution has an import cycle: dexpy.execution."),
    "a cycle of types": (
        "execution/c.py",
        "if TYPE_CHECKING:\n  from dexpy.execution import b",
        "execution has an import cycle: dexpy.execution.",
    ),
}
RIGHT = {
    "downwards": ("execution/d.py", "from dexpy.recording import e\nimport sqlalchemy"),
    "a package's line": ("execution/d.py", "from dexpy.execution import b"),
    "by a surface": ("cli/other.py", "from dexpy import __version__, records\nfrom dexpy.cli.main import x"),
    "by the entrance": ("__main__.py", "from dexpy.cli.main import run"),
    "in a command": ("cli/other.py", "def run():\n  from dexpy.recording import e"),
    "in a function, of the list": ("runtime.py", "def f():\n  from dexpy.assembly import build"),
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package without violations."""
    files = {
        "__init__.py": "from dexpy.operation import Operation",
        "operation.py": "from dexpy.execution import b",
        "records.py": "",
        "assembly.py": "",
        "recording/e.py": "",
        "execution/b.py": "from dexpy.execution import c",
        "execution/c.py": "",
        "cli/main.py": "",
        "policies/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / "dexpy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dexpy" / name).write_text(text)
    return tmp_path / "dexpy"


def add(package: Path, name: str, text: str) -> list[str]:
    """Add a file to a package, and return the violations."""
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_text(text)
    return list(violations(package))


@pytest.mark.parametrize(("name", "text", "complaint"), WRONG.values(), ids=WRONG)
def test_a_forbidden_import_is_found(package: Path, name: str, text: str, complaint: str) -> None:
    problems = add(package, name, text)
    assert len(problems) == 1
    assert complaint in problems[0]


@pytest.mark.parametrize(("name", "text"), RIGHT.values(), ids=RIGHT)
def test_an_allowed_import_is_not_reported(package: Path, name: str, text: str) -> None:
    assert add(package, name, text) == []
