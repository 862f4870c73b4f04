"""Commands use the settings of the application, and report errors in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from dexpy import ConfigurationError
from dexpy.cli.main import main
from dexpy.configuration.settings import command_modules
from dexpy.database import schema
from dexpy.database.engine import Database
from dexpy.database.migrations.history import NEWEST
from dexpy.database.schema import SchemaState
from dexpy.foundation import package_conflict
from dexpy.foundation.errors import SchemaMissing
from dexpy.runtime import Runtime, configure, install

Ended = subprocess.CompletedProcess[str]
MARKET = 'import dexpy\ndexpy.configure(database="sqlite:///market.db")\n'

pytestmark = pytest.mark.usefixtures("no_operations_of_other_tests")


def dexpy(environment: dict[str, str], *arguments: str, **variables: str) -> Ended:
    return subprocess.run(
        [sys.executable, "-m", "dexpy", *arguments], env=environment | variables, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Runner:
    return Runner(monkeypatch)


class Runner:
    """Runs a command in this process, without a configuration and without imported modules of the folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        for name in ("market", "shop", "shop.settings", "plain", "broken", "kiosk"):
            sys.modules.pop(name, None)
        self._monkeypatch.setattr(sys, "path", list(sys.path))
        before = install(None)
        command_modules.set(())
        try:
            ended = CliRunner().invoke(main, arguments, env=variables)
        finally:
            runtime = install(before)
            command_modules.set(())
            if runtime is not None:
                runtime.close()
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            assert isinstance(ended.exception, ConfigurationError | SchemaMissing), ended.exception
            return 1, ended.stdout, f"Error: {ended.exception}"
        return ended.exit_code, ended.stdout, ended.stderr


COMMANDS = {
    "db init": ("sqlite:///market.db: created operation_schema, operation_records",),
    "db check": ("sqlite:///market.db: all tables exist, schema version",),
    "db upgrade": ("sqlite:///market.db: already at schema version",),
    "db sql": (),
    "prune --older-than 1d": ("sqlite:///market.db: 0 records deleted.",),
    "relay --once": ("0 published",),
    "check": ("ok   database sqlite:///market.db",),
}


def test_d2_db_init_acts_on_the_database_of_the_module(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "market.py").write_text(MARKET)

    ended = dexpy(environment, "db", "init", "market")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("sqlite:///market.db: created operation_schema, operation_records")
    assert "operation_records" in sa.inspect(sa.create_engine("sqlite:///market.db")).get_table_names()
    assert not (tmp_path / "dexpy.db").exists()


@pytest.mark.parametrize(
    ("command", "how"),
    [
        *((command, "{command} market") for command in COMMANDS),
        *((command, "{command} --app market") for command in COMMANDS),
        ("db init", "{command} -A market market"),
    ],
)
def test_d2_every_command_accepts_the_modules_of_the_application(
    run: Runner, tmp_path: Path, command: str, how: str
) -> None:
    (tmp_path / "market.py").write_text(MARKET)
    assert run("db", "init", "market")[0] == 0
    if command == "db init":
        (tmp_path / "market.db").unlink()

    status, shown, noted = run(*how.format(command=command).split(), DEXPY_DATABASE="sqlite:///elsewhere.db")

    assert (status, [expected for expected in COMMANDS[command] if expected not in shown]) == (0, []), noted
    assert "Note" not in noted
    assert {file.name for file in tmp_path.glob("*.db")} == {"market.db"}


@pytest.mark.parametrize("command", COMMANDS)
def test_d2_a_module_that_cannot_be_imported_is_reported_in_one_message(
    run: Runner, tmp_path: Path, command: str
) -> None:
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    for module, expected in (("nowhere", "there is no 'nowhere'"), ("broken", "No module named 'no_such_thing'")):
        status, shown, noted = run(*command.split(), module)

        assert status == 1
        assert f"Cannot import the module {module!r}" in shown + noted
        assert expected in shown + noted
        assert not list(tmp_path.glob("*.db"))


def test_d2_several_dotted_modules_are_accepted_and_any_of_them_may_configure(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "settings.py").write_text(MARKET)
    (tmp_path / "plain.py").write_text("import dexpy\n")

    assert run("db", "init", "plain", "shop.settings")[:2] == (0, _created_message("sqlite:///market.db"))
    assert not (tmp_path / "dexpy.db").exists()


def _created_message(url: str) -> str:
    return f"{url}: created {', '.join(table.name for table in schema.TABLES)}.\n"


