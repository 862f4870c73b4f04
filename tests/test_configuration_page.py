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
from dexpy.brokers import rabbitmq_urls, redis_urls, urls
from dexpy.configuration.loading import Configuration
from dexpy.configuration.settings import DEFAULT_FILE
from dexpy.configuration.table import (
    HEALTH,
    QUEUES,
    RECURRING,
    RELAY,
    RETENTION,
    SECTIONS,
    SETTINGS,
    TOP,
    WORKERS,
    Setting,
    default_of,
    settings_of,
)
from dexpy.database import engine, engine_options, sqlite
from dexpy.database.server_info import SKEW_S
from dexpy.liveness.intervals import SHORTEST_S, RecoveryIntervals
from dexpy.worker.unknown_operations import unknown_policy

PAGE = test_docs.HOME / "docs" / "reference" / "configuration.md"
TEXT = PAGE.read_text("utf-8")


def section(heading: str) -> str:
    """Return the text under a heading of the second level."""
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None, heading
    return match[1]


def tables(heading: str) -> list[list[list[str]]]:
    """Return the tables under a heading as lists of rows, without their heads."""
    matches = re.findall(r"((?:^\|.*\|\n)+)", section(heading), re.MULTILINE)
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in matches]
    return [table[2:] for table in rows]


def names(text: str) -> list[str]:
    """Return the texts in backticks."""
    return re.findall(r"`([^`]+)`", text)


def test_every_argument_of_configure_is_on_the_page() -> None:
    table = tables("`configure`")[0]
    signature = inspect.signature(dexpy.configure).parameters

    assert [names(row[0]) for row in table] == [[name] for name in signature]
    assert [row[2] for row in table if signature[names(row[0])[0]].default is False] == ["`False`"]


@pytest.mark.parametrize("table", SECTIONS)
def test_every_setting_is_on_the_page_with_its_unit_default_variable_and_flag(table: str) -> None:
    """Keys, variables and flags have no other list than the table of settings, so none of them can be left out."""
    heading = SECTIONS[table].replace("-", " ").capitalize()
    marker = "##" if table == TOP else "###"
    part = TEXT.partition(f"\n{marker} {heading}\n")[2].partition("\n##")[0]
    settings = [setting for setting in SETTINGS.values() if setting.table == table]

    rows = part.partition("| key |")[2].partition("\n\n")[0].splitlines()[2:]
    assert rows == [row_of(setting) for setting in settings]
    for setting in settings:
        assert setting.page == f"reference/configuration.md#{SECTIONS[table]}"
        assert setting.kind.unit
        assert setting.default_text or setting.is_required or default_of(setting.key) is not None or not setting.in_file


def row_of(setting: Setting) -> str:
    """The row of a setting on the page."""
    default = setting.displayed_default
    is_plain = setting.default_text or setting.is_required or setting.default is None
    cells = [
        f"`{setting.name}`" if setting.in_file else "",
        setting.summary[0].lower() + setting.summary[1:].rstrip("."),
        setting.kind.unit,
        default if is_plain else f"`{default}`",
    ]
    if setting.table not in (QUEUES, RECURRING):
        flags = ", ".join(f"`{flag}`" for flag in (setting.short, setting.flag) if flag)
        cells += [f"`{setting.variable}`" if setting.has_variable else "", flags if setting.has_flag else ""]
    return f"| {' | '.join(cells)} |"


def test_the_file_on_the_page_has_every_key() -> None:
    (shown,) = [block.code for block in test_docs.blocks_of(TEXT) if block.language == "toml"]
    file = tomllib.loads(shown)["tool"]["dexpy"]

    tables = {"workers", "relay", "retention", "health", "queues", "recurring", "production"}
    assert set(file) - set(settings_of(TOP)) == tables
    assert set(file) >= set(settings_of(TOP))
    (group,), (task,), (queue,) = file["workers"], file["recurring"].values(), file["queues"].values()
    for table, shown_keys in {
        WORKERS: group,
        RELAY: file["relay"],
        RETENTION: file["retention"],
        HEALTH: file["health"],
        QUEUES: queue,
        RECURRING: task,
    }.items():
        assert set(shown_keys) == set(settings_of(table))


def test_the_file_on_the_page_is_valid(tmp_path: Path) -> None:
    (shown,) = [block.code for block in test_docs.blocks_of(TEXT) if block.language == "toml"]
    (tmp_path / "pyproject.toml").write_text(shown)

    assert [group.name for group in Configuration.load({}, tmp_path, {}).worker_groups()] == ["fast"]


def test_no_other_variable_of_the_environment_is_read() -> None:
    sources = "".join(file.read_text("utf-8") for file in (test_docs.HOME / "dexpy").rglob("*.py"))

    known = {setting.variable for setting in SETTINGS.values() if setting.has_variable}
    assert set(re.findall(r"\bDEXPY_[A-Z_]+\b", sources)) <= known


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
    for scheme in (*redis_urls.SERVER_SCHEMES, *redis_urls.SENTINEL_SCHEMES, *rabbitmq_urls.SCHEMES):
        assert f"`{scheme}://" in brokers
    (kinds, _) = tables("URLs of databases")
    assert {urls.is_database(url) for row in kinds for url in names(row[1])} == {True}


@pytest.mark.parametrize(
    ("heading", "figure"),
    [
        ("Settings", f"`sqlite:///{DEFAULT_FILE}`"),
        ("`configure`", f"the runs of dead workers | {RecoveryIntervals().recover_within_s:.0f} s |"),
        ("`configure`", f"at least {SHORTEST_S:.0f} s"),
        ("`configure`", f"{timedelta(seconds=unknown_policy(None).grace_s).days} day |"),
        ("URLs of databases", f"for a connection | {engine_options.CONNECT_TIMEOUT_S} |"),
        (
            "URLs of databases",
            f"at most {2 * engine_options.POOL_SIZE} connections, and keeps at most {engine_options.POOL_SIZE}",
        ),
        ("URLs of brokers", f"share a server | `{redis_urls.DEFAULT_NAMESPACE}` |"),
        ("URLs of brokers", f"considered away | {redis_urls.TIMEOUT_S:.0f} |"),
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
