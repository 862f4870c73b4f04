"""`Fair` lets the runs of a queue start in turn by a key; docs/reference/fair.md.

There is one worker, in this thread, so the order of the starts is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

import dexpy
from dexpy import Concurrency, Fair, Operation, Rate, Recording, Retry, Ticket, configure, records
from dexpy.database.tables import messages
from dexpy.database.tables import records as table
from dexpy.declaration import registry
from dexpy.errors import ConfigurationError, DeclarationError
from dexpy.runtime import install
from dexpy.testing import Isolated
from dexpy.worker.claims import MOST_SETTLED

started_runs: list[str] = []
during_run: list[Callable[[], Any]] = []


@pytest.fixture(autouse=True)
def nothing_started() -> None:
    started_runs.clear()
    during_run.clear()


class Export(Operation):
    """Records that it started, and calls the test's function once while it runs."""

    tenant: str = ""
    number: int = 0

    fair = Fair("tenant")

    def perform(self) -> None:
        started_runs.append(f"{self.tenant}{self.number}")
        if during_run:
            during_run.pop()()


class Invoice(Export):
    fair = Fair("tenant", group="tenants")


class Report(Export):
    fair = Fair("tenant", group="tenants")


class Retried(Export):
    retry_on = (Retry(RuntimeError, wait=30, jitter=0),)

    def perform(self) -> None:
        super().perform()
        if started_runs.count("a0") == 1 and self.number == 0:
            raise RuntimeError("broken")


class Limited(Export):
    concurrency = Concurrency(1)
    rate = Rate(3, per=60)


class Plain(Export):
    fair = None


def enqueue(tenant: str, *numbers: int, cls: type[Export] = Export, **options: Any) -> list[Ticket[None]]:
    return [cls(tenant=tenant, number=number).async_(**options).call() for number in numbers]


def assert_nothing_left(isolated_runtime: Isolated) -> None:
    """Assert that every run has ended, and that no message was lost or is left."""
    assert {record.status for record in records.all()} == {"done"}
    recorded = isolated_runtime.runtime.services.recorded
    assert recorded is not None
    isolated_runtime.advance(120)
    assert recorded.relay.run_once()
    assert recorded.relay.counts["republished"] == 0
    assert isolated_runtime.runtime.store.rows(sa.select(messages.c.id)) == []


def test_the_keys_start_in_turn_and_the_runs_of_a_key_by_age(isolated_runtime: Isolated) -> None:
    enqueue("a", *range(5))
    enqueue("b", *range(3))
    enqueue("c", 0)
    isolated_runtime.run_pending()
    assert sorted(started_runs[:3]) == ["a0", "b0", "c0"]
    assert sorted(started_runs[3:5]) == ["a1", "b1"]
    assert sorted(started_runs[5:7]) == ["a2", "b2"]
    assert started_runs[7:] == ["a3", "a4"]
    assert_nothing_left(isolated_runtime)


def test_a_key_with_many_runs_does_not_delay_the_first_run_of_another(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    dexpy.enqueue_all([Export(tenant="many", number=number) for number in range(2000)])
    during_run.append(lambda: enqueue("late", 0))
    monkeypatch.setattr("dexpy.testing.MAX_RUNS", 3)
    with pytest.raises(RuntimeError, match="stopped after 3 runs"):
        isolated_runtime.run_pending()
    assert started_runs == ["many0", "late0", "many1"]


def test_a_higher_priority_precedes_every_turn(isolated_runtime: Isolated) -> None:
    enqueue("a", 0, 1)
    enqueue("b", 5, 6, 7, priority=2)
    enqueue("c", 8, priority=2)
    isolated_runtime.run_pending()
    assert sorted(started_runs[:2]) == ["b5", "c8"]
    assert started_runs[2:] == ["b6", "b7", "a0", "a1"]
    assert_nothing_left(isolated_runtime)


def test_delayed_and_retried_runs_take_part_once_they_are_due(isolated_runtime: Isolated) -> None:
    enqueue("a", 0, 1, cls=Retried)
    enqueue("b", 9, in_=30)
    isolated_runtime.run_pending()
    assert started_runs == ["a0", "a1"]
    isolated_runtime.advance(31)
    enqueue("a", 2, 3, cls=Retried)
    isolated_runtime.run_pending()
    assert "b9" in started_runs[2:4]
    assert [run for run in started_runs[2:] if run != "b9"] == ["a0", "a2", "a3"]
    assert_nothing_left(isolated_runtime)


def test_a_rescheduled_and_a_retried_run_take_part(isolated_runtime: Isolated) -> None:
    cancelled, moved, *_ = enqueue("a", 0, 1, 2, 3)
    cancelled.cancel()
    enqueue("b", 4)
    moved.reschedule(at=records.get(moved.id).created_at)
    cancelled.retry()
    isolated_runtime.run_pending()
    assert "b4" in started_runs[:2]
    assert sorted(started_runs) == ["a0", "a1", "a2", "a3", "b4"]
    assert_nothing_left(isolated_runtime)


def test_classes_of_a_group_have_one_turn_for_a_key(isolated_runtime: Isolated) -> None:
    enqueue("a", 0, 1, cls=Invoice)
    enqueue("a", 2, 3, cls=Report)
    enqueue("b", 4, 5, cls=Invoice)
    isolated_runtime.run_pending()
    assert {"b4"} < set(started_runs[:2])
    assert {"b5"} < set(started_runs[2:4])
    assert [run for run in started_runs if run[0] == "a"] == ["a0", "a1", "a2", "a3"]
    assert_nothing_left(isolated_runtime)


def test_each_queue_has_its_own_turns(isolated_runtime: Isolated) -> None:
    enqueue("a", 0, 1)
    enqueue("b", 2, 3, queue="other")
    isolated_runtime.run_pending(["default"])
    assert started_runs == ["a0", "a1"]
    isolated_runtime.run_pending(["other"])
    assert started_runs[2:] == ["b2", "b3"]
    assert_nothing_left(isolated_runtime)


def test_the_starts_of_a_limit_are_used_in_turn(isolated_runtime: Isolated) -> None:
    enqueue("a", *range(5), cls=Limited)
    enqueue("b", *range(2), cls=Limited)
    isolated_runtime.run_pending()
    assert len(started_runs) == 3
    assert {"a0", "b0"} == set(started_runs[:2])
    for _ in range(2):
        isolated_runtime.advance(61)
        isolated_runtime.run_pending()
    assert "b1" in started_runs[:4]
    assert [run for run in started_runs if run[0] == "a"] == [f"a{number}" for number in range(5)]
    assert_nothing_left(isolated_runtime)


def test_a_delivery_that_makes_many_runs_wait_for_their_limit_starts_its_own(isolated_runtime: Isolated) -> None:
    enqueue("a", 0, 1, 2, cls=Limited)
    isolated_runtime.run_pending()
    throttled = enqueue("b", *range(MOST_SETTLED), cls=Limited, priority=1)
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.delete(messages))
    enqueue("c", 9)
    isolated_runtime.run_pending()
    assert started_runs[3:] == ["c9"]
    assert {records.get(ticket.id).status for ticket in throttled} == {"pending"}
    for _ in range(6):
        isolated_runtime.advance(61)
        isolated_runtime.run_pending()
    assert_nothing_left(isolated_runtime)


