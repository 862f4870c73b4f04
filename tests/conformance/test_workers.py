"""Workers with sessions or a broker of the application, beside plain ``dramatiq``, and of two releases."""

from __future__ import annotations

import importlib
import sys
import time
from collections import Counter as Counted
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apps.shop import Count, FlakyGreeting, Greet, LoseClaim, ReadIsolationLevel
from apps.shop_next_release import GreetDirectlyInNextRelease, GreetInNextRelease
from harness.pairs import Pair
from harness.workers import eventually

from dexpy.database.tables import messages, records

WAIT_S = 30.0
POLL_S = 0.05
THREE = ["sqlite+sql", "postgresql+redis", "mariadb+rabbitmq"]


def on(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("own_pair", names, indirect=True)


def all_done(pair: Pair, tickets: list[Any]) -> None:
    ids = [ticket.id for ticket in tickets]
    unfinished = sa.select(records.c.id, records.c.status).where(records.c.id.in_(ids), records.c.status != "done")
    eventually(
        lambda: not pair.sql(unfinished),
        "all runs are done",
        WAIT_S,
        lambda: f"{pair.sql(unfinished)}\n{pair.output()}",
    )


@on("postgresql+sql", "postgresql+redis", "mariadb+sql", "mariadb+rabbitmq")
def test_runs_use_sessions_of_the_application_at_repeatable_read(own_pair: Pair, tmp_path: Path) -> None:
    own_pair.start(module="apps.shop_own_sessions", processes=2, threads=4)

    assert ReadIsolationLevel().async_().call().result(WAIT_S, POLL_S) == "REPEATABLE READ"
    counts = [Count(number=number).async_().call() for number in range(40)]
    healed = FlakyGreeting(ledger=str(tmp_path / "ledger"), failures=2).async_().call()
    lost = LoseClaim().async_().call()

    all_done(own_pair, [*counts, healed])
    assert Counted(own_pair.effects("count %")) == Counted(f"count {number}" for number in range(40))
    is_logged = lambda: any(lost.id in line for line in own_pair.workers[0].lines("claim.lost"))  # noqa: E731
    eventually(is_logged, "the lost claim is logged", WAIT_S, own_pair.output)
    assert own_pair.effects_of(lost.id) == []


@on("postgresql+redis", "mariadb+rabbitmq", "sqlite+redis")
def test_a_broker_of_the_application_keeps_its_middleware_and_its_actors(
    own_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, own_pair.broker = own_pair.broker, None
    own_pair.variables = {"SHOP_BROKER": str(url), "SHOP_FOLDER": str(tmp_path)}
    for name, value in {**own_pair.variables, "DEXPY_DATABASE": own_pair.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "apps.shop_own_broker", raising=False)
    application = importlib.import_module("apps.shop_own_broker")
    before = list(application.broker.middleware)
    own_pair.start(module="apps.shop_own_broker")

    greeted = Greet(name="own").async_().call()
    application.old_job.send("old")

    assert greeted.result(WAIT_S, POLL_S) == "hello own"
    jobs, stamps = tmp_path / "old_job", tmp_path / "stamps"
    eventually(
        lambda: jobs.exists() and jobs.read_text().split() == ["old"] * 2,
        "the actor is retried",
        WAIT_S,
        own_pair.output,
    )
    eventually(lambda: Counted(stamps.read_text().split()) == {"dexpy.RecordJob": 1, "old_job": 2},
               "the middleware was called for each actor", WAIT_S, own_pair.output)  # fmt: skip
    assert any(isinstance(middleware, application.Stamp) for middleware in before)
    application.runtime.close()


@on("sqlite+redis", "postgresql+rabbitmq", "mariadb+sql")
def test_a_burst_worker_ends_when_all_runs_have_ended(own_pair: Pair) -> None:
    tickets = [Count(number=number, seconds=0.02).async_().call() for number in range(60)]

    ended = own_pair.dexpy("worker", "apps.shop", "--burst", "-p", "2", "-t", "2")

    assert ended.returncode == 0, ended.stderr
    assert Counted(own_pair.effects()) == Counted(f"count {number}" for number in range(60))
    assert {own_pair.status(ticket.id) for ticket in tickets} == {"done"}


@on(*THREE)
def test_plain_dramatiq_and_dexpy_worker_serve_one_queue_at_the_same_time(own_pair: Pair) -> None:
    worker = own_pair.start(processes=1, threads=2)
    own_pair.dramatiq("dexpy.broker:from_settings", "apps.shop", "-p", "1", "-t", "2")

    tickets = [Count(number=number, seconds=0.05).async_(queue="shared").call() for number in range(120)]

    all_done(own_pair, tickets)
    effects = own_pair.sql("SELECT what, pid FROM effects")
    assert Counted(row.what for row in effects) == Counted(f"count {number}" for number in range(120))
    ours = set(worker.children())
    pids = {row.pid for row in effects}
    assert ours & pids, "dexpy worker took part"
    assert pids - ours, "dramatiq took part"


@on(*THREE)
def test_a_rolling_deploy_ends_with_every_operation_done(own_pair: Pair) -> None:
    old = own_pair.start_with_short_grace("apps.shop", grace_s=3600)
    before = [GreetInNextRelease(number=number).async_().call() for number in range(10)]
    direct = [GreetDirectlyInNextRelease(number=number).async_().call() for number in range(10, 15)]
    known = Greet(name="old").async_().call()
    assert known.result(WAIT_S, POLL_S) == "hello old"
    eventually(
        lambda: len(old.lines("message.deferred")) == 2,
        "the old worker logs the unknown operations",
        WAIT_S,
        old.output,
    )

    own_pair.start_with_short_grace("apps.shop_next_release", grace_s=3600)
    during = [GreetInNextRelease(number=number).async_().call() for number in range(15, 25)]

    all_done(own_pair, [*before, *during])
    waved = lambda: Counted(own_pair.effects("wave %")) == Counted(f"wave {n}" for n in range(25))  # noqa: E731
    eventually(waved, "the direct jobs have run", WAIT_S, own_pair.output)
    assert direct
    attempts = sa.select(sa.func.max(records.c.num_attempts)).where(
        records.c.operation == "apps.shop_next_release.GreetInNextRelease"
    )
    assert own_pair.sql(attempts) == [(1,)]
    assert len(old.lines("message.deferred")) == 2, "logged once per class, not per message"


@on(*THREE)
def test_an_operation_that_stays_unknown_fails_and_can_be_retried(own_pair: Pair) -> None:
    old = own_pair.start_with_short_grace("apps.shop", grace_s=1.0)
    ticket = GreetInNextRelease(number=1).async_().call()
    GreetDirectlyInNextRelease(number=2).async_().call()

    row = own_pair.wait_for_status(ticket.id, "failed", within_s=WAIT_S)
    assert (row["failure"], row["error"], row["num_attempts"]) == ("unknown", "dexpy.errors.UnknownOperation", 0)
    assert "apps.shop_next_release.GreetInNextRelease" in row["error_message"]
    eventually(
        lambda: "dead=True" in old.output(), "the message of the direct job is dead-lettered", WAIT_S, old.output
    )
    if own_pair.is_transactional:
        assert own_pair.sql(sa.select(sa.func.count()).where(messages.c.dead)) == [(1,)]

    own_pair.start_with_short_grace("apps.shop_next_release", grace_s=3600)
    old.stop()
    ticket.retry()
    assert ticket.result(WAIT_S, POLL_S) == "wave 1"


@on("postgresql+redis", "mariadb+rabbitmq")
def test_an_unknown_operation_waits_in_the_database_and_does_not_count_as_lost(own_pair: Pair) -> None:
    own_pair.variables = {"DEXPY_RECOVER_WITHIN": "5s"}
    worker = own_pair.start()
    tickets = [GreetInNextRelease(number=number).async_().call() for number in range(3)]
    count_messages = sa.select(sa.func.count()).select_from(messages)
    eventually(lambda: own_pair.sql(count_messages) == [(3,)], "each message was deferred", WAIT_S, worker.output)

    # Longer than the time after which lost messages are republished.
    time.sleep(7)

    assert [own_pair.row(ticket.id)["send_count"] for ticket in tickets] == [1, 1, 1]
    assert own_pair.sql(count_messages) == [(3,)]


def test_a_message_of_a_later_format_runs_its_record(tmp_path: Path) -> None:
    from harness.pairs import open_pair

    with open_pair("sqlite+sql", tmp_path) as pair:
        pair.configure()
        ticket = Greet(name="tomorrow").async_().call()
        (row,) = pair.sql(sa.select(messages))
        later = row.payload.replace('"v":1', '"v":2').replace('"record_id"', '"more":[1],"record_id"')
        assert later.count('"v":2') == later.count('"more"') == 1
        pair.change(sa.update(messages).values(payload=later))

        pair.start_with_short_grace("apps.shop", grace_s=1.0)

        assert ticket.result(WAIT_S, POLL_S) == "hello tomorrow"
