"""The database and broker of a runtime: from configure(), the environment, pyproject.toml, or by default."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

import dexpy
from dexpy import ConfigurationError, Operation
from dexpy.configuration.settings import Settings
from dexpy.configuration.table import SETTINGS
from dexpy.database.tables import records
from dexpy.errors import DatabaseUnavailable, MissingExtra
from dexpy.runtime import Runtime, install


class Echo(Operation):
    """Returns its text."""

    text: str

    def perform(self) -> str:
        return self.text


def find(folder: Path, **environment: str) -> Settings:
    return Settings.find(environment, folder)


def test_without_settings_the_database_is_a_file_beside_the_nearest_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    inner = tmp_path / "app" / "jobs"
    inner.mkdir(parents=True)

    settings = find(inner)

    assert (settings.database, settings.broker) == (None, None)
    assert settings.default_database == f"sqlite:///{tmp_path / 'dexpy.db'}"


def test_without_a_pyproject_the_file_is_in_the_working_folder(tmp_path: Path) -> None:
    assert find(tmp_path).home == tmp_path


def test_relative_files_in_pyproject_are_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dexpy]\ndatabase = "sqlite:///runs.db"\n')
    inner = tmp_path / "deep"
    inner.mkdir()

    assert find(inner).database == f"sqlite:///{tmp_path / 'runs.db'}"


def test_the_environment_precedes_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dexpy]\ndatabase = "sqlite:///runs.db"\n')

    assert find(tmp_path, DEXPY_DATABASE="sqlite:///other.db").database == "sqlite:///other.db"


def keys_of_the_file() -> str:
    keys = {key.partition(".")[0] for key, setting in SETTINGS.items() if setting.in_file}
    return ", ".join(map(repr, sorted(keys)))


def test_an_unknown_setting_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dexpy]\ndatabse = "sqlite:///runs.db"\n')

    with pytest.raises(ConfigurationError) as refused:
        find(tmp_path)

    assert str(refused.value) == (
        f"{tmp_path / 'pyproject.toml'}:2: [tool.dexpy] databse: unknown key; expected one of {keys_of_the_file()}. "
        "Did you mean 'database'?"
    )


def test_a_setting_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.dexpy]\ndatabase = 3\n")

    with pytest.raises(ConfigurationError, match=r"\[tool.dexpy\] database: expected a URL as text, got 3"):
        find(tmp_path)


def test_an_unreadable_pyproject_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.dexpy\n")

    with pytest.raises(ConfigurationError, match=r"pyproject.toml: invalid settings: .* Fix the file"):
        find(tmp_path)


def test_configure_precedes_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEXPY_DATABASE", "sqlite:///from-environment.db")

    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'mine.db'}")

    assert dexpy.current_runtime() is runtime
    assert runtime.database_url == f"sqlite:///{tmp_path / 'mine.db'}"
    runtime.close()


def test_configure_uses_the_database_of_the_applications_sessions(tmp_path: Path) -> None:
    import sqlalchemy as sa
    from sqlalchemy.orm import sessionmaker

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")

    runtime = dexpy.configure(session_factory=sessionmaker(engine))

    assert runtime.database_url == f"sqlite:///{tmp_path / 'app.db'}"
    runtime.close()
    engine.dispose()


def test_an_invalid_database_url_is_one_error() -> None:
    with pytest.raises(ConfigurationError) as refused:
        dexpy.configure(database="not a url")

    assert str(refused.value) == (
        "database: invalid URL 'not a url' (Could not parse SQLAlchemy URL from given URL string); "
        "expected a URL such as sqlite:///dexpy.db or postgresql+psycopg://user@host/name."
    )


def test_an_unknown_kind_of_database_is_one_error() -> None:
    with pytest.raises(ConfigurationError, match=r"^database oracel://x/y: unknown kind; expected sqlite://, "):
        dexpy.configure(database="oracel://x/y")


def test_an_unknown_kind_of_broker_is_one_error_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        dexpy.configure(database=f"sqlite:///{tmp_path / 'a.db'}", broker="kafka://me:secret@host")

    assert str(refused.value).startswith("broker kafka://host: unknown kind; expected redis://, ")


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("postgresql+psycopg://x@127.0.0.1/y", "psycopg", "postgres"),
        ("mysql+pymysql://x@127.0.0.1/y", "pymysql", "mysql"),
    ],
)
def test_a_missing_driver_names_the_extra(url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingExtra) as refused:
        dexpy.configure(database=url)

    assert str(refused.value).endswith(f'is not installed. Run: pip install "dexpy-operations[{extra}]"')
    assert refused.value.extra == extra


def test_a_missing_pika_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pika", None)

    with pytest.raises(
        MissingExtra,
        match=r'the package \'pika\' is not installed. Run: pip install "dexpy-operations\[rab',
    ):
        dexpy.configure(database=f"sqlite:///{tmp_path / 'a.db'}", broker="amqp://guest:guest@127.0.0.1")


def test_a_database_that_cannot_be_opened_is_one_error_at_the_enqueue() -> None:
    runtime = dexpy.configure(database="sqlite:////no/such/folder/app.db")

    with pytest.raises(DatabaseUnavailable) as refused:
        Echo(text="hi").async_().call()

    assert str(refused.value) == (
        "Cannot open sqlite:////no/such/folder/app.db: unable to open database file. "
        "The folder /no/such/folder does not exist. Create it, or correct the path."
    )
    runtime.close()


def test_a_file_that_is_not_a_database_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("these are notes, " * 100)
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'notes.txt'}")

    with pytest.raises(DatabaseUnavailable, match="file is not a database"):
        Echo(text="hi").async_().call()

    runtime.close()


def test_a_call_without_a_configuration_creates_no_file_and_an_enqueue_creates_it(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "app.py").write_text(
        "import os, sys\n"
        "from dexpy import Operation\n"
        "class Echo(Operation):\n"
        "    text: str\n"
        "    def perform(self) -> str:\n"
        "        return self.text\n"
        "if __name__ == '__main__':\n"
        "    assert Echo(text='hi').call() == 'hi'\n"
        "    assert os.listdir('.') == ['app.py'], os.listdir('.')\n"
        "    assert 'sqlalchemy' not in sys.modules\n"
        "    print(Echo(text='hi').async_().call().operation)\n"
        "    assert 'dexpy.db' in os.listdir('.')\n"
    )

    process = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (process.returncode, process.stdout, process.stderr) == (0, "app.Echo\n", "")


def test_a_broker_without_a_database_disables_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runtime = dexpy.configure(broker=f"sqlite:///{tmp_path / 'queue.db'}")

    ticket = Echo(text="hi").async_().call()

    assert not ticket.recorded
    assert [record.getMessage() for record in caplog.records if "recording.disabled" in record.getMessage()] == [
        "recording.disabled reason='a broker is configured and no database'"
    ]
    runtime.close()


def test_two_runtimes_can_follow_each_other(tmp_path: Path) -> None:
    for name in ("one", "two"):
        runtime = dexpy.configure(database=f"sqlite:///{tmp_path / name}.db")
        assert Echo(text=name).call() == name
        assert dexpy.records.all().count() == 1
        runtime.close()
    install(None)
    assert sorted(file for file in os.listdir(tmp_path) if file.endswith(".db")) == ["one.db", "two.db"]


@pytest.mark.parametrize("name", ["store", "services", "dispatcher", "broker"])
def test_a_property_of_a_runtime_creates_nothing(name: str, tmp_path: Path) -> None:
    runtime = Runtime(Settings(database=f"sqlite:///{tmp_path}/runs.db"))

    with pytest.raises(ConfigurationError, match=r"not available yet\. Call runtime\.start\(\)"):
        getattr(runtime, name)
    runtime.start()

    assert getattr(runtime, name) is getattr(runtime, name)
    runtime.close()


def test_a_runtime_that_several_threads_start_is_started_once(tmp_path: Path) -> None:
    runtime = Runtime(Settings(database=f"sqlite:///{tmp_path}/runs.db"))
    barrier = threading.Barrier(8)

    def start(_: int) -> int:
        barrier.wait(30)
        return id(runtime.start())

    with ThreadPoolExecutor(8) as pool:
        started = set(pool.map(start, range(8)))

    assert started == {id(runtime.services)}
    assert runtime.open_store() is runtime.store is runtime.dispatcher.store
    runtime.close()


def test_the_store_is_opened_without_the_package_of_the_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pika", None)
    runtime = Runtime(Settings(database=f"sqlite:///{tmp_path}/runs.db", broker="amqp://guest@localhost"))

    assert runtime.open_store().rows(sa.select(records)) == []
    with pytest.raises(MissingExtra, match="pika"):
        runtime.start()
    runtime.close()


def test_a_wrong_key_in_the_environment_is_one_error_at_the_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEXPY_ENCRYPTION_KEYS", "short")

    with pytest.raises(ConfigurationError, match="key 1 of 1"):
        Echo(text="x").call()