def test_an_expired_run_holds_up_no_other_of_its_key(isolated_runtime: Isolated) -> None:
    (overdue,) = enqueue("a", 0, expires_in=5)
    enqueue("a", 1, 2)
    isolated_runtime.advance(6)
    isolated_runtime.run_pending()
    assert started_runs == ["a1", "a2"]
    assert overdue.reload().status == "expired"


def test_a_run_of_an_unknown_class_holds_up_no_other_of_its_key(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    (unknown,) = enqueue("a", 0, cls=Invoice)
    enqueue("a", 1, 2, cls=Report)
    known = {name: cls for name, cls in registry._by_name.items() if cls is not Invoice}
    monkeypatch.setattr(registry, "_by_name", known)
    isolated_runtime.run_pending()
    assert started_runs == ["a1", "a2"]
    assert unknown.reload().pending


def test_runs_from_before_and_after_a_change_of_the_class_run(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(Export, "fair", None)
        enqueue("a", 0, 1)
    enqueue("b", 2, 3)
    with monkeypatch.context() as later:
        later.setattr(Export, "fair", None)
        enqueue("c", 4)
        isolated_runtime.run_pending()
    assert sorted(started_runs) == ["a0", "a1", "b2", "b3", "c4"]
    assert_nothing_left(isolated_runtime)


def test_a_run_without_a_fair_key_executes_no_statement_about_turns(isolated_runtime: Isolated) -> None:
    statements: list[str] = []
    engine = isolated_runtime.runtime.store.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *event: statements.append(str(event[2])))
    enqueue("a", 0, cls=Plain)
    isolated_runtime.run_pending()
    assert started_runs == ["a0"]
    assert statements
    assert not [statement for statement in statements if "fair_queue =" in statement.partition("WHERE")[2]]
    (row,) = isolated_runtime.runtime.store.rows(sa.select(table.c.fair_key, table.c.fair_queue, table.c.scheduled_at))
    assert tuple(row) == (None, None, None)


def test_explain_shows_the_key(isolated_runtime: Isolated) -> None:
    (ticket,) = enqueue("a", 0)
    report = Export.explain(tenant="a").fair
    assert report == {"key": isolated_runtime.runtime.store.row(ticket.id).fair_key}
    assert Plain.explain().fair is None
    assert Export.contract.fair == Fair("tenant")


def test_an_invalid_declaration_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Fair\(\): expected names of props, one function"):
        Fair()
    with pytest.raises(DeclarationError, match=r"Fair\(group=''\): expected a name"):
        Fair("tenant", group="")
    with pytest.raises(DeclarationError, match=r"Slow.fair: unknown prop 'tennant'; .*tenant"):

        class Slow(Operation):
            tenant: int
            fair = Fair("tennant")

    with pytest.raises(DeclarationError, match=r"Bare.fair: expected a Fair\(\.\.\.\) or None, got 'tenant'"):

        class Bare(Operation):
            fair = "tenant"  # type: ignore[assignment]

    with pytest.raises(DeclarationError, match=r"fair: fairness requires a record .* record = False excludes"):

        class Unrecorded(Export):
            record = False

    with pytest.raises(DeclarationError, match=r"which record = Recording\(params=False\) excludes"):

        class Direct(Export):
            record = Recording(params=False)


def test_a_fair_run_is_refused_where_nothing_is_recorded() -> None:
    configure(broker="redis://localhost:1")
    try:
        with pytest.raises(ConfigurationError, match="Rate and Fair require a record, but nothing is recorded"):
            Export(tenant="a").async_().call()
    finally:
        install(None)