@pytest.mark.parametrize("command", ["db init", "prune --older-than 1d"])
def test_d2_a_command_prints_the_default_database_if_no_module_configures_one(
    run: Runner, tmp_path: Path, command: str
) -> None:
    (tmp_path / "plain.py").write_text("import dexpy\n")
    (tmp_path / "pyproject.toml").write_text("")

    for modules in ((), ("plain",)):
        status, shown, noted = run(*command.split(), *modules)
        assert status == 0
        assert f"{tmp_path / 'dexpy.db'}" in shown
        assert "is the default, because no database is configured" in noted
        assert ("plain" in noted) is bool(modules)
    noted = run(*command.split(), "plain", DEXPY_DATABASE="sqlite:///named.db")[2]
    assert "sqlite:///named.db is the database of DEXPY_DATABASE" in noted
    (tmp_path / "pyproject.toml").write_text('[tool.dexpy]\ndatabase = "sqlite:///named.db"\n')
    assert f"is the database of {tmp_path / 'pyproject.toml'}" in run(*command.split(), "plain")[2]


@pytest.mark.parametrize("command", ["db init", "db check", "prune --older-than 1d"])
def test_d2_an_application_without_records_is_reported(run: Runner, tmp_path: Path, command: str) -> None:
    (tmp_path / "market.py").write_text('import dexpy\ndexpy.configure(broker="redis://127.0.0.1:1/0")\n')

    status, _, noted = run(*command.split(), "market")

    assert status == 1
    assert "nothing is recorded" in noted
    assert not list(tmp_path.glob("*.db"))


def test_d3_check_does_not_report_ok_for_settings_that_a_broken_module_may_configure(
    run: Runner, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")

    status, shown, _ = run("check", "broken")

    assert status == 1
    assert [line[:4] for line in shown.splitlines()] == ["FAIL", "warn"]
    assert "Run with -v for the traceback." in shown
    # The advised option shows the traceback.
    assert "ZeroDivisionError" in run("check", "broken", "-v")[2] + run("check", "-v", "broken")[2]


def test_d3_check_warns_that_no_application_was_imported(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "market.py").write_text(MARKET)

    assert "warn settings: no database is configured" in run("check")[1]
    assert "Pass the modules of the worker" in run("check", DEXPY_DATABASE="sqlite:///a.db")[1]
    assert "ok   settings\nok   database sqlite:///market.db\n" in run("check", "market")[1]


# ------------------------------------------------------------------------------------------------ session factories

FACTORIES = {
    "raises": ("def factory():\n    raise RuntimeError('Outside of the blog')\n", "RuntimeError: Outside of the blog"),
    "of SQLAlchemy": (
        "def factory():\n    raise sqlalchemy.exc.InvalidRequestError('no bind')\n", "InvalidRequestError: no bind"
    ),
    "key": ("def factory():\n    return {}['blog']\n", "KeyError: 'blog'"),
    "argument": ("def factory(request):\n    ...\n", "TypeError: factory() missing 1 required positional argument"),
    "none": ("def factory():\n    return None\n", "it returned NoneType"),
    "wrong type": ("def factory():\n    return sqlalchemy.create_engine('sqlite://')\n", "it returned Engine"),
    "coroutine": ("async def make():\n    ...\nfactory = lambda: make()\n", "it returned coroutine"),
    "session that raises": (
        "class Own(sqlalchemy.orm.Session):\n    def get_bind(self, *_, **__):\n"
        "        raise RuntimeError('no tenant')\n"
        "factory = Own\n",
        "RuntimeError: no tenant",
    ),
    "error that cannot be printed": (
        "class Odd(Exception):\n    def __str__(self):\n        raise ValueError('no')\n"
        "def factory():\n    raise Odd\n",
        "configure(session_factory=...): raised Odd: <Odd cannot be printed>.",
    ),
    "error with a password": (
        "def factory():\n    raise RuntimeError('postgresql://u:hunter2@db/shop is away')\n",
        "RuntimeError: postgresql://db/shop is away.",
    ),
}  # fmt: skip


def blog(folder: Path, source: str) -> None:
    (folder / "market.py").write_text(
        f"import dexpy, sqlalchemy, sqlalchemy.orm\n{source}"
        'dexpy.configure(database="sqlite:///app.db", session_factory=factory)\n'
    )


@pytest.mark.parametrize("kind", FACTORIES)
def test_d8_check_fails_in_one_line_on_a_factory_that_does_not_work(run: Runner, tmp_path: Path, kind: str) -> None:
    source, expected = FACTORIES[kind]
    blog(tmp_path, source)

    status, shown, noted = run("check", "market")

    (failed,) = [line for line in shown.splitlines() if line.startswith("FAIL")]
    assert status == 1
    assert "session_factory" in failed
    assert expected in failed
    assert "Traceback" not in noted


@pytest.mark.parametrize("kind", ["raises", "none"])
def test_d8_the_worker_refuses_to_start_with_the_same_sentence(
    run: Runner, environment: dict[str, str], tmp_path: Path, kind: str
) -> None:
    blog(tmp_path, FACTORIES[kind][0])
    failed = next(line for line in run("check", "market")[1].splitlines() if line.startswith("FAIL"))

    ended = dexpy(environment, "worker", "market", "-p", "1", "--burst")

    assert ended.returncode == 2
    assert f"Error: {failed.removeprefix('FAIL sessions: ')}" in ended.stderr
    assert "Traceback" not in ended.stderr


# ------------------------------------------------------------------------------------------------------- the tables


def test_d11_db_init_is_not_advised_for_a_missing_column(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "market.py").write_text(MARKET)
    run("db", "init", "market")
    with sa.create_engine("sqlite:///market.db").begin() as connection:
        connection.exec_driver_sql("ALTER TABLE operation_queues DROP COLUMN created_at")

    for command in ("db check", "db init", "db upgrade", "check", "prune --older-than 1d"):
        status, shown, noted = run(*command.split(), "market")
        assert (command, status) == (command, 1)
        assert "table operation_queues lacks created_at" in shown + noted
        assert "add it again with the SQL of `dexpy db sql --from 0`" in shown + noted
        assert "Run: " not in shown + noted


def test_d11_db_check_advises_the_command_that_creates_the_tables_in_its_database(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "market.py").write_text(MARKET)

    status, _, noted = run("db", "check", "market")
    advised = noted.partition("Run: ")[2].strip()

    assert (status, advised) == (1, "dexpy db init market")
    assert run(*advised.removeprefix("dexpy ").split())[0] == 0
    assert run("db", "check", "market")[0] == 0


def test_d11_the_advised_command_is_that_of_the_situation() -> None:
    def advised(runtime: Runtime) -> str:
        return runtime.settings.db_command("init")

    assert advised(configure(database="sqlite:///a.db")).startswith("dexpy db init --app MODULE")
    command_modules.set(("shop.settings",))
    try:
        assert advised(configure(database="sqlite:///a.db")) == "dexpy db init shop.settings"
    finally:
        command_modules.set(())
    os.environ["DEXPY_DATABASE"] = "sqlite:///b.db"
    try:
        assert advised(configure()) == "dexpy db init"
    finally:
        del os.environ["DEXPY_DATABASE"]


def test_d11_advice_is_printed_for_missing_tables_and_for_missing_columns() -> None:
    state = SchemaState(NEWEST, True, ("a",), {"b": ("c",)})

    message = str(state.error("sqlite:///a.db", "dexpy db {} shop".format))

    assert "no table a; table b lacks c. Another program has dropped it; add it again" in message
    assert message.endswith("Then run: dexpy db init shop")
    assert Database("sqlite:///a.db").display_url == "sqlite:///a.db"


# -------------------------------------------------------------------------------------------- another package `dexpy`


@pytest.fixture
def overwritten(tmp_path: Path) -> Path:
    """A folder of packages in which another distribution `dexpy` was installed over this one."""
    ours, packages = Path(package_conflict.__file__).parents[1], tmp_path / "packages"
    (packages / "dexpy").mkdir(parents=True)
    for path in ours.iterdir():
        if path.name not in ("__init__.py", "__pycache__"):
            (packages / "dexpy" / path.name).symlink_to(path)
    (packages / "dexpy" / "__init__.py").write_text("from math import pi\n")
    (packages / "dexpy-0.12.dist-info").mkdir()
    (packages / "dexpy-0.12.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: dexpy\nVersion: 0.12\n")
    return packages


@pytest.mark.parametrize("code", ["import dexpy.operation", "from dexpy.cli.main import run"])
@pytest.mark.parametrize("is_removed", [False, True], ids=["overwritten", "removed"])
def test_every_submodule_reports_another_distribution_of_the_same_name(
    environment: dict[str, str], overwritten: Path, code: str, is_removed: bool
) -> None:
    if is_removed:
        # As after `pip uninstall dexpy`.
        (overwritten / "dexpy" / "__init__.py").unlink()

    ended = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {_site()!r}; {code}"],
        env=environment | {"PYTHONPATH": str(overwritten)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    line = ended.stderr.strip().splitlines()[-1]
    assert line.startswith("ImportError: dexpy: "), ended.stderr
    assert ("__init__.py is missing" in line) is is_removed
    assert "pip uninstall --yes dexpy && python -m pip install --force-reinstall --no-deps dexpy-operations" in line


def _site() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def test_check_warns_of_another_dexpy_beside_this_one(
    run: Runner, overwritten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "warn package" not in run("check")[1]
    monkeypatch.syspath_prepend(str(overwritten))

    status, shown, _ = run("check")

    assert status == 0
    assert "warn package: the unrelated distribution 'dexpy' 0.12 is installed" in shown


FUNCTIONS = {
    "redactor that raises": ("redactor=fail", "redactor: It failed: KeyError: 'dexpy check'."),
    "redactor of another type": (
        "redactor=lambda text: None",
        "redactor: expected the function to return a str, got NoneType.",
    ),
    "run_context that raises": ("run_context=fail", "run_context: It failed: TypeError"),
    "run_context that is none": ("run_context=lambda: 5", "run_context: It failed: "),
    "encryptor that raises": ("encryptors={'default': Raises()}", "encryptor 'default': it raised"),
    "encryptor that loses": ("encryptors={'own': Loses()}", "encryptor 'own': expected decrypt() to return the bytes"),
    "encryptor of text": ("encryptors={'own': Text()}", "encryptor 'own': expected decrypt() to return the bytes"),
}


def kiosk(folder: Path, settings: str) -> None:
    (folder / "kiosk.py").write_text(
        "import dexpy\n"
        "def fail(text):\n    raise KeyError(text)\n"
        "class Raises:\n    def encrypt(self, data):\n        raise ValueError('hunter2')\n    decrypt = encrypt\n"
        "class Loses:\n    def encrypt(self, data):\n        return data[1:]\n    decrypt = encrypt\n"
        "class Text:\n    def encrypt(self, data):\n        return data.decode()\n    decrypt = encrypt\n"
        "class Same:\n    def encrypt(self, data):\n        return data\n    decrypt = encrypt\n"
        f'dexpy.configure(database="sqlite:///app.db", {settings})\n'
    )


@pytest.mark.parametrize("case", FUNCTIONS)
def test_d3_check_fails_on_a_function_of_the_settings_that_does_not_work(
    run: Runner, tmp_path: Path, case: str
) -> None:
    settings, expected = FUNCTIONS[case]
    kiosk(tmp_path, settings)

    status, shown, noted = run("check", "kiosk")

    (failed,) = [line for line in shown.splitlines() if line.startswith("FAIL")]
    assert status == 1
    assert failed.startswith(f"FAIL {expected}")
    assert "hunter2" not in shown
    assert "Traceback" not in noted


def test_d3_check_reports_that_the_functions_of_the_settings_work(run: Runner, tmp_path: Path) -> None:
    kiosk(tmp_path, "redactor=str.upper, encryptors={'own': Same()}")

    status, shown, _ = run("check", "kiosk")

    assert status == 0
    assert {"ok   redactor", "ok   encryptor 'own'"} <= set(shown.splitlines())


def test_d3_check_warns_of_a_queue_function_that_names_no_queue(run: Runner, tmp_path: Path) -> None:
    kiosk(tmp_path, "redactor=None")
    with (tmp_path / "kiosk.py").open("a") as file:
        for name, queue in {
            "Raises": "lambda op: {}['shop']",
            "Names": "lambda op: 'no queue'",
            "Works": "lambda op: 'shop'",
        }.items():
            file.write(
                f"class Send{name}(dexpy.Operation):\n    async_ = dexpy.Async(queue={queue})\n"
                "    def perform(self) -> None: ...\n"
            )
        file.write("class SendOther(SendRaises):\n    shop: int\n    def perform(self) -> None: ...\n")

    status, shown, _ = run("check", "kiosk")

    warned = [line for line in shown.splitlines() if line.startswith("warn queue of")]
    assert status == 0
    assert warned[0].startswith("warn queue of kiosk.SendNames: SendNames.async_ (its queue function): invalid")
    assert warned[1].startswith("warn queue of kiosk.SendRaises: the queue function raised KeyError: 'shop'")
    assert len(warned) == 2
