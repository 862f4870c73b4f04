"""Servers that refuse, are unavailable or end connections: a single error at the start, and nothing is lost later."""

from __future__ import annotations

import contextlib
import time
from collections import Counter as Counted
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from apps.shop import Count, DirectVisit, Greet
from harness.pairs import Pair, open_pair
from harness.proxy import Proxy
from harness.workers import eventually

from dexpy.database.tables import records
from dexpy.foundation.errors import SchemaMissing
from dexpy.runtime import install

WAIT_S = 40.0
POLL_S = 0.05
MIN_RETRIES = 5
"""The number of retries during an outage before the test ends it."""


@pytest.fixture
def bare_pair(tmp_path: Path) -> Generator[Pair]:
    """Yield a pair on a SQLite file; tests replace the URL of its database or broker."""
    pair = Pair(tmp_path, f"sqlite:///{tmp_path / 'records.db'}", None)
    yield pair
    pair.close()
    install(None)


def wrong(url: str, **parts: Any) -> str:
    return sa.make_url(url).set(**parts).render_as_string(hide_password=False)


# ------------------------------------------------------------------------------------------ errors at the start

DATABASES_THAT_REFUSE: dict[str, tuple[str, Callable[[str], str], str]] = {
    "postgresql: no such user": ("postgresql", lambda url: wrong(url, username="unknown_dexpy", password="s3cret"),
                                 "unknown_dexpy"),
    "postgresql: no such database": ("postgresql", lambda url: wrong(url, database="dexpy_never"), "dexpy_never"),
    "postgresql: closed port": ("postgresql", lambda url: wrong(url, port=1), "Check that the server is running"),
    "mariadb: wrong password": ("mariadb", lambda url: wrong(url, password="s3cret"), "Access denied"),
    "mariadb: closed port": ("mariadb", lambda url: wrong(url, port=1), "Check that the server is running"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATABASES_THAT_REFUSE)
def test_a_refusal_by_the_database_is_one_error_at_the_start(bare_pair: Pair, name: str) -> None:
    server, spoil, expected = DATABASES_THAT_REFUSE[name]
    bare_pair.url = spoil(servers.need(server))

    # A worker waits for an unavailable server; a burst worker does not.
    worker = ["worker", "apps.shop", "-p", "2", *(["--burst"] if "closed port" in name else [])]
    for command in (worker, ["check", "apps.shop"], ["db", "init"], ["db", "check"]):
        ended = bare_pair.dexpy(*command)
        lines = (ended.stderr + ended.stdout).strip().splitlines()
        error_lines = [line for line in lines if line.startswith(("Error:", "FAIL"))]
        assert ended.returncode == (2 if command == worker and "closed port" not in name else 1), (command, lines)
        assert len(error_lines) == 1, (command, lines)
        assert expected in error_lines[0]
        assert "Traceback" not in ended.stderr
        assert "s3cret" not in ended.stderr + ended.stdout


BROKERS_THAT_REFUSE: dict[str, tuple[str, Callable[[str], str]]] = {
    "redis: wrong password": ("redis", lambda url: url.replace("redis://", "redis://unknown:s3cret@")),
    "rabbitmq: wrong password": ("rabbitmq", lambda url: url.replace("guest:guest", "guest:s3cret")),
    "rabbitmq: no such virtual host": ("rabbitmq", lambda url: url.rpartition("/")[0] + "/dexpy_never"),
    "rabbitmq: no TLS there": ("rabbitmq", lambda url: url.replace("amqp://", "amqps://")),
}


@pytest.mark.parametrize("name", BROKERS_THAT_REFUSE)
def test_a_refusal_by_the_broker_is_one_error_at_the_start(bare_pair: Pair, name: str) -> None:
    server, spoil = BROKERS_THAT_REFUSE[name]
    bare_pair.broker = spoil(servers.need(server))

    for command in (["worker", "apps.shop", "-p", "2"], ["check", "apps.shop"]):
        ended = bare_pair.dexpy(*command)
        lines = [line for line in (ended.stderr + ended.stdout).splitlines() if line.startswith(("Error:", "FAIL"))]
        assert ended.returncode == (2 if command[0] == "worker" else 1), ended
        assert len(lines) == 1, ended
        assert "Cannot connect to " in lines[0]
        assert "Traceback" not in ended.stderr
        assert "s3cret" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_database_without_the_tables_names_the_command(bare_pair: Pair, kind: str, tmp_path: Path) -> None:
    with servers.database(kind, tmp_path) as url:
        bare_pair.url = url
        for command in (["worker", "apps.shop"], ["check"], ["db", "check"]):
            ended = bare_pair.dexpy(*command)
            assert ended.returncode == (2 if command[0] == "worker" else 1), ended
            assert "Run: dexpy db init" in ended.stderr + ended.stdout
        bare_pair.configure()
        with pytest.raises(SchemaMissing, match="Run: dexpy db init"):
            Greet(name="early").async_().call()
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            assert sa.inspect(connection).get_table_names() == []
        assert bare_pair.dexpy("db", "init").returncode == 0
        assert Greet(name="now").async_().call().pending
        assert bare_pair.dexpy("check").returncode == 0
        bare_pair.end()


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_worker_waits_for_a_broker_that_starts_later(bare_pair: Pair, kind: str) -> None:
    with servers.broker(kind) as url, opened_proxy(str(url), open=False) as proxy:
        bare_pair.broker = proxy.url
        bare_pair.create_tables()
        bare_pair.configure()
        checked = bare_pair.dexpy("check", "apps.shop")
        assert checked.returncode == 1
        assert "Check that the server is running" in checked.stdout
        worker = bare_pair.start(processes=1)
        recorded = [Greet(name=f"early {number}").async_().call() for number in range(5)]
        DirectVisit(page="/early").async_().call()
        eventually(lambda: worker.lines("broker.unreachable"), "the worker logs the outage", WAIT_S, worker.output)
        assert "Traceback" not in worker.output(), worker.output()

        proxy.open()

        for ticket in recorded:
            assert ticket.result(WAIT_S, POLL_S)
        eventually(
            lambda: bare_pair.effects("visit%") == ["visit /early"], "the direct job runs", WAIT_S, bare_pair.output
        )
        assert sorted(bare_pair.effects("greet%")) == [f"greet early {number}" for number in range(5)]
        bare_pair.end()


# ------------------------------------------------------------------------------------- outages of a running worker


@contextlib.contextmanager
def opened_proxy(url: str, *, open: bool = True) -> Generator[Proxy]:
    proxy = Proxy(url, open=open)
    try:
        yield proxy
    finally:
        proxy.end()


BACKLOG = range(100)
MORE = range(100, 120)


def send(numbers: Iterable[int]) -> list[Any]:
    return [Count(number=number, seconds=0.2).async_().call() for number in numbers]


def all_done_once(pair: Pair, tickets: list[Any], numbers: Iterable[int]) -> None:
    ids = [ticket.id for ticket in tickets]
    unfinished = sa.select(records.c.id, records.c.status).where(records.c.id.in_(ids), records.c.status != "done")
    eventually(
        lambda: not pair.sql(unfinished),
        "all runs are done",
        WAIT_S,
        lambda: f"{pair.sql(unfinished)}\n{pair.output()}",
    )
    assert Counted(pair.effects("count %")) == Counted(f"count {number}" for number in numbers)


def while_they_run(pair: Pair, times: int) -> Iterator[int]:
    """Yield a number of times while operations run; before each time, wait until more of them have run."""
    for number in range(times):
        enough = min(len(pair.effects("count %")) + 5, len(BACKLOG))
        eventually(lambda: len(pair.effects("count %")) >= enough, "more operations have run", WAIT_S, pair.output)  # noqa: B023
        yield number


@pytest.mark.parametrize("name", ["postgresql+sql", "postgresql+redis", "mariadb+sql", "mariadb+rabbitmq"])
def test_connections_to_the_database_that_are_cut_lose_nothing(name: str, tmp_path: Path) -> None:
    with open_pair(name, tmp_path) as pair, servers.cutting(pair.url) as cut:
        pair.configure()
        tickets = send(BACKLOG)
        pair.start(processes=2)

        cuts = [cut() for _ in while_they_run(pair, 3)]

        all_done_once(pair, tickets, BACKLOG)
        assert any(cuts)
        install(None)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_temporary_outage_of_the_database_loses_nothing(kind: str, tmp_path: Path) -> None:
    with open_pair(f"{kind}+sql", tmp_path) as pair, opened_proxy(pair.url) as proxy:
        pair.configure()
        pair.variables = {"DEXPY_DATABASE": proxy.url}
        tickets = send(BACKLOG)
        worker = pair.start(processes=1)

        for _ in while_they_run(pair, 1):
            proxy.close()
        has_retried = lambda: worker.output().count("retry_in_s") >= MIN_RETRIES  # noqa: E731
        eventually(has_retried, "the worker retries several times", WAIT_S, worker.output)
        proxy.open()

        all_done_once(pair, tickets, BACKLOG)
        assert "Traceback" not in worker.output(), worker.output()
        install(None)


@pytest.mark.parametrize("name", ["postgresql+redis", "mariadb+rabbitmq", "sqlite+redis", "sqlite+rabbitmq"])
def test_connections_to_the_broker_that_are_cut_lose_nothing(name: str, tmp_path: Path) -> None:
    with open_pair(name, tmp_path) as pair, opened_proxy(str(pair.broker)) as proxy:
        pair.configure()
        pair.variables = {"DEXPY_BROKER": proxy.url}
        tickets = send(BACKLOG)
        worker = pair.start(processes=2)

        cuts = [proxy.cut() for _ in while_they_run(pair, 3)]
        proxy.close()
        tickets += send(MORE)
        eventually(lambda: worker.lines("broker.unreachable"), "the worker logs the outage", WAIT_S, worker.output)
        proxy.open()

        all_done_once(pair, tickets, [*BACKLOG, *MORE])
        assert any(cuts)
        assert "Traceback" not in worker.output(), worker.output()
        install(None)


def test_clients_that_redis_kills_lose_nothing(tmp_path: Path) -> None:
    with open_pair("postgresql+redis", tmp_path) as pair:
        pair.broker = f"{pair.broker}&client_name={tmp_path.name}"
        pair.configure()
        tickets = send(BACKLOG)
        pair.start(processes=2)

        killed = [kill_clients(tmp_path.name) for _ in while_they_run(pair, 3)]

        all_done_once(pair, tickets, BACKLOG)
        assert any(killed)
        install(None)


def kill_clients(name: str) -> int:
    import redis

    client = redis.Redis.from_url(servers.need("redis"))
    mine = [connected["id"] for connected in client.client_list() if connected["name"] == name]
    for number in mine:
        with contextlib.suppress(redis.RedisError):
            client.client_kill_filter(_id=number)
    client.close()
    return len(mine)


def test_an_unavailable_broker_delays_neither_callers_nor_transactions(tmp_path: Path) -> None:
    with open_pair("postgresql+redis", tmp_path) as pair, opened_proxy(str(pair.broker), open=False) as proxy:
        pair.broker = proxy.url
        pair.configure()
        began = time.monotonic()
        tickets = [Greet(name=str(number)).async_().call() for number in range(10)]
        assert time.monotonic() - began < 5
        not_enqueued = sa.select(sa.func.count()).where(records.c.enqueued_at.is_(None))
        assert pair.sql(not_enqueued) == [(10,)]

        proxy.open()
        pair.start()
        for ticket in tickets:
            assert ticket.result(WAIT_S, POLL_S)
        install(None)


# -------------------------------------------------------------------------------------------------- dexpy db


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_four_processes_may_create_the_tables_concurrently(bare_pair: Pair, kind: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    with servers.database(kind, tmp_path) as url:
        bare_pair.url = url
        command = [sys.executable, "-m", "dexpy", "db", "init"]
        running = [
            subprocess.Popen(command, cwd=bare_pair.folder, env=bare_pair.environment, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
            for _ in range(4)
        ]  # fmt: skip
        outputs = [process.communicate(timeout=60)[0] for process in running]
        assert [process.returncode for process in running] == [0] * 4, outputs
        assert sum(": created " in text for text in outputs) == 1, outputs
        assert bare_pair.dexpy("db", "check").returncode == 0


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_an_old_table_is_reported_with_its_missing_column(bare_pair: Pair, kind: str, tmp_path: Path) -> None:
    with servers.database(kind, tmp_path) as url:
        bare_pair.url = url
        bare_pair.engine = sa.create_engine(url, poolclass=sa.NullPool)
        assert bare_pair.dexpy("db", "init").returncode == 0
        bare_pair.change("ALTER TABLE operation_records DROP COLUMN send_count")

        for command in (["db", "check"], ["db", "init"], ["check"], ["worker", "apps.shop"]):
            ended = bare_pair.dexpy(*command)
            assert ended.returncode == (2 if command[0] == "worker" else 1), (command, ended)
            assert "operation_records lacks send_count" in ended.stdout + ended.stderr, (command, ended)
            assert "Traceback" not in ended.stderr
