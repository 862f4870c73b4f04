"""No part of a URL that may contain a secret is shown, in any form of the URL."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from sqlalchemy.engine import URL, make_url

import dexpy
from dexpy.brokers.urls import broker_from_url
from dexpy.cli.check import check
from dexpy.configuration.settings import Settings
from dexpy.database.engine import Database
from dexpy.foundation.errors import ConfigurationError, DatabaseUnavailable
from dexpy.foundation.urls import displayed_url, without_secrets
from dexpy.runtime import Runtime, install

SECRET = "hunter2"

DATABASES = [
    "postgresql+psycopg://u:hunter2@127.0.0.1:1/x",
    "postgresql+psycopg://127.0.0.1:1/x?user=u&token=hunter2",
    "postgresql+psycopg://127.0.0.1:1/x?hunter2=1",
    "postgresql+psycopg://127.0.0.1:1/x?sslmode=hunter2",
    "postgresql+psycopg://127.0.0.1:1/x?connect_timeout=hunter2",
    "postgresql+psycopg://u:hun@hunter2@127.0.0.1:1/x",
    "postgresql+psycopg://u:a/hunter2@127.0.0.1:1/x",
    "postgresql+psycopg://u:a?hunter2@127.0.0.1:1/x",
    "postgresql+psycopg://u:1#hunter2@127.0.0.1:1/x",
    "postgresql+psycopg://u:hunter2",
    "postgresql+psycopg://u%3Ahunter2%40127.0.0.1:1/x",
    "mysql+pymysql://u:hunter2@127.0.0.1:1/x?ssl_key=hunter2",
    "mysql+pymysql://u@127.0.0.1:1/x?read_timeout=hunter2",
    "sqlite:////nowhere/x.db?timeout=hunter2",
    "sqlite+pysqlcipher://:hunter2@/x.db",
    "u:hunter2@127.0.0.1/x",
    "postgresql//u:hunter2@127.0.0.1/x",
    "postgresql:u:hunter2@127.0.0.1/x",
    "u hunter2@127.0.0.1/x",
    "oracle+some://u:hunter2@127.0.0.1/x",
]
BROKERS = [
    "redis://u:hunter2@127.0.0.1:1/0",
    "redis://:hunter2@127.0.0.1:1/0",
    "redis://u:hun@hunter2@127.0.0.1:1/0",
    "redis://u:12/hunter2@127.0.0.1:1/0",
    "redis://u:12?hunter2@127.0.0.1:1/0",
    "redis://u:12#hunter2@127.0.0.1:1/0",
    "redis://u:hunter2",
    "redis://127.0.0.1:1/0?token=hunter2",
    "redis://127.0.0.1:1/0?socket_timeout=hunter2",
    "redis://127.0.0.1:1/0?namespace=hunter2&namespace=b",
    "unix:///nowhere/redis.sock?password=hunter2",
    "u:hunter2@127.0.0.1/x",
    "redis:u:hunter2@127.0.0.1/x",
    "kafka://u:hunter2@127.0.0.1/x",
    "amqp://u:hunter2@127.0.0.1:1/x",
    "amqp://u:hunter2@127.0.0.1:hunter2/x",
    "amqp://u:p@127.0.0.1:1/x?connection_attempts=hunter2",
    "amqp://u:p@127.0.0.1:1/x?ssl_options={'password': 'hunter2'}",
    "amqps://u:p@127.0.0.1:1/x?ssl_options={'keyfile': '/nowhere/hunter2'}",
    "amqp://u:p@127.0.0.1:1/x?hunter2",
]

pytestmark = pytest.mark.usefixtures("no_operations_of_other_tests")


@pytest.fixture(autouse=True)
def restored() -> Any:
    before = install(None)
    yield
    install(before)


@pytest.mark.parametrize("url", [*DATABASES, *BROKERS])
def test_s3_no_repr_of_settings_or_a_runtime_shows_a_secret(url: str) -> None:
    settings = Settings(database=url, broker=url, encryption_keys=SECRET)

    for shown in (
        repr(settings),
        str(settings),
        repr(Runtime(attrs.evolve(settings, encryption_keys=None))),
        displayed_url(url),
    ):
        assert SECRET not in shown


def test_s3_a_repr_shows_where_a_server_is() -> None:
    settings = Settings(database="postgresql+psycopg://u:hunter2@db:5432/shop?a=b", broker="amqp://u:p@mq:5672/%2F")

    assert "database='postgresql+psycopg://db:5432/shop', broker='amqp://mq:5672/%2F'" in repr(settings)


@pytest.mark.parametrize("url", DATABASES)
def test_s4_no_error_of_a_database_shows_a_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEXPY_DATABASE", url)
    result = CliRunner().invoke(check, [], catch_exceptions=False)

    assert result.exit_code == 1, result.output
    assert "FAIL" in result.output
    assert SECRET not in result.output + caplog.text


@pytest.mark.parametrize("url", BROKERS)
def test_s4_no_error_of_a_broker_shows_a_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEXPY_DATABASE", f"sqlite:///{tmp_path}/a.db")
    monkeypatch.setenv("DEXPY_BROKER", url)
    result = CliRunner().invoke(check, [], catch_exceptions=False)

    assert result.exit_code == 1, result.output
    assert "FAIL" in result.output
    assert SECRET not in result.output


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:hun@hunter2@127.0.0.1:1/x", "postgresql+psycopg://u:hunter2"])
def test_s4_a_database_url_with_an_ambiguous_host_and_password_is_refused(url: str) -> None:
    with pytest.raises((ConfigurationError, DatabaseUnavailable)) as refused:
        Database(url).connect()

    assert SECRET not in str(refused.value)


def test_s4_characters_of_a_password_that_sqlalchemy_accepts_are_accepted() -> None:
    parsed_url = URL.create("postgresql+psycopg", "u", "a/b?c#d@hunter2", "db", 5432, "shop")

    assert (
        Database(parsed_url).display_url
        == Database(parsed_url.render_as_string(False)).display_url
        == "postgresql+psycopg://db:5432/shop"
    )
    assert make_url(parsed_url.render_as_string(False)).password == "a/b?c#d@hunter2"


def test_s4_an_ambiguous_redis_url_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"broker: ambiguous URL 'redis://<hidden>'.* as %2F %3F %23 %40"):
        broker_from_url("redis://u:12/hunter2@127.0.0.1:1/0")


def test_s4_settings_of_a_file_that_are_not_text_are_not_shown(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.dexpy]\ndatabase = ["postgresql://u:hunter2@h/x"]\n')
    with pytest.raises(ConfigurationError, match="database: expected a URL as text, got an array") as refused:
        Settings.find({}, tmp_path)

    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_s4_the_message_of_a_driver_stays_readable() -> None:
    url = "postgresql+psycopg://shop:e@db:5432/shop?sslmode=require&connect_timeout=5"
    message = 'connection to server at "db", port 5432 failed: FATAL: password authentication failed for user "shop"'

    assert without_secrets(message, url) == message


def test_q13_a_byte_order_mark_at_the_start_of_a_settings_file_is_ignored(tmp_path: Path) -> None:
    text = '[tool.dexpy]\ndatabase = "sqlite:///other.db"\n'
    (tmp_path / "pyproject.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())

    assert Settings.find({}, tmp_path).database == f"sqlite:///{tmp_path}/other.db"


def test_q13_a_settings_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes("[tool.dexpy]\n".encode("utf-16"))

    with pytest.raises(ConfigurationError, match="pyproject.toml: invalid settings"):
        Settings.find({}, tmp_path)


def test_s3_a_configured_runtime_shows_no_secret(tmp_path: Path) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/a.db?timeout=12345", broker="sqlite:///b.db")

    assert "12345" not in repr(runtime.settings) + runtime.store.database.display_url + repr(runtime.store.database)
    runtime.close()
