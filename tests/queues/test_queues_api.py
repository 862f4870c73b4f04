"""`dexpy.queues` and `dexpy queues`, without worker processes."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy.orm import Session

import dexpy
from dexpy import Concurrency, Every, Operation, Ticket, queues, recurring
from dexpy.cli.main import main
from dexpy.database.tables import records, workers
from dexpy.errors import NotRecorded, OptionsError
from dexpy.recording.pauses import HELD
from dexpy.testing import Isolated


class Mail(Operation):
    number: int = 0
    aliases = ()

    def perform(self) -> int:
        return self.number


class RenamedMail(Operation, name="queues.RenamedMail", aliases=("queues.OldMail",)):
    def perform(self) -> None: ...


class LimitedMail(Operation):
    concurrency = Concurrency(1, template="mail")

    def perform(self) -> None: ...


class DirectMail(Operation):
    record = False

    def perform(self) -> None: ...


def results(tickets: list[Ticket[Any]]) -> list[Any]:
    return [ticket.result(1) for ticket in tickets]


def test_a_paused_queue_runs_nothing_until_it_is_resumed(isolated_runtime: Isolated) -> None:
    mails = [Mail(number=number).async_(queue="mailers").call() for number in range(3)]
    other = Mail(number=9).async_().call()
    queues.pause("mailers")

    assert results(isolated_runtime.run_pending()) == [9]
    assert {ticket.reload().status for ticket in mails} == {"pending"}
    assert other.status != "failed"
    assert queues.resume("mailers") is True
    assert results(isolated_runtime.run_pending()) == [0, 1, 2], "in their order"


def test_a_held_run_has_no_attempt_and_no_message(isolated_runtime: Isolated) -> None:
    ticket = Mail().async_().call()
    queues.pause(operation=Mail)
    isolated_runtime.run_pending()
    row = isolated_runtime.runtime.store.row(ticket.id)
    assert (row.status, row.num_attempts, row.claim_token) == ("pending", 0, 0)
    assert str(row.blocked_key).startswith(HELD)
    assert isolated_runtime.runtime.broker.pending().due == 0


def test_held_runs_keep_their_place_among_the_others_of_their_queue(isolated_runtime: Isolated) -> None:
    first = Mail(number=1).async_().call()
    queues.pause(operation=Mail)
    isolated_runtime.run_pending()
    isolated_runtime.advance(1)
    second = RenamedMail().async_().call()
    queues.resume(operation=Mail)
    assert [ticket.id for ticket in isolated_runtime.run_pending()] == [first.id, second.id]


def test_an_operation_is_paused_under_all_of_its_names(isolated_runtime: Isolated) -> None:
    ticket = RenamedMail().async_().call()
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.update(records).values(operation="queues.OldMail"))
    queues.pause(operation="queues.OldMail")
    assert [pause.operation for pause in queues.pauses()] == ["queues.RenamedMail"]
    isolated_runtime.run_pending()
    assert ticket.reload().status == "pending"


def test_a_waiting_run_expires_in_a_paused_queue_only_by_its_own_time(isolated_runtime: Isolated) -> None:
    short = Mail().async_(queue="mailers", expires_in=60).call()
    long = Mail().async_(queue="mailers").call()
    queues.pause("mailers")
    isolated_runtime.run_pending()
    isolated_runtime.advance(3600)
    recorded = isolated_runtime.runtime.start().recorded
    assert recorded is not None
    recorded.relay.run_once()
    assert (short.reload().status, long.reload().status) == ("expired", "pending")


def test_the_relay_republishes_no_run_of_a_pause(isolated_runtime: Isolated) -> None:
    held = Mail().async_().call()
    waiting = Mail().async_(queue="mailers").call()
    queues.pause(operation=Mail)
    queues.pause("mailers")
    isolated_runtime.run_pending()
    recorded = isolated_runtime.runtime.start().recorded
    assert recorded is not None
    for _ in range(3):
        isolated_runtime.advance(3600)
        recorded.relay.run_once()
    store = isolated_runtime.runtime.store
    assert [store.row(ticket.id).send_count for ticket in (held, waiting)] == [1, 1]
    assert store.row(held.id).blocked_key is not None
    queues.resume(operation=Mail)
    queues.resume("mailers")
    assert recorded.relay.run_once()
    assert len(isolated_runtime.run_pending()) == 2


def test_a_held_run_of_a_limited_class_runs_within_its_limit_afterwards(isolated_runtime: Isolated) -> None:
    tickets = [LimitedMail().async_().call() for _ in range(3)]
    queues.pause(operation=LimitedMail)
    isolated_runtime.run_pending()
    recorded = isolated_runtime.runtime.start().recorded
    assert recorded is not None
    recorded.relay.run_once()
    assert isolated_runtime.run_pending() == []
    queues.resume(operation=LimitedMail)
    isolated_runtime.run_pending()
    recorded.relay.run_once()
    isolated_runtime.run_pending()
    assert {ticket.reload().status for ticket in tickets} == {"done"}


def test_a_direct_run_of_a_paused_operation_waits(isolated_runtime: Isolated) -> None:
    DirectMail().async_().call()
    queues.pause(operation=DirectMail)
    isolated_runtime.run_pending()
    broker = isolated_runtime.runtime.broker
    assert (broker.pending().due, broker.pending().delayed) == (0, 1)
    queues.resume(operation=DirectMail)
    assert len(isolated_runtime.run_pending()) == 1


def test_one_run_of_a_recurring_task_waits_in_a_paused_queue(isolated_runtime: Isolated) -> None:
    recurring.add("mail", Mail(), Every("minute"), queue="mailers")
    queues.pause("mailers")
    recorded = isolated_runtime.runtime.start().recorded
    assert recorded is not None
    for _ in range(5):
        isolated_runtime.advance(60)
        recorded.recurring.run_once()
        isolated_runtime.run_pending()
    task = recurring.get("mail")
    assert queues.get("mailers").waiting == 1
    assert task.skipped_count >= 3


def test_a_second_pause_keeps_the_beginning_and_replaces_the_rest(isolated_runtime: Isolated) -> None:
    first = queues.pause("mailers", by="ada", reason="outage", for_=timedelta(hours=1))
    second = queues.pause("mailers", by="ben")
    assert second == attrs.evolve(first, by="ben", reason=None, until=None)
    assert queues.pauses() == [second]
    assert queues.resume("mailers") is True
    assert queues.resume("mailers") is False
    assert queues.pauses() == []


def test_a_pause_ends_by_itself(isolated_runtime: Isolated) -> None:
    pause = queues.pause("mailers", for_=60)
    assert pause.until == pause.since + timedelta(seconds=60) or pause.until is not None
    until = datetime.now(timezone.utc) + timedelta(seconds=60)
    assert queues.pause("lists", until=until).until == until
    Mail().async_(queue="mailers").call()
    isolated_runtime.run_pending()
    isolated_runtime.advance(61)
    assert queues.pauses() == []
    assert not queues.get("mailers").is_paused
    assert len(isolated_runtime.run_pending()) == 1
    assert queues.pause("mailers").since > pause.since, "a pause after one that is over is a new one"


def test_a_pause_is_stored_in_the_transaction_of_a_session(isolated_runtime: Isolated) -> None:
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        queues.pause("mailers", session=session)
        session.rollback()
        assert queues.pauses() == []
        with dexpy.session(session):
            queues.pause("mailers")
        session.commit()
    assert [pause.queue for pause in queues.pauses()] == ["mailers"]


def test_the_state_of_a_queue_counts_its_runs(isolated_runtime: Isolated) -> None:
    for number in range(3):
        Mail(number=number).async_(queue="mailers").call()
    isolated_runtime.run_pending()
    isolated_runtime.advance(30)
    due = Mail().async_(queue="mailers").call()
    Mail().async_(queue="mailers").call()
    Mail().async_(queue="mailers", in_=3600).call()
    isolated_runtime.advance(90)
    state = queues.get("mailers")
    assert (state.waiting, state.due, state.scheduled, state.running) == (3, 2, 1, 0)
    assert state.oldest_due_at == isolated_runtime.runtime.store.row(due.id).created_at
    assert state.oldest_age_s == pytest.approx(90, abs=20)
    assert queues.get("mailers", window=timedelta(minutes=3)).per_minute == 1.0
    assert queues.get("mailers", window=60).per_minute == 0.0
    assert queues.get("unused") == queues.Queue("unused", 0, 0, None, None, 0, 0, 0.0, (), None)
    names = [queue.name for queue in queues.all()]
    assert {"default", "mailers"} <= set(names)
    assert names == sorted(names)


def test_workers_serve_queues_by_their_patterns(isolated_runtime: Isolated) -> None:
    Mail().async_(queue="mail_eu").call()
    recorded = isolated_runtime.runtime.start().recorded
    assert recorded is not None
    recorded.heartbeat.serve(2, ("critical", "mail*"))
    worker = recorded.heartbeat.start()
    with isolated_runtime.runtime.store.begin() as connection:
        assert connection.execute(sa.select(workers.c.queues)).scalar_one() == ["critical", "mail*"]
    served = {queue.name: queue.workers for queue in queues.all()}
    assert (served["critical"], served["mail_eu"], served["default"]) == ((worker,), (worker,), ())
    recorded.heartbeat.stop()


@pytest.mark.parametrize(
    ("arguments", "options", "problem"),
    [
        ((), {}, "expected a queue or an operation, got neither"),
        (("mailers",), {"operation": Mail}, "expected a queue or an operation, got both"),
        (("no queue",), {}, "invalid queue name 'no queue'"),
        (("mailers",), {"for_": 0}, "for_=0: expected more than 0 seconds"),
        (("mailers",), {"for_": "2h"}, "for_='2h': expected seconds or a timedelta"),
        (("mailers",), {"for_": 1, "until": datetime.now(timezone.utc)}, "expected for_ or until, got both"),
        (("mailers",), {"until": datetime(2030, 1, 1)}, "expected an aware datetime"),
        (("mailers",), {"reason": "x" * 1001}, "expected a str of at most 1000 characters"),
        (("mailers",), {"by": "\0"}, "by='\\x00': expected a str"),
        ((), {"operation": "queues.RenamedMial"}, "names this operation. Did you mean 'queues.RenamedMail'?"),
        ((), {"operation": ""}, "expected the stable name of an operation"),
        ((), {"operation": 7}, "expected an operation class"),
    ],
)
def test_an_invalid_pause_is_refused(
    isolated_runtime: Isolated, arguments: tuple[Any, ...], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(OptionsError) as error:
        queues.pause(*arguments, **options)
    assert problem in str(error.value)
    assert queues.pauses() == []


@pytest.mark.parametrize("window", [0, -1, timedelta(days=10**5), "5m"])
def test_an_invalid_window_is_refused(isolated_runtime: Isolated, window: Any) -> None:
    with pytest.raises(OptionsError, match="window="):
        queues.all(window=window)


def test_pauses_require_a_database() -> None:
    dexpy.configure(broker="redis://127.0.0.1:1/0")
    with pytest.raises(NotRecorded, match="queues require a database"):
        queues.pause("mailers")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["queues", *arguments])


def test_the_command_line_pauses_lists_and_resumes(isolated_runtime: Isolated) -> None:
    Mail().async_(queue="mailers").call()
    paused = invoke("pause", "mailers", "--by", "ada", "--reason", "stock\ncount", "--for", "2h")
    assert paused.exit_code == 0, paused.output
    assert "mailers: paused since" in paused.output
    assert "by ada until" in paused.output
    invoke("pause", "--operation", RenamedMail.contract.name)
    (pause, by_operation) = queues.pauses()
    assert pause.until is not None
    assert pause.until - pause.since == pytest.approx(timedelta(hours=2), abs=timedelta(seconds=5))
    lines = invoke("list").stdout.splitlines()
    assert any(line.startswith("mailers") and "stock\\ncount" in line for line in lines), lines
    assert f"operation {by_operation.operation}: paused since" in lines[-1]
    document = json.loads(invoke("list", "--json", "--window", "1m").stdout)
    (mailers,) = [queue for queue in document["queues"] if queue["name"] == "mailers"]
    assert (mailers["waiting"], mailers["due"], mailers["pause"]["by"]) == (1, 1, "ada")
    assert document["operations"][0]["operation"] == RenamedMail.contract.name
    assert invoke("resume", "mailers").stdout == "mailers: resumed.\n"
    assert json.loads(invoke("resume", "mailers", "--json").stdout)["was_paused"] is False


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (("pause",), 2, "expected QUEUE or --operation NAME"),
        (("pause", "mailers", "--for", "2"), 2, "expected a number with a unit"),
        (("pause", "no queue"), 2, "invalid queue name"),
        (("resume", "mailers", "--operation", "x"), 2, "expected QUEUE or --operation NAME"),
    ],
)
def test_a_wrong_command_is_refused(
    isolated_runtime: Isolated, arguments: tuple[str, ...], status: int, problem: str
) -> None:
    ended = invoke(*arguments)
    assert problem in f"{ended.output}{ended.exception}"
    assert ended.exit_code != 0
    assert queues.pauses() == []
