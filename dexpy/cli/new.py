"""``dexpy new``: writes an operation and its test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import attrs
import click

from dexpy.foundation.errors import ConfigurationError, listed

NOT_SOURCES = frozenset({"tests", "test", "docs", "migrations", "alembic", "scripts", "examples"})
"""Folders with an ``__init__.py`` that are no package of the application."""

OPERATION = '''"""{sentence}."""

from dexpy import Operation


class {name}(Operation):
    """{sentence}."""

    note: str

    def perform(self) -> str:
        return self.note
'''
TEST = '''"""Tests of {name}."""

from dexpy.testing import isolated

from {module} import {name}


def test_{function}_returns_its_note() -> None:
    assert {name}(note="example").call() == "example"


def test_{function}_runs_in_the_background() -> None:
    with isolated() as test:
        {name}(note="example").async_().call()
        assert [run.status for run in test.run_pending()] == ["done"]
'''


@attrs.frozen
class Layout:
    """Where the files of a new operation are written.

    Attributes:
        root: The folder of the project.
        sources: The folder of the top-level packages.
        module: The dotted name of the new module.
    """

    root: Path
    sources: Path
    module: str

    def files(self, name: str) -> dict[Path, str]:
        """Return the texts of the new files by their paths.

        Args:
            name: The name of the class.
        """
        *packages, module_name = self.module.split(".")
        parts = {"name": name, "module": self.module, "function": snake_case(name), "sentence": sentence(name)}
        folders = [self.sources.joinpath(*packages[: depth + 1]) for depth in range(len(packages))]
        files = {folder / "__init__.py": "" for folder in folders if not (folder / "__init__.py").exists()}
        files[self.sources.joinpath(*packages, f"{module_name}.py")] = OPERATION.format(**parts)
        tests = self.root / "tests"
        mirrored = tests.joinpath(*packages[1:])
        files[(mirrored if mirrored.is_dir() else tests) / f"test_{module_name}.py"] = TEST.format(**parts)
        return files


def snake_case(name: str) -> str:
    """Return the name of a class as that of a module: ``SendHTTPRequest`` is ``send_http_request``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def sentence(name: str) -> str:
    """Return the name of a class in words."""
    return snake_case(name).replace("_", " ").capitalize()


def find_layout(name: str, folder: Path, module: str | None) -> Layout:
    """Return where a new operation belongs.

    Args:
        name: The name of the class.
        folder: The folder of the project.
        module: The dotted name of the module; None to choose one.

    Raises:
        ConfigurationError: The project has several packages and no module is named.
    """
    sources = folder / "src" if (folder / "src").is_dir() else folder
    if module is not None:
        return Layout(folder, sources, module)
    packages = sorted(path.parent.name for path in sources.glob("*/__init__.py") if path.parent.name not in NOT_SOURCES)
    if len(packages) > 1:
        raise ConfigurationError(
            f"{sources}: several packages, {listed(packages)}. Name the module: "
            f"--module {packages[0]}.operations.{snake_case(name)}"
        )
    if not packages:
        return Layout(folder, sources, snake_case(name))
    # A module of this name leaves no place for a package.
    is_module = (sources / packages[0] / "operations.py").exists()
    inside = packages[0] if is_module else f"{packages[0]}.operations"
    return Layout(folder, sources, f"{inside}.{snake_case(name)}")


def project_root(folder: Path) -> Path:
    """Return the nearest folder upwards with a pyproject.toml; without one, the folder itself."""
    return next((each for each in (folder, *folder.parents) if (each / "pyproject.toml").is_file()), folder)


def check_names(name: str, module: str | None) -> None:
    """Refuse names that no class or module can have.

    Raises:
        UsageError: A name is invalid.
    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]{0,99}", name) or name in ("None", "True", "False", "Operation"):
        raise click.UsageError(
            f"NAME: invalid name {name!r}; expected letters and digits with a capital letter first, "
            "such as SendInvoice."
        )
    parts = [snake_case(name)] if module is None else module.split(".")
    for part in parts:
        if not re.fullmatch(r"[a-z_][a-z0-9_]*", part) or keyword.iskeyword(part):
            raise click.UsageError(f"--module: invalid name {part!r}; expected a name such as shop.operations.send.")


def write_files(files: dict[Path, str]) -> None:
    """Write new files; if one exists, write none.

    Raises:
        ConfigurationError: A file exists, or cannot be written.
    """
    if existing := [str(path) for path in files if path.exists()]:
        raise ConfigurationError(f"{listed(existing)}: exists already. Use another name; nothing was written.")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be written: {error.strerror}. Check the folder.") from error


@click.group()
def new() -> None:
    """Write new files of an application."""


@new.command()
@click.argument("name")
@click.option(
    "--dir",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of the project.  [default: the nearest one upwards with a pyproject.toml]",
)
@click.option("--module", metavar="MODULE", help="The dotted name of the new module.  [default: in PACKAGE.operations]")
def operation(name: str, folder: Path | None, module: str | None) -> None:
    """Write the operation NAME and its test.

    It finds the package in src or in the folder of the project, and never overwrites a file.
    """
    check_names(name, module)
    root = project_root(Path.cwd()) if folder is None else folder.resolve()
    files = find_layout(name, root, module).files(name)
    write_files(files)
    for path in files:
        click.echo(f"wrote {path.relative_to(root)}")
