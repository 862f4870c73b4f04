"""docs/reference/configuration.md names everything that can be configured, and nothing else."""

from __future__ import annotations

import inspect
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import test_docs

import dexpy
from dexpy.brokers import urls
from dexpy.database import engine, engine_options, sqlite
from dexpy.database.server_info import SKEW_S
from dexpy.foundation.settings import DEFAULT_FILE, NAMES, SECRETS
from dexpy.liveness.intervals import SHORTEST_S, RecoveryIntervals
from dexpy.worker.unknown_operations import unknown_policy

PAGE = test_docs.HOME / "docs" / "reference" / "configuration.md"
TEXT = PAGE.read_text("utf-8")


def section(heading: str) -> str:
    """What stands under a heading of the second level."""
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None, heading
    return match[1]


def tables(heading: str) -> list[list[list[str]]]:
    """The tables under a heading, row by row without their heads."""
    matches = re.findall(r"((?:^\|.*\|\n)+)", section(heading), re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in matches]
    return [table[2:] for table in rows]


def names(text: str) -> list[str]:
    """What is set as code."""
    return re.findall(r"`([^`]+)`", text)


def test_every_argument_of_configure_is_on_the_page() -> None:
    table = tables("`configure`")[0]
    signature = inspect.signature(dexpy.configure).parameters

    assert [names(row[0]) for row in table] == [[name] for name in signature]
    assert [row[2] for row in table if signature[names(row[0])[0]].default is False] == ["`False`"]


def test_every_setting_of_the_environment_and_pyproject_is_on_the_page() -> None:
    (table,) = tables("Where a setting comes from")
    (variables,) = tables("The environment")

    expected = [[name, f"DEXPY_{name.upper()}", name] for name in NAMES]
    assert [[cell.strip("`") for cell in row[1:4]] for row in table] == expected
    assert [names(row[0]) for row in variables] == [[f"DEXPY_{name.upper()}"] for name in (*NAMES, *SECRETS)]
    (shown,) = [block.code for block in test_docs.blocks_of(TEXT) if block.language == "toml"]
    assert set(tomllib.loads(shown)["tool"]["dexpy"]) == set(NAMES)


def test_no_other_variable_of_the_environment_is_read() -> None:
    sources = "".join(file.read_text("utf-8") for file in (test_docs.HOME / "dexpy").rglob("*.py"))

    assert set(re.findall(r"\bDEXPY_[A-Z_]+\b", sources)) <= {f"DEXPY_{name.upper()}" for name in (*NAMES, *SECRETS)}


def test_every_extra_is_on_the_page_with_its_packages() -> None:
    (table,) = tables("Extras")
    project = tomllib.loads((test_docs.HOME / "pyproject.toml").read_text("utf-8"))["project"]
    extras: dict[str, Any] = {name: needs for name, needs in project["optional-dependencies"].items() if name != "dev"}

    assert [row[0] for row in table] == [f"`dexpy-operations[{name}]`" for name in extras]
    for row, needs in zip(table, extras.values(), strict=True):
        packages = [re.split(r"[\[>=]", need)[0] for need in needs]
        assert row[1] == ("all of them" if packages == ["dexpy-operations"] else ", ".join(packages))


def test_every_kind_of_url_is_on_the_page() -> None:
    brokers = section("URLs of brokers")
    for scheme in (*urls.REDIS_SCHEMES, *urls.RABBITMQ_SCHEMES):
        assert f"`{scheme}://" in brokers
    (kinds, _) = tables("URLs of databases")
    assert {urls.is_database(url) for row in kinds for url in names(row[1])} == {True}


@pytest.mark.parametrize(
    ("heading", "figure"),
    [
        ("Where a setting comes from", f"`sqlite:///{DEFAULT_FILE}`"),
        ("Where a setting comes from", f"{RecoveryIntervals().recover_within_s:.0f} seconds"),
        ("`configure`", f"at least {SHORTEST_S:.0f} s"),
        ("`configure`", f"{timedelta(seconds=unknown_policy(None).grace_s).days} day |"),
        ("URLs of databases", f"for a connection | {engine_options.CONNECT_TIMEOUT_S} |"),
        (
            "URLs of databases",
            f"at most {2 * engine_options.POOL_SIZE} connections, and keeps at most {engine_options.POOL_SIZE}",
        ),
        ("URLs of brokers", f"share a server | `{urls.DEFAULT_NAMESPACE}` |"),
        ("URLs of brokers", f"considered away | {urls.REDIS_TIMEOUT_S:.0f} |"),
        ("Clocks", f"more than {SKEW_S:.0f} seconds"),
        ("SQLite", f"at most {sqlite.BUSY_TIMEOUT_S} s"),
    ],
)
def test_the_figures_on_the_page_are_those_of_the_code(heading: str, figure: str) -> None:
    assert figure in section(heading)


def test_parameters_of_a_url_on_the_page_reach_the_client(tmp_path: Path) -> None:
    (table,) = tables("URLs of brokers")[1:]
    parameters = {name: row[1] for row in table for name in names(row[0])}
    assert set(parameters) >= {"namespace", "socket_timeout", "socket_connect_timeout", "ssl_ca_certs", "heartbeat"}

    broker: Any = urls.broker_from_url("redis://h/0?namespace=shop&socket_timeout=3&socket_connect_timeout=4")
    facts = broker.client.connection_pool.connection_kwargs
    assert (broker.namespace, facts["socket_timeout"], facts["socket_connect_timeout"]) == ("shop", 3, 4)
    broker = urls.broker_from_url("unix:///run/redis.sock?namespace=shop")
    assert (broker.namespace, broker.client.connection_pool.connection_kwargs["path"]) == ("shop", "/run/redis.sock")
    secure = [name for name in parameters if name.startswith("ssl_") and name != "ssl_options"]
    broker = urls.broker_from_url("rediss://h/0?" + "&".join(f"{name}=/srv/{name}" for name in secure))
    facts = broker.client.connection_pool.connection_kwargs
    assert {name: facts[name] for name in secure} == {name: f"/srv/{name}" for name in secure}
    assert urls.broker_from_url("amqp://h/shop?heartbeat=7").parameters.heartbeat == 7  # type: ignore[attr-defined]


def test_connecting_to_a_database_times_out_as_on_the_page_unless_its_url_sets_another_timeout() -> None:
    for query, expected in (("", engine_options.CONNECT_TIMEOUT_S), ("?connect_timeout=3", 3)):
        for url in ("postgresql+psycopg://user@127.0.0.1:1/x", "mysql+pymysql://user@127.0.0.1:1/x"):
            connect_options: dict[str, Any] = {}
            opened = engine.Database(url + query)

            def connect(
                _dialect: Any, _record: Any, _args: Any, options: dict[str, Any], into: Any = connect_options
            ) -> None:
                into.update(options)

            sa.event.listen(opened.engine, "do_connect", connect)
            with pytest.raises(dexpy.errors.DatabaseUnavailable):
                opened.connect()
            assert int(connect_options["connect_timeout"]) == expected
            opened.dispose()
