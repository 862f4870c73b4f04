"""``dexpy new operation``: an operation and its test in the layout of the project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dexpy.cli.main import main
from dexpy.foundation.errors import ConfigurationError


def new(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["new", "operation", *arguments], catch_exceptions=False)


def package(folder: Path, *names: str) -> None:
    (folder.joinpath(*names)).mkdir(parents=True)
    (folder.joinpath(*names) / "__init__.py").touch()


@pytest.mark.parametrize("sources", ["src", "."])
def test_the_package_of_the_project_is_found_and_its_test_passes(
    sources: str, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff.lint]\nselect = ['E', 'F', 'I', 'UP', 'B', 'ANN', 'RET']\n")
    package(tmp_path / sources, "shop")
    package(tmp_path, "tests")
    monkeypatch.chdir(tmp_path / sources)

    result = new("SendHTTPInvoice")

    prefix = "src/" if sources == "src" else ""
    assert result.output.splitlines() == [
        f"wrote {prefix}shop/operations/__init__.py",
        f"wrote {prefix}shop/operations/send_http_invoice.py",
        "wrote tests/test_send_http_invoice.py",
    ]
    run = [sys.executable, "-m"]
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."]):
        checked = subprocess.run([*run, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    tested = subprocess.run(
        [*run, "pytest", "-q", "-p", "no:cacheprovider", "-o", "pythonpath=src .", "tests"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "2 passed" in tested.stdout, tested.stdout + tested.stderr


def test_a_named_module_and_folder_are_used(tmp_path: Path) -> None:
    (tmp_path / "tests" / "billing").mkdir(parents=True)

    output = new("Charge", "--dir", str(tmp_path), "--module", "shop.billing.charging").output

    assert "wrote shop/billing/charging.py" in output
    assert "wrote tests/billing/test_charging.py" in output
    assert "from shop.billing.charging import Charge" in (tmp_path / "tests/billing/test_charging.py").read_text()


def test_an_existing_file_is_not_overwritten_and_nothing_is_written(tmp_path: Path) -> None:
    package(tmp_path, "shop")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_charge.py").write_text("mine")

    with pytest.raises(ConfigurationError, match="exists already"):
        new("Charge", "--dir", str(tmp_path))

    assert (tmp_path / "tests" / "test_charge.py").read_text() == "mine"
    assert not (tmp_path / "shop" / "operations").exists()


def test_several_packages_are_an_error_with_the_option(tmp_path: Path) -> None:
    package(tmp_path, "accounts")
    package(tmp_path, "shop")

    with pytest.raises(ConfigurationError, match="--module accounts.operations.charge"):
        new("Charge", "--dir", str(tmp_path))


def test_a_module_operations_is_kept(tmp_path: Path) -> None:
    package(tmp_path, "shop")
    (tmp_path / "shop" / "operations.py").touch()

    assert "wrote shop/charge.py" in new("Charge", "--dir", str(tmp_path)).output


@pytest.mark.parametrize("name", ["charge", "1Charge", "Charge-it", "../Charge", "Operation", "True", "If", "Ä"])
def test_an_invalid_name_is_refused(name: str, tmp_path: Path) -> None:
    result = new(name, "--dir", str(tmp_path))

    assert result.exit_code == 2
    assert "invalid name" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["", "shop..x", "Shop.x", "shop.class", "../x", "shop/x"])
def test_an_invalid_module_is_refused(module: str, tmp_path: Path) -> None:
    result = new("Charge", "--dir", str(tmp_path), "--module", module)

    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []
