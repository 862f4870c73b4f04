"""`Unique` allows one background run with a key at a time; docs/reference/unique.md."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import dexpy
from dexpy import ConfigurationError, Once, Operation, Recording, Retry, Unique
from dexpy.configuration.settings import Settings
from dexpy.database.tables import records as table
from dexpy.enqueue.keyed_insert import KeyedInsert
from dexpy.errors import DeclarationError, KeyTaken, NotRecorded, NotUnique, OptionsError
from dexpy.runtime import Runtime, install
from dexpy.testing import Isolated

runs: list[int] = []
during_run: list[Callable[[], Any]] = []
"""The functions that the next runs call, the last one first."""


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    runs.clear()
    during_run.clear()


class Reindex(Operation, name="unique.reindex"):
    shop: int
    note: str = ""
    unique = Unique("shop")

    def perform(self) -> int:
        runs.append(self.shop)
        for action in during_run:
            action()
        return len(runs)


class UntilStarted(Reindex, name="unique.until_started"):
    unique = Unique("shop", until="started")


class Hourly(Reindex, name="unique.hourly"):
    unique = Unique("shop", for_=timedelta(hours=1))


class Skip(Reindex, name="unique.skip"):
    unique = Unique("shop", on_conflict="skip")


class Raise(Reindex, name="unique.raise"):
    unique = Unique("shop", on_conflict="raise")


class Replace(Reindex, name="unique.replace"):
    unique = Unique("shop", on_conflict="replace")


class Whole(Reindex, name="unique.whole"):
    unique = Unique()


class ByFunction(Reindex, name="unique.by_function"):
    unique = Unique(lambda op: op.shop % 2)


class Retried(Reindex, name="unique.retried"):
    retry_on = (Retry(ConnectionError, attempts=2, wait=60),)


class RetriedUntilStarted(Retried, name="unique.retried_until_started"):
    unique = Unique("shop", until="started")


class Both(Reindex, name="unique.both"):
    once = Once("note", params="ignore")


class Free(Reindex, name="unique.free"):
    unique = Unique.never()


def rows(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)).all())


def fail() -> None:
    raise ConnectionError


# -------------------------------------------------------------------- the scopes


def test_until_finished_a_duplicate_is_not_stored_while_a_run_is_pending_or_running(isolated_runtime: Isolated) -> None:
    first, second = Reindex(shop=1).async_().call(), Reindex(shop=1, note="other").async_().call()
    assert (first.duplicate, second.duplicate, second.id) == (False, True, first.id)
    assert not Reindex(shop=2).async_().call().duplicate
    met: list[dexpy.Ticket[int]] = []
    during_run.append(lambda: met.append(Reindex(shop=runs[-1]).async_().call()))
    isolated_runtime.run_pending()
    assert [ticket.duplicate for ticket in met] == [True, True]
    assert runs == [1, 2]
    assert not Reindex(shop=1).async_().call().duplicate


def test_until_finished_lasts_between_attempts(isolated_runtime: Isolated) -> None:
    first = Retried(shop=1).async_().call()
    during_run.append(fail)
    isolated_runtime.run_pending()
    assert first.reload().pending
    assert Retried(shop=1).async_().call().id == first.id


def test_until_started_ends_with_the_first_claim(isolated_runtime: Isolated) -> None:
    first = UntilStarted(shop=1).async_().call()
    assert UntilStarted(shop=1).async_().call().id == first.id
    met: list[dexpy.Ticket[int]] = []
    during_run.append(lambda: met.append(UntilStarted(shop=1).async_().call()) if not met else None)
    isolated_runtime.run_pending()
    assert [ticket.duplicate for ticket in met] == [False]
    assert runs == [1, 1]


def test_until_started_does_not_apply_again_between_attempts(isolated_runtime: Isolated) -> None:
    RetriedUntilStarted(shop=1).async_().call()
    during_run.append(fail)
    isolated_runtime.run_pending()
    assert not RetriedUntilStarted(shop=1).async_().call().duplicate


def test_a_unique_period_lasts_after_the_end_of_the_run_until_it_expires(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    first = Hourly(shop=1).async_().call()
    isolated_runtime.run_pending()
    second = Hourly(shop=1).async_().call()
    assert (second.duplicate, second.id, second.status) == (True, first.id, "done")
    with engine.begin() as connection:
        connection.execute(sa.update(table).values(unique_expires_at=table.c.created_at))
    assert not Hourly(shop=1).async_().call().duplicate
    assert [row.unique_key is None for row in rows(engine)] == [True, False]


@pytest.mark.parametrize("kind", [Reindex, UntilStarted, Hourly])
def test_a_run_that_is_cancelled_before_its_start_releases_its_key(
    isolated_runtime: Isolated, kind: type[Reindex]
) -> None:
    kind(shop=1).async_().call().cancel()
    assert not kind(shop=1).async_().call().duplicate


def test_a_call_in_place_claims_no_unique_key(isolated_runtime: Isolated) -> None:
    ticket = Reindex(shop=1).async_().call()
    assert [Reindex(shop=1).call(), Reindex(shop=1).call()] == [1, 2]
    assert ticket.reload().pending


# -------------------------------------------------------------------- the key


def test_the_key_is_built_from_some_props_all_props_or_a_function(isolated_runtime: Isolated) -> None:
    assert not Whole(shop=1).async_().call().duplicate
    assert not Whole(shop=1, note="other").async_().call().duplicate
    assert Whole(shop=1).async_().call().duplicate
    assert not ByFunction(shop=1).async_().call().duplicate
    assert ByFunction(shop=3).async_().call().duplicate
    assert not ByFunction(shop=2).async_().call().duplicate


def test_equal_keys_of_two_operations_are_independent(isolated_runtime: Isolated) -> None:
    assert [kind(shop=1).async_().call().duplicate for kind in (Reindex, UntilStarted, Hourly)] == [False] * 3


def test_a_subclass_disables_the_declaration(isolated_runtime: Isolated) -> None:
    assert [Free(shop=1).async_().call().duplicate for _ in range(2)] == [False, False]


# -------------------------------------------------------------------- the conflict


def test_skip_returns_a_ticket_without_a_run(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    Skip(shop=1).async_().call()
    ticket = Skip(shop=1).async_().call()
    assert (ticket.duplicate, ticket.recorded, bool(ticket), len(rows(engine))) == (True, False, True, 1)
    with pytest.raises(NotRecorded, match="not stored, because another run has its unique key and the class declares"):
        ticket.wait(1)


def test_raise_names_the_run_that_holds_the_key(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    first = Raise(shop=1).async_().call()
    with pytest.raises(NotUnique) as raised:
        Raise(shop=1).async_().call()
    assert (raised.value.id, raised.value.operation) == (first.id, "unique.raise")
    assert str(raised.value) == f"unique.raise: the run {first.id} holds its unique key. Nothing was stored or sent."
    assert len(rows(engine)) == 1


def test_raise_leaves_the_callers_transaction_unchanged(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    Raise(shop=1).async_().call()
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        Free(shop=1).async_(session=session).call()
        with pytest.raises(NotUnique):
            Raise(shop=1).async_(session=session).call()
        session.commit()
    assert [row.operation for row in rows(engine)] == ["unique.raise", "unique.free"]


def test_replace_replaces_a_pending_run(isolated_runtime: Isolated) -> None:
    first = Replace(shop=1, note="old").async_(in_=60).call()
    second = Replace(shop=1, note="new").async_().call()
    assert not second.duplicate
    assert (first.reload().status, first.failure) == ("cancelled", "cancelled")
    assert dexpy.records.get(first.id).error_message == f"Replaced by {second.id}, which has the same unique key."
    isolated_runtime.run_pending()
    assert (runs, second.reload().status) == ([1], "done")


def test_replace_returns_the_ticket_of_a_running_run(isolated_runtime: Isolated) -> None:
    first = Replace(shop=1).async_().call()
    met: list[dexpy.Ticket[int]] = []
    during_run.append(lambda: met.append(Replace(shop=1).async_().call()))
    isolated_runtime.run_pending()
    assert [(ticket.duplicate, ticket.id) for ticket in met] == [(True, first.id)]


def test_replace_in_a_transaction_that_is_rolled_back_replaces_nothing(isolated_runtime: Isolated) -> None:
    first = Replace(shop=1).async_().call()
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        second = Replace(shop=1).async_(session=session).call()
        assert not second.duplicate
        session.rollback()
    assert first.reload().pending


def test_one_run_remains_of_many_concurrent_replacements(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    Replace(shop=1).async_().call()
    failures: list[BaseException] = []

    def replace() -> None:
        try:
            Replace(shop=1).async_().call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=replace) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert sorted(row.status for row in rows(engine)) == ["cancelled"] * 6 + ["pending"]


@pytest.mark.parametrize("kind", [Reindex, UntilStarted, Hourly])
def test_one_of_many_concurrent_enqueues_is_stored(
    isolated_runtime: Isolated, engine: sa.Engine, kind: type[Reindex]
) -> None:
    tickets: list[dexpy.Ticket[int]] = []
    threads = [threading.Thread(target=lambda: tickets.append(kind(shop=1).async_().call())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    (row,) = rows(engine)
    assert {ticket.id for ticket in tickets} == {row.id}
    assert sorted(ticket.duplicate for ticket in tickets) == [False] + [True] * 5
    assert len(isolated_runtime.run_pending()) == 1


def seeing_one_moment(isolated_runtime: Isolated) -> sa.Engine:
    """Return an engine with the isolation level REPEATABLE READ; on SQLite, the engine as it is."""
    engine = isolated_runtime.runtime.store.database.engine
    return engine if engine.dialect.name == "sqlite" else engine.execution_options(isolation_level="REPEATABLE READ")


def test_a_key_committed_after_the_start_of_the_callers_transaction_counts(isolated_runtime: Isolated) -> None:
    with Session(seeing_one_moment(isolated_runtime)) as session:
        session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        first = Reindex(shop=1).async_().call()
        second = Reindex(shop=1).async_(session=session).call()
        session.rollback()
    assert (second.duplicate, second.reload().id) == (True, first.id)


def test_a_run_that_ended_after_the_start_of_the_callers_transaction_holds_no_key(isolated_runtime: Isolated) -> None:
    Reindex(shop=1).async_().call()
    with Session(seeing_one_moment(isolated_runtime)) as session:
        session.execute(sa.select(table.c.status)).all()
        isolated_runtime.run_pending()
        assert not Reindex(shop=1).async_(session=session).call().duplicate
        session.commit()
    assert len(isolated_runtime.run_pending()) == 1


def test_a_duplicate_in_an_open_transaction_does_not_delay_the_run(isolated_runtime: Isolated) -> None:
    first = Reindex(shop=1).async_().call()
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        assert Reindex(shop=1).async_(session=session).call().duplicate
        if session.get_bind().dialect.name != "sqlite":
            isolated_runtime.run_pending()
            assert first.reload().done


def test_two_replacements_in_one_transaction_leave_one_run(isolated_runtime: Isolated) -> None:
    first = Replace(shop=1).async_().call()
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        second = Replace(shop=1).async_(session=session).call()
        third = Replace(shop=1).async_(session=session).call()
        session.commit()
    assert [ticket.reload().status for ticket in (first, second, third)] == ["cancelled", "cancelled", "pending"]


def test_with_an_idempotency_key_both_keys_are_held(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    first = Both(shop=1, note="a").async_().call()
    assert Both(shop=1, note="b").async_().call().id == first.id
    assert Both(shop=2, note="a").async_().call().id == first.id
    isolated_runtime.run_pending()
    assert not Both(shop=1, note="b").async_().call().duplicate
    assert Both(shop=3, note="a").async_().call().id == first.id


def test_retry_claims_the_key_again_unless_another_run_holds_it(isolated_runtime: Isolated) -> None:
    first = Reindex(shop=1).async_().call().cancel()
    second = Reindex(shop=1).async_().call()
    with pytest.raises(KeyTaken, match=f"the run {second.id} holds its unique key. Nothing was changed."):
        first.retry()
    assert first.reload().cancelled
    second.cancel()
    first.retry()
    assert Reindex(shop=1).async_().call().id == first.id


# -------------------------------------------------------------------- tokens


def test_a_second_call_with_a_token_returns_the_ticket_of_the_first(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    first = Free(shop=1).async_(idempotence_token="t-1").call()
    assert Free(shop=2).async_(idempotence_token="t-1").call().id == first.id
    other = Reindex(shop=1).async_(idempotence_token="t-1").call()
    assert not other.duplicate
    # Tokens are separate for each operation.
    assert Reindex(shop=2).async_(idempotence_token="t-1").call().id == other.id
    assert Free(shop=2).async_(idempotence_token="t-1").call().id == first.id
    assert not Free(shop=1).async_(idempotence_token="t-2").call().duplicate
    isolated_runtime.run_pending()
    again = Free(shop=3).async_(idempotence_token="t-1").call()
    assert (again.duplicate, again.id, again.status) == (True, first.id, "done")
    assert len(rows(engine)) == 3


def test_a_token_is_claimed_in_the_callers_transaction(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        first = Free(shop=1).async_(idempotence_token="t", session=session).call()
        second = Free(shop=1).async_(idempotence_token="t", session=session).call()
        assert second.id == first.id
        with pytest.raises(dexpy.errors.NotCommitted):
            second.reload()
        session.commit()
    assert (second.reload().status, len(rows(engine))) == ("pending", 1)


def test_tokens_are_compared_exactly(isolated_runtime: Isolated) -> None:
    tokens = ["t-1", "T-1", "ť-1"]
    assert len({Free(shop=1).async_(idempotence_token=token).call().id for token in tokens}) == 3


def test_tokens_that_differ_in_a_trailing_space_differ(isolated_runtime: Isolated) -> None:
    """MariaDB ignores trailing spaces in comparisons, unless the collation is NO PAD."""
    tickets = [Free(shop=1).async_(idempotence_token=token).call() for token in ("t-1", "t-1 ", " t-1")]

    assert not any(ticket.duplicate for ticket in tickets)
    assert len({ticket.id for ticket in tickets}) == 3


@pytest.mark.parametrize("token", ["", "x" * 256, 7])
def test_an_invalid_token_is_refused(token: Any) -> None:
    with pytest.raises(OptionsError, match="expected a str of 1 to 255 characters"):
        Free(shop=1).async_(idempotence_token=token)


# -------------------------------------------------------------------- refusals and reports


def declare(**attributes: Any) -> type[Operation]:
    return type("Broken", (Operation,), {"__annotations__": {"shop": int}, "perform": lambda self: 1, **attributes})


REFUSED = [
    ({"unique": True}, r"unique: expected a Unique\(\.\.\.\), got True. Write unique = Unique"),
    ({"record": False}, "a unique key requires a record, which record = False excludes"),
    ({"record": Recording(params=False)}, r"which Recording\(params=False\) excludes"),
    ({"unique": Unique("shpo")}, "unknown prop 'shpo'; expected one of 'shop'. Did you mean 'shop'?"),
]


@pytest.mark.parametrize(("attributes", "message"), REFUSED)
def test_an_invalid_declaration_is_refused(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare(**{"unique": Unique("shop"), **attributes})


ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"until": "finished", "for_": 60}, r"Unique\(until=, for_=\): expected a scope \(until\) or a duration"),
    ({"until": "done"}, "expected 'started' or 'finished'"),
    ({"for_": 0}, "expected more than 0 seconds"),
    ({"for_": "1 h"}, "for_='1 h': expected seconds or a timedelta"),
    ({"on_conflict": "wait"}, "expected 'ticket', 'skip', 'raise' or 'replace'"),
]


@pytest.mark.parametrize(("kwargs", "message"), ARGUMENTS)
def test_an_invalid_argument_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Unique("shop", **kwargs)


def test_without_records_a_key_is_refused_at_the_call() -> None:
    from dramatiq.brokers.stub import StubBroker

    before = install(Runtime(Settings(), broker=StubBroker()))
    try:
        with pytest.raises(
            ConfigurationError, match="Once, Unique, Concurrency, Rate and Fair require a record, but nothing"
        ):
            Reindex(shop=1).async_().call()
    finally:
        install(before)


def test_explain_shows_which_run_holds_the_key(isolated_runtime: Isolated) -> None:
    explanation = Reindex.explain(shop=1).unique
    assert explanation is not None
    assert (explanation["until"], explanation["on_conflict"], explanation["status"]) == ("finished", "ticket", "fresh")
    first = Reindex(shop=1).async_().call()
    explanation = Reindex.explain(shop=1).unique or {}
    assert (explanation["status"], explanation["held_by"]) == ("held", first.id)
    assert Free.explain(shop=1).unique is None


def test_a_plain_enqueue_makes_no_query_for_keys(isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> bool:
        raise AssertionError("a plain enqueue has no key")

    monkeypatch.setattr(KeyedInsert, "insert", never)
    assert not Free(shop=1).async_().call().duplicate
