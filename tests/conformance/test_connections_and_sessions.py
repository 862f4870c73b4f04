"""Enqueues in the transaction of a connection, with a required broker, and with sessions of another database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apps.shop import Count, Greet
from harness.pairs import Pair, open_pair
from harness.proxy import Proxy
from harness.workers import eventually

import dexpy
from dexpy.errors import BrokerUnavailable, NotCommitted, OptionsError, RecordNotFound
from dexpy.runtime import install

WAIT_S = 30.0
ALL_KINDS = pytest.mark.parametrize(
    "own_pair", ["sqlite+sql", "postgresql+redis", "mariadb+rabbitmq", "postgresql+sql"], indirect=True
)


def count_of_records(pair: Pair) -> int:
    return int(pair.sql("SELECT count(*) FROM operation_records")[0][0])


# ------------------------------------------------------------------------------------------------- a connection


@ALL_KINDS
def test_an_enqueue_on_a_connection_runs_after_its_commit(own_pair: Pair) -> None:
    own_pair.start()
    with own_pair.engine.connect() as connection:
        with connection.begin():
            ticket = Greet(name="Ada").async_(session=connection).call()
            with pytest.raises(NotCommitted):
                ticket.wait(1)
        assert ticket.result(WAIT_S) == Greet(name="Ada").call()
    assert own_pair.row(ticket.id)["num_attempts"] == 1


@ALL_KINDS
def test_an_enqueue_on_a_connection_is_rolled_back_with_it(own_pair: Pair) -> None:
    own_pair.start()
    with own_pair.engine.connect() as connection:
        with connection.begin() as transaction:
            dropped = Greet(name="Ada").async_(session=connection).call()
            transaction.rollback()
        with connection.begin():
            with connection.begin_nested() as savepoint:
                inner = Greet(name="Ben").async_(session=connection).call()
                savepoint.rollback()
            committed = Greet(name="Cy").async_(session=connection).call()
    committed.result(WAIT_S)

    for rolled_back in (dropped, inner):
        with pytest.raises(RecordNotFound):
            rolled_back.reload()
    assert own_pair.queued("default") == []
    assert count_of_records(own_pair) == 1


@pytest.mark.parametrize("own_pair", ["postgresql+redis"], indirect=True)
def test_an_enqueue_on_an_async_connection_can_be_awaited(own_pair: Pair) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    own_pair.start()

    async def enqueue() -> dexpy.Ticket[Any]:
        engine = create_async_engine(own_pair.url)
        async with engine.begin() as connection:
            with pytest.raises(OptionsError, match="expected a Session or Connection, got an AsyncConnection"):
                Greet(name="Ada").async_(session=connection).call()
            ticket: dexpy.Ticket[Any] = await Greet(name="Ada").async_(session=connection).acall()
        await engine.dispose()
        return ticket

    assert asyncio.run(enqueue()).result(WAIT_S)


@pytest.mark.parametrize("own_pair", ["postgresql+redis"], indirect=True)
def test_a_connection_to_another_database_is_refused(own_pair: Pair, tmp_path: Path) -> None:
    elsewhere = sa.create_engine(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    with (
        elsewhere.begin() as connection,
        pytest.raises(OptionsError, match="this Connection is not to the database of the records"),
    ):
        Greet(name="Ada").async_(session=connection).call()
    elsewhere.dispose()
    assert count_of_records(own_pair) == 0


# --------------------------------------------------------------------------------------------- a required broker


@pytest.fixture(params=["redis", "rabbitmq"])
def behind_a_proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[tuple[Pair, Proxy]]:
    """Yield a pair with a broker behind a proxy, which the test closes."""
    with open_pair(f"sqlite+{request.param}", tmp_path) as pair:
        assert pair.broker is not None
        proxy = Proxy(pair.broker)
        pair.broker = proxy.url
        pair.runtime = dexpy.configure(database=pair.url, broker=proxy.url, on_broker_error="raise")
        yield pair, proxy
        proxy.end()
    install(None)


def test_with_require_broker_an_unavailable_broker_raises_and_nothing_is_stored(
    behind_a_proxy: tuple[Pair, Proxy],
) -> None:
    pair, proxy = behind_a_proxy
    first = Count(number=1).async_().call()
    proxy.close()

    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="does not answer: .* Nothing was stored or sent"):
        Count(number=2).async_().call()
    assert time.monotonic() - began < 10
    assert count_of_records(pair) == 1

    proxy.open()
    second = Count(number=3).async_().call()
    pair.start()
    assert [ticket.wait(WAIT_S) is not None for ticket in (first, second)] == [True, True]


def test_a_broker_connection_that_was_cut_while_idle_is_reopened_without_an_error(
    behind_a_proxy: tuple[Pair, Proxy],
) -> None:
    pair, proxy = behind_a_proxy
    Count(number=1).async_().call()
    assert proxy.cut()
    Count(number=2).async_().call()
    eventually(lambda: len(pair.queued("default")) == 2, "both operations are done", WAIT_S)


# ------------------------------------------------------------------------------------ sessions in another database


@pytest.mark.parametrize("own_pair", ["sqlite+sql"], indirect=True)
def test_a_worker_and_check_report_sessions_in_another_database(own_pair: Pair) -> None:
    own_pair.variables = {"ELSEWHERE": f"sqlite:///{own_pair.folder / 'elsewhere.db'}"}
    worker = own_pair.start(module="apps.shop_other_database")
    eventually(
        lambda: worker.lines("sessions.separated"), "the worker logs the separate sessions", WAIT_S, worker.output
    )
    (line,) = worker.lines("sessions.separated")
    assert "at least once: make them idempotent by self.run_id" in line
    check = own_pair.dexpy("check", "apps.shop_other_database")
    assert check.returncode == 0
    assert "sessions: another database than the records: effects through self.session" in check.stdout
    worker.stop()

    usual = own_pair.start()
    assert usual.lines("sessions.separated") == []
    assert "sessions" not in own_pair.dexpy("check", "apps.shop").stdout
