"""Asyncio drivers and factories are refused at the configuration, with the fix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import dexpy
from dexpy import ConfigurationError, Operation, records
from dexpy.cli.main import main

URLS = {
    "sqlite+aiosqlite:///app.db": "sqlite:///app.db",
    "postgresql+asyncpg://shop:hush@db.example/shop": "postgresql+psycopg://db.example/shop",
    "postgresql+psycopg_async://shop:hush@db.example/shop": "postgresql+psycopg://db.example/shop",
    "mysql+aiomysql://shop:hush@db.example/shop": "mysql+pymysql://db.example/shop",
    "mysql+asyncmy://shop:hush@db.example/shop": "mysql+pymysql://db.example/shop",
    "mariadb+aiomysql://shop:hush@db.example/shop": "mariadb+pymysql://db.example/shop",
}
"""URL with an asyncio driver to the URL that the error advises; not all of the drivers are installed here."""


class Add(Operation, name="asyncio_drivers.add"):
    a: int

    def perform(self) -> int:
        self.session.execute(sa.text("SELECT 1"))
        return self.a + 1


def refused(configure: Callable[[], Any]) -> str:
    with pytest.raises(ConfigurationError) as error:
        configure()
    assert "hush" not in str(error.value)
    assert "pip install" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("url", URLS)
def test_d6_the_error_about_a_url_with_an_asyncio_driver_names_the_url_to_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    def by_environment() -> None:
        with monkeypatch.context() as patch:
            patch.setenv("DEXPY_DATABASE", url)
            dexpy.configure()

    def by_file() -> None:
        (tmp_path / "pyproject.toml").write_text(f'[tool.dexpy]\ndatabase = "{url}"\n')
        try:
            dexpy.current_runtime().open_store()
        finally:
            (tmp_path / "pyproject.toml").unlink()

    for configure in (
        lambda: dexpy.configure(database=url),
        lambda: dexpy.configure(database=f"sqlite:///{tmp_path}/a.db", broker=url),
        lambda: dexpy.configure(broker=url),
        by_environment,
        by_file,
    ):
        assert f"Use {URLS[url].partition('app.db')[0]}" in refused(configure)


def test_d6_check_fails_and_commands_refuse_a_url_of_asyncio(tmp_path: Path) -> None:
    variables = {"DEXPY_DATABASE": "postgresql+asyncpg://shop:hush@db.example/shop"}

    checked = CliRunner().invoke(main, ["check"], env=variables)
    result = CliRunner().invoke(main, ["db", "init"], env=variables)

    assert checked.exit_code == 1
    assert "FAIL database: " in checked.stdout
    assert "Use postgresql+psycopg://db.example/shop" in checked.stdout
    assert isinstance(result.exception, ConfigurationError)


def factories() -> dict[str, Any]:
    engine = create_async_engine("sqlite+aiosqlite:///app.db")

    async def coroutine() -> AsyncSession:
        return AsyncSession(engine)

    return {
        "async_sessionmaker": async_sessionmaker(engine),
        "async_sessionmaker without an engine": async_sessionmaker(),
        "async_scoped_session": async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task),
        "AsyncSession": AsyncSession,
        "a class of AsyncSession": type("Own", (AsyncSession,), {}),
        "sessionmaker of AsyncSession": sessionmaker(engine, class_=AsyncSession),  # type: ignore[type-var,call-overload]
        "sessionmaker on an AsyncEngine": sessionmaker(engine),  # type: ignore[call-overload]
        "sessionmaker on its sync_engine": sessionmaker(engine.sync_engine),
        "sessionmaker with binds": sessionmaker(binds={Session: engine.sync_engine}),  # type: ignore[dict-item]
        "scoped_session on its sync_engine": scoped_session(sessionmaker(engine.sync_engine)),
        "coroutine function": coroutine,
        "session": Session(sa.create_engine("sqlite://")),
        "number": 3,
    }


@pytest.mark.parametrize("kind", factories())
@pytest.mark.parametrize("database", [None, "sqlite:///app.db"])
def test_d6_a_factory_of_asyncio_is_refused_at_configure(kind: str, database: str | None) -> None:
    message = refused(lambda: dexpy.configure(database=database, session_factory=factories()[kind]))

    assert message.startswith("configure(session_factory=...): expected a factory of SQLAlchemy's Session")
    if "its" in kind or kind in ("async_sessionmaker", "sessionmaker on an AsyncEngine"):
        assert "create_engine('sqlite:///app.db')" in message


@pytest.mark.parametrize("kind", ["session", "coroutine", "none"])
def test_d6_a_function_that_returns_an_asyncio_session_is_refused_at_its_first_use(kind: str, tmp_path: Path) -> None:
    engine = create_async_engine("sqlite+aiosqlite:///app.db")

    async def coroutine() -> AsyncSession:
        return AsyncSession(engine)

    factories: dict[str, Callable[[], Any]] = {
        "session": lambda: AsyncSession(engine),
        "coroutine": lambda: coroutine(),
        "none": lambda: None,
    }
    dexpy.configure(database=f"sqlite:///{tmp_path}/a.db", session_factory=factories[kind])

    for _ in range(2):
        message = refused(lambda: Add(a=1).call())
        assert message.startswith("configure(session_factory=...): expected a factory of SQLAlchemy's Session")
    assert [record.status for record in records.all()] == ["failed", "failed"]


def test_d6_synchronous_drivers_and_factories_are_accepted(tmp_path: Path) -> None:
    for factory in (
        sessionmaker(sa.create_engine(f"sqlite:///{tmp_path}/a.db")),
        scoped_session(sessionmaker(sa.create_engine(f"sqlite+pysqlite:///{tmp_path}/a.db"))),
    ):
        runtime = dexpy.configure(session_factory=factory)
        assert Add(a=1).call() == 2
        runtime.close()
