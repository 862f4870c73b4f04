"""``--app`` and the setting ``app``: commands load an application object, or call the factory that creates it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from click.testing import CliRunner
from harness.workers import Deployment

from dexpy.cli.main import main
from dexpy.configuration.loading import Configuration
from dexpy.errors import ConfigurationError
from dexpy.runtime import install
from dexpy.worker import application
from dexpy.worker.application import load_application
from dexpy.worker.importing import StartupError

pytestmark = pytest.mark.usefixtures("no_operations_of_other_tests")

KIOSK = """
import dexpy

calls = []


class Kiosk:
    @classmethod
    def create(cls):
        return create_app()

    def __call__(self, environ, start_response):
        calls.append("served")


class Greet(dexpy.Operation, name="kiosk.Greet"):
    def perform(self) -> str:
        return "hello"


def create_app(name="kiosk"):
    calls.append("created")
    dexpy.configure(database="sqlite:///kiosk.db")
    return Kiosk()


def with_config(config):
    return Kiosk()


def wsgi(environ, start_response):
    calls.append("served")


async def asgi(scope, receive, send):
    calls.append("served")


async def create_later():
    calls.append("created")


def broken():
    raise ValueError("no colour")


def ends():
    raise SystemExit(3)


app = Kiosk()
nothing = None
"""


@pytest.fixture(autouse=True)
def kiosk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    (tmp_path / "kiosk.py").write_text(KIOSK)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(application, "_loaded", {})
    yield tmp_path
    sys.modules.pop("kiosk", None)


def dexpy(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run a command in this process, and return its status and output."""
    before = install(None)
    try:
        ended = CliRunner().invoke(main, arguments, env=variables)
    finally:
        runtime = install(before)
    if runtime is not None:
        runtime.close()
    error = ended.exception
    is_ours = isinstance(error, ConfigurationError)
    return getattr(error, "exit_status", 1) if is_ours else ended.exit_code, f"{ended.output}{error if is_ours else ''}"


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("kiosk:create_app", ["created"]),
        ("kiosk:create_app()", ["created"]),
        ("kiosk:Kiosk.create", ["created"]),
        ("kiosk:app", []),
        ("kiosk:Kiosk", []),
        ("kiosk:wsgi", []),
        ("kiosk:asgi", []),
    ],
)
def test_a_factory_is_called_once_and_an_application_is_not(name: str, calls: list[str]) -> None:
    load_application((name,))
    load_application((name, "kiosk"))

    assert sys.modules["kiosk"].calls == calls


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kiosk:create_ap", "the module 'kiosk' has no attribute 'create_ap'. Did you mean 'create_app'?"),
        ("kiosk:Kiosk.creat", "'Kiosk' has no attribute 'creat'. Did you mean 'create'?"),
        ("kiosk:nothing", "it is None. Pass the name of the function that creates it"),
        ("kiosk:with_config", "it requires the arguments 'config'; expected an application, or a function without"),
        ("kiosk:with_config()", "with_config() raised TypeError: "),
        ("kiosk:calls()", "'calls' cannot be called. Remove the parentheses."),
        ("kiosk:create_later", "create_later() is async; expected a function."),
        ("kiosk:broken", "broken() raised ValueError: no colour. Run with -v for the traceback."),
        ("kiosk:ends", "it raised SystemExit(3), which ends the program."),
    ],
)
def test_an_application_that_cannot_be_loaded_is_one_error_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(StartupError) as refused:
        load_application((name,))

    assert str(refused.value).startswith(f"Cannot load the application {name!r}: {message}")
    assert "\n" not in str(refused.value)
    assert dexpy("check", "--app", name) == (1, f"FAIL app {name}: {refused.value}\n" + _rest())


def _rest() -> str:
    return "warn settings: not checked, because a module that failed may configure them\n"


def test_a_module_that_is_missing_is_named() -> None:
    with pytest.raises(StartupError, match=r"Cannot import the module 'kiosq': there is no 'kiosq'"):
        load_application(("kiosq:app",))


@pytest.mark.parametrize(
    ("arguments", "variables", "file"),
    [
        (("--app", "kiosk:create_app"), {}, ""),
        (("-A", "kiosk:create_app", "-A", "kiosk"), {"DEXPY_APP": "nowhere:app"}, ""),
        ((), {"DEXPY_APP": "kiosk:create_app"}, 'app = "nowhere:app"'),
        ((), {}, 'app = ["kiosk:create_app"]'),
        ((), {"DEXPY_ENV": "test"}, 'app = "nowhere:app"\n[test]\napp = "kiosk:create_app"'),
        (("kiosk",), {}, 'app = "kiosk:create_app"'),
    ],
)
@pytest.mark.parametrize("command", ["check", "relay --once", "recurring list --json", "db init"])
def test_commands_load_the_application_of_the_flag_the_variable_or_the_file(
    command: str, arguments: tuple[str, ...], variables: dict[str, str], file: str, kiosk: Path
) -> None:
    (kiosk / "dexpy.toml").write_text(file)

    status, output = dexpy(*command.split(), *arguments, **variables)

    assert status == 0, output
    assert {path.name for path in kiosk.glob("*.db")} == {"kiosk.db"}, output


def test_a_command_that_advises_another_one_names_the_application(kiosk: Path) -> None:
    (kiosk / "kiosk.py").write_text(KIOSK.replace("sqlite:///kiosk.db", "sqlite:///no/kiosk.db"))
    load_application(("kiosk:create_app",))

    settings = sys.modules["kiosk"].dexpy.current_runtime().settings
    assert settings.db_command("init") == "dexpy db init --app kiosk:create_app"


@pytest.mark.parametrize("value", ['"kiosk/a"', '"kiosk:"', '":app"', '"a b"', "3", '["kiosk", ""]', '"kiosk:app(1)"'])
def test_an_invalid_name_is_an_error_with_the_line(value: str, kiosk: Path) -> None:
    (kiosk / "dexpy.toml").write_text(f"app = {value}")
    with pytest.raises(ConfigurationError, match=r"dexpy.toml:1: app: expected a module such as \"shop.operations\""):
        Configuration.load({}, kiosk, {})


def test_a_worker_without_a_module_and_an_application_is_refused() -> None:
    assert dexpy("worker")[0] == 2
    assert "Missing argument 'MODULE...'" in dexpy("worker")[1]


def test_an_argument_with_an_attribute_names_the_option() -> None:
    status, output = dexpy("worker", "kiosk:app")

    assert status == 2
    assert "Pass an application in a module as --app kiosk:app." in output


def test_a_worker_runs_the_operations_of_the_application_that_it_creates(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.dexpy]\napp = "kiosk:create_app"\n')
    send = "import kiosk; kiosk.create_app(); kiosk.Greet().async_().call()"
    try:
        assert deployment.run([sys.executable, "-c", send], DEXPY_DATABASE="").returncode == 0
        ended = deployment.dexpy("worker", "--burst", "-p", "1")
    finally:
        deployment.close()

    assert ended.returncode == 0, ended.stderr
    assert "run.succeeded operation=kiosk.Greet" in ended.stderr
