"""`Lock` allows one run at a time for each key; docs/reference/lock.md."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from harness.workers import eventually
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import dexpy
from dexpy import ConfigurationError, Err, Error, Lock, Ok, Once, Operation, Ref, Retry, configure, prop, records
from dexpy.declaration.key_digests import digest, lock_key
from dexpy.errors import DeclarationError, LockLost, OptionsError
from dexpy.execution.middleware import lock as lock_step
from dexpy.foundation import failpoints
from dexpy.locks.base import LockHandle
from dexpy.runtime import current_runtime, install
from dexpy.testing import Isolated, isolated

started_runs: list[Any] = []
during_run: list[Callable[[], Any]] = []
WAIT_S = 20.0


@pytest.fixture(autouse=True)
def nothing_left() -> None:
    started_runs.clear()
    during_run.clear()


class Model(DeclarativeBase):
    """The application's tables."""


class Account(Model):
    """An account with an owner."""

    __tablename__ = "lock_accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(sa.String(40))


class Transfer(Operation):
    """Records that it started, and calls the test's function once while it runs."""

    account: int
    note: str = ""

    lock = Lock(template="account:{account}", timeout=0.1)

    def perform(self) -> int:
        started_runs.append(self.account)
        if during_run:
            during_run.pop()()
        return self.account


class Patient(Transfer):
    lock = Lock(template="account:{account}", timeout=WAIT_S)


class Endless(Transfer):
    lock = Lock(template="account:{account}", timeout=None)


class Hasty(Transfer):
    lock = Lock(template="account:{account}", timeout=0)


class Nested(Transfer):
    """Calls two operations with the same key."""

    def perform(self) -> int:
        return Transfer(account=self.account).call() + Transfer(account=self.account).call()


class NestedOutside(Nested):
    transaction = False


class NestedOther(Transfer):
    """Calls an operation with another key in its own transaction."""

    def perform(self) -> int:
        answer = Transfer(account=self.account + 1).call()
        if during_run:
            during_run.pop()()
        return answer


class Writes(Transfer):
    """Has begun its transaction when the test's function is called."""

    def perform(self) -> int:
        self.session.execute(sa.text("SELECT 1"))
        return super().perform()


class Waits(Transfer):
    lock = Lock(template="account:{account}", timeout=None)
    timeout = 0.5


class Ruled(Transfer):
    retry_on = (Retry("lock_timeout", attempts=2, wait=0, jitter=0),)


class Discarded(Transfer):
    discard_on = ("lock_timeout",)


class Declared(Transfer):
    errors = {"no_money"}


class Tidy(Transfer):
    """Has one lock for the whole class."""

    lock = Lock(timeout=0.1)


class Made(Transfer):
    lock = Lock(lambda op: f"account:{op.account}", timeout=0.1)


class Secret(Operation):
    """Has a sensitive prop in its key."""

    card: str = prop(sensitive=True)

    lock = Lock(template="card:{card}", timeout=0)

    def perform(self) -> None:
        if during_run:
            during_run.pop()()


class Pays(Operation):
    account: Ref[Account]

    lock = Lock(template="account:{account}", timeout=0.1)

    def perform(self) -> str:
        if during_run:
            during_run.pop()()
        return self.account.owner


class PaysOwner(Pays):
    lock = Lock(lambda op: op.account.owner, timeout=0.1)


class PaidOnce(Transfer):
    """Has an idempotency key and a lock."""

    once = Once("account")
    lock = Lock(template="account:{account}", timeout=0)
    retry_on = (Retry("lock_timeout", attempts=1),)


class Coroutine(Operation):
    lock = Lock(template="coroutine", timeout=0.1)

    async def perform(self) -> int:
        return 1


@contextmanager
def holding(key: str, backend: str | None = None) -> Generator[LockHandle]:
    """Hold a lock in another session until the end of the block."""
    hold = current_runtime().store.locks.handle(digest("lock", key), backend)
    assert hold.wait(WAIT_S)
    try:
        yield hold
    finally:
        hold.release()


def is_free(key: str) -> bool:
    """Whether a lock can be acquired without a wait."""
    hold = current_runtime().store.locks.handle(digest("lock", key))
    try:
        return hold.wait(0)
    finally:
        hold.release()


def in_thread(action: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start a function in another thread; return the thread, and a list that gets its result or error."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(action())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, answers


def test_a_second_run_with_the_key_does_not_get_the_lock(isolated_runtime: Isolated) -> None:
    outcomes: list[Any] = []
    during_run.append(lambda: outcomes.append(in_another_thread(lambda: Transfer(account=7).safe.call())))
    assert Transfer(account=7).call() == 7
    (refused,) = outcomes
    assert refused == Err(
        "lock_timeout",
        "The lock 'account:7' was not free within 0.1 s: another run holds it.",
        {"timeout_s": 0.1, "lock": "account:7"},
    )
    assert Transfer(account=7).safe.call() == Ok(7)
    assert started_runs == [7, 7]


def in_another_thread(action: Callable[[], Any]) -> Any:
    """Run a function in another thread, outside of the current run, and return its result."""
    thread, answers = in_thread(action)
    thread.join()
    return answers[0]


def test_a_lock_timeout_of_a_call_raises_with_an_undeclared_code(isolated_runtime: Isolated) -> None:
    with holding("account:7"), pytest.raises(Error) as refused:
        Declared(account=7).call()
    assert refused.value.code == "lock_timeout"
    assert started_runs == []


def test_locks_of_different_keys_are_independent(isolated_runtime: Isolated) -> None:
    with holding("account:7"):
        assert Transfer(account=8).call() == 8


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list with an entry for each wait of a run for a busy lock; a run waits at most 0.05 s at once."""
    collected: list[str] = []
    monkeypatch.setattr(lock_step, "WAIT_SLICE_S", 0.05)
    monkeypatch.setattr(failpoints, "reached", lambda point: collected.extend([point] * (point == "lock_busy")))
    return collected


def test_a_run_waits_for_the_lock_and_gets_it(isolated_runtime: Isolated, waits: list[str]) -> None:
    with holding("account:7") as hold:
        thread, answers = in_thread(lambda: Patient(account=7).call())
        eventually(lambda: waits, "the run waits for the lock")
        assert started_runs == []
        hold.release()
        thread.join(WAIT_S)
    assert answers == [7]


def test_without_a_timeout_a_run_waits_for_the_lock_indefinitely(isolated_runtime: Isolated, waits: list[str]) -> None:
    with holding("account:7") as hold:
        thread, answers = in_thread(lambda: Endless(account=7).call())
        eventually(lambda: len(waits) > 5, "the run waits again after each wait")
        hold.release()
        thread.join(WAIT_S)
    assert answers == [7]


def test_with_a_timeout_of_zero_a_run_tries_once(isolated_runtime: Isolated) -> None:
    assert Hasty(account=7).call() == 7
    with holding("account:7"):
        began_at = time.monotonic()
        assert isinstance(Hasty(account=7).safe.call(), Err)
        assert time.monotonic() - began_at < 5


def test_the_lock_is_released_after_a_crash_and_a_business_error(isolated_runtime: Isolated) -> None:
    def crash() -> None:
        raise RuntimeError("broken")

    def refuse() -> None:
        raise Error("no_money", "None left")

    during_run.append(crash)
    with pytest.raises(RuntimeError):
        Transfer(account=7).call()
    assert is_free("account:7")
    during_run.append(refuse)
    assert isinstance(Transfer(account=7).safe.call(), Err)
    assert is_free("account:7")


def test_the_lock_is_held_until_the_transaction_has_ended(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    store = current_runtime().store
    new_session = store.new_session

    def watched() -> Session:
        session = new_session()
        sa.event.listen(session, "after_begin", lambda *_: events.append("begun"))
        sa.event.listen(session, "after_commit", lambda *_: events.append("committed"))
        return session

    monkeypatch.setattr(store, "new_session", watched)
    monkeypatch.setattr(failpoints, "reached", events.append)
    Writes(account=7).call()
    inner = [word for word in events if word in ("lock_acquired", "begun", "committed", "before_lock_release")]
    assert inner == ["lock_acquired", "begun", "committed", "before_lock_release"]


def test_a_nested_run_with_the_same_key_does_not_wait(isolated_runtime: Isolated) -> None:
    assert Nested(account=7).call() == 14
    assert NestedOutside(account=7).call() == 14
    assert is_free("account:7")


def test_the_lock_of_an_inner_run_is_held_until_the_outer_transaction_has_ended(isolated_runtime: Isolated) -> None:
    free: list[bool] = []
    during_run.append(lambda: None)
    during_run.append(lambda: free.append(in_another_thread(lambda: is_free("account:8"))))
    during_run.reverse()
    assert NestedOther(account=7).call() == 8
    assert free == [False]
    assert is_free("account:8")


def test_in_a_joined_session_the_lock_is_held_until_its_transaction_ends(isolated_runtime: Isolated) -> None:
    with current_runtime().store.new_session() as session:
        with dexpy.session(session):
            assert Writes(account=7).call() == 7
            assert Transfer(account=7).call() == 7, "a call in the same transaction has the lock"
            assert not in_another_thread(lambda: is_free("account:7"))
        session.commit()
    assert is_free("account:7")


def test_an_async_run_acquires_the_lock_too(isolated_runtime: Isolated) -> None:
    assert asyncio.run(Coroutine().acall()) == 1
    with holding("coroutine"), pytest.raises(Error):
        asyncio.run(Coroutine().acall())


def test_a_cancelled_await_stops_waiting(isolated_runtime: Isolated, waits: list[str]) -> None:
    async def give_up() -> None:
        call = asyncio.create_task(Endless(account=7).acall())
        while not waits:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    with holding("account:7"):
        asyncio.run(give_up())
        assert started_runs == []
    assert is_free("account:7")


def test_a_call_that_does_not_get_its_lock_leaves_a_record(isolated_runtime: Isolated) -> None:
    with holding("account:7"):
        Transfer(account=7).safe.call()
    (record,) = records.all()
    assert (record.status, record.failure, record.error) == ("failed", "business", "lock_timeout")
    assert record.error_message == "The lock 'account:7' was not free within 0.1 s: another run holds it."
    assert record.params == {"account": 7, "note": ""}


def test_in_a_worker_a_lock_timeout_is_retried_after_a_wait(isolated_runtime: Isolated) -> None:
    ticket = Transfer(account=7).async_().call()
    with holding("account:7"):
        isolated_runtime.run_pending()
    row = records.get(ticket.id)
    assert (row.status, row.error, row.num_attempts) == ("pending", "lock_timeout", 1)
    assert row.scheduled_at is not None
    assert 1.5 < (row.scheduled_at - row.updated_at).total_seconds() < 3, "2 s with jitter"
    eventually(lambda: isolated_runtime.run_pending() and ticket.reload().done, "the next attempt gets the lock")
    assert started_runs == [7]


def test_a_rule_of_the_class_replaces_the_default_rule_and_its_last_attempt_fails(isolated_runtime: Isolated) -> None:
    ticket = Ruled(account=7).async_().call()
    dropped = Discarded(account=7).async_().call()
    with holding("account:7"):
        eventually(lambda: isolated_runtime.run_pending() or ticket.reload().failed, "the last attempt fails")
    assert (ticket.reload().status, ticket.failure) == ("failed", "business")
    assert ticket.outcome == Err(
        "lock_timeout", records.get(ticket.id).error_message or "", {"timeout_s": 0.1, "lock": "account:7"}
    )
    assert records.get(ticket.id).num_attempts == 2
    assert dropped.reload().failure == "discarded"
    assert started_runs == []


def test_waiting_for_the_lock_counts_against_the_timeout_of_the_run(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_step, "WAIT_SLICE_S", 0.05)
    ticket = Waits(account=7).async_().call()
    with holding("account:7"):
        isolated_runtime.run_pending()
    assert (ticket.reload().status, ticket.failure) == ("failed", "timeout")
    assert records.get(ticket.id).error_message == "Waits: timed out while it waited for its lock."


def test_a_run_that_is_cancelled_stops_waiting(isolated_runtime: Isolated, waits: list[str]) -> None:
    ticket = Endless(account=7).async_().call()
    watch = isolated_runtime.runtime.services.watchdog
    assert watch is not None
    with holding("account:7"):
        thread, _ = in_thread(isolated_runtime.run_pending)
        eventually(lambda: waits, "the run waits for the lock")
        ticket.cancel()
        watch.check()
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert (ticket.reload().status, ticket.failure) == ("cancelled", "cancelled")
    assert started_runs == []


def test_a_lock_that_was_lost_rolls_the_run_back(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("a live process cannot lose a lock of the operating system")
    during_run.append(lambda: cut_others(engine))
    with pytest.raises(LockLost, match="Transfer: the lock was lost during the run"):
        Transfer(account=7).call()
    assert is_free("account:7")
    ticket = Transfer(account=8).async_().call()
    during_run.append(lambda: cut_others(engine))
    isolated_runtime.run_pending()
    assert (ticket.reload().status, records.get(ticket.id).error) == ("pending", "dexpy.errors.LockLost")
    eventually(lambda: isolated_runtime.run_pending() and ticket.reload().done, "a retry succeeds")


def cut_others(engine: sa.Engine) -> None:
    """End every session of the server that holds a lock."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "postgresql":
            holders = connection.execute(
                sa.text(
                    "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
                    " WHERE l.locktype = 'advisory' AND d.datname = current_database()"
                )
            )
            statement = "SELECT pg_terminate_backend({})"
        else:
            holders = connection.execute(
                sa.text(
                    "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()"
                    " AND command = 'Sleep'"
                )
            )
            statement = "KILL CONNECTION {}"
        for (number,) in holders.all():
            connection.exec_driver_sql(statement.format(int(number)))


def test_many_threads_acquire_the_lock_one_at_a_time(isolated_runtime: Isolated) -> None:
    now: list[int] = []
    most: list[int] = []

    def work() -> None:
        now.append(1)
        most.append(len(now))
        time.sleep(0.01)
        now.pop()

    during_run.extend([work] * 40)
    threads = [in_thread(lambda: [Patient(account=7).call() for _ in range(5)]) for _ in range(8)]
    for thread, _ in threads:
        thread.join(WAIT_S)
    assert [answers for _, answers in threads] == [[[7] * 5]] * 8
    assert max(most) == 1


def test_two_runs_that_wait_for_each_others_lock_time_out(isolated_runtime: Isolated) -> None:
    met = threading.Barrier(2)

    def crossed(first: str, second: str) -> bool:
        locks = current_runtime().store.locks
        mine, other = locks.handle(digest("lock", first)), locks.handle(digest("lock", second))
        try:
            assert mine.wait(WAIT_S)
            met.wait(WAIT_S)
            return other.wait(0.3)
        finally:
            other.release()
            mine.release()

    one, answers = in_thread(lambda: crossed("a", "b"))
    first_answer = crossed("b", "a")
    one.join(WAIT_S)
    assert sum([first_answer, *answers]) <= 1


def test_a_template_formats_props_in_their_stored_form(isolated_runtime: Isolated) -> None:
    class Sent(Operation):
        a: str
        b: str
        c: int | None = None
        lock = Lock(template="{a}/{b}={{{c}}}")

    def key(**props: Any) -> str:
        operation = Sent(**props)
        return lock_key(operation, Sent.contract)

    assert key(a="x", b="y") == "x/y={null}"
    assert key(a="x/y", b="") == "x%2Fy/={null}"
    assert key(a="x", b="y/", c=3) == "x/y%2F={3}"
    assert key(a="ä%", b="=") == "%C3%A4%25/%3D={null}"


def test_a_reference_in_a_key_is_its_key_and_makes_no_query(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    create_tables(engine)
    outcomes: list[Any] = []
    during_run.append(lambda: outcomes.append(in_another_thread(lambda: Pays(account=1).safe.call())))
    assert Pays(account=1).call() == "ann"
    assert outcomes[0].details["lock"] == "account:1"


def test_a_function_may_read_the_row_behind_a_reference(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    create_tables(engine)
    outcomes: list[Any] = []
    during_run.append(lambda: outcomes.append(in_another_thread(lambda: PaysOwner(account=2).safe.call())))
    assert PaysOwner(account=1).call() == "ann"
    assert outcomes[0].details["lock"] == "ann", "both accounts have the owner ann"


def create_tables(engine: sa.Engine) -> None:
    Model.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Account(id=1, owner="ann"), Account(id=2, owner="ann")])
        session.commit()


def test_a_function_can_return_the_key_and_classes_with_the_same_key_share_the_lock(isolated_runtime: Isolated) -> None:
    with holding("account:7"):
        assert isinstance(Made(account=7).safe.call(), Err)
    assert Made(account=7).call() == 7


def test_without_a_key_the_lock_covers_the_whole_class(isolated_runtime: Isolated) -> None:
    with holding(Tidy.contract.name):
        refused = Tidy(account=1).safe.call()
    assert isinstance(refused, Err)
    assert f"'{Tidy.contract.name}'" in refused.message


def test_a_function_that_returns_no_key_is_refused(isolated_runtime: Isolated) -> None:
    class Nothing(Transfer):
        lock = Lock(lambda op: None)

    class Strange(Transfer):
        lock = Lock(lambda op: object())

    with pytest.raises(OptionsError, match="Nothing.lock: its function returned None; expected a str"):
        Nothing(account=1).call()
    with pytest.raises(OptionsError, match="Strange.lock: its function returned object, which has no JSON form"):
        Strange(account=1).call()


def test_a_secret_in_the_key_is_shown_nowhere(isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "dexpy")
    with holding("card:4711%2F0815"):
        refused = Secret(card="4711/0815").safe.call()
    assert isinstance(refused, Err)
    assert refused.message == "The lock of Secret was not free within 0 s: another run holds it."
    assert refused.details == {"timeout_s": 0}
    (record,) = records.all()
    text = f"{caplog.text} {record.error_message} {record.error_details} {Secret.explain(card='4711/0815')}"
    assert "4711" not in text


def test_a_subclass_disables_its_lock(isolated_runtime: Isolated) -> None:
    class Free(Transfer):
        lock = None

    with holding("account:7"):
        assert Free(account=7).call() == 7
    assert "lock" in Transfer.explain(account=7).pipeline
    assert not Free.explain(account=7).pipeline["lock"]


def test_explain_shows_the_lock_without_acquiring_it(isolated_runtime: Isolated) -> None:
    explanation = Transfer.explain(account=7).lock
    assert explanation is not None
    assert (explanation["active"], explanation["key"], explanation["timeout_s"], explanation["backend"]) == (
        True,
        "account:7",
        0.1,
        "database",
    )
    assert not explanation["held"]
    with holding("account:7"):
        now = Transfer.explain(account=7).lock
        assert now is not None
        assert now["held"]
    assert Tidy.explain(account="seven").lock["key"] == Tidy.contract.name, "the key depends on no prop"


def test_a_run_that_does_not_get_its_lock_releases_its_idempotency_key(isolated_runtime: Isolated) -> None:
    with holding("account:7"):
        assert isinstance(PaidOnce(account=7).safe.call(), Err)
    with holding("account:8"):
        ticket = PaidOnce(account=8).async_().call()
        isolated_runtime.run_pending()
        assert ticket.reload().failed
    assert PaidOnce(account=7).call() == 7
    assert PaidOnce(account=8).call() == 8


def test_callable_acquires_no_lock(isolated_runtime: Isolated) -> None:
    with holding("account:7"):
        assert Transfer.is_callable(account=7)


@pytest.mark.servers
@pytest.mark.anywhere
def test_a_lock_on_redis_excludes_and_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnRedis(Transfer):
        lock = Lock(template="account:{account}", timeout=0.2, backend="redis")

    with servers.broker("redis") as url:
        configure(database=f"sqlite:///{tmp_path / 'r.db'}", broker=url)
        try:
            assert OnRedis(account=7).call() == 7
            assert OnRedis.explain(account=7).lock["backend"] == "redis"  # type: ignore[index]
            with holding("account:7", "redis") as hold:
                assert isinstance(OnRedis(account=7).safe.call(), Err)
                assert Transfer(account=7).call() == 7, "a lock in the database is independent"
                assert OnRedis.explain(account=7).lock["held"]  # type: ignore[index]
                assert hold.is_held()
            assert OnRedis(account=7).call() == 7

            client, prefix = current_runtime()._redis()
            during_run.append(lambda: client.delete(*client.keys(f"{prefix}:dexpy.lock:*")))
            with pytest.raises(LockLost):
                OnRedis(account=7).call()
        finally:
            current_runtime().close()
            install(None)


@pytest.mark.servers
@pytest.mark.anywhere
def test_a_lock_on_redis_is_renewed_during_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dexpy.locks import redis as on_redis

    monkeypatch.setattr(on_redis, "LEASE_S", 0.6)
    monkeypatch.setattr(on_redis, "RENEW_EVERY_S", 0.15)
    with servers.broker("redis") as url:
        configure(broker=url)
        try:
            locks = current_runtime().open_store().locks
            assert locks.backend_name(None) == "redis", "without a database, locks are on Redis"
            with holding("account:7", "redis") as hold:
                until = time.monotonic() + 1.5
                while time.monotonic() < until:
                    assert hold.is_held()
                    time.sleep(0.1)
        finally:
            current_runtime().close()
            install(None)


def test_without_a_backend_that_all_processes_share_a_lock_is_refused(tmp_path: Path) -> None:
    class OnRedis(Transfer):
        lock = Lock(template="account:{account}", backend="redis")

    with isolated(), pytest.raises(ConfigurationError, match=r"Lock\(backend='redis'\): the broker is not Redis"):
        OnRedis(account=7).call()
    configure(broker="amqp://127.0.0.1:1/")
    try:
        with pytest.raises(ConfigurationError, match="Lock: no backend that all processes share"):
            Transfer(account=7).call()
    finally:
        install(None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_has_none_of_the_locks_and_keeps_none(tmp_path: Path) -> None:
    with isolated(), holding("account:7"):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(writer, b"1" if is_free("account:7") else b"0")
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(reader, 1) == b"0"
        os.close(reader)
        os.close(writer)


REFUSED = {
    "a number": (
        lambda: Lock(7),
        "Lock(...): expected names of props, one function of the operation or template=, got 7.",
    ),
    "nothing in it": (
        lambda: Lock(""),
        "Lock(...): expected names of props, one function of the operation or template=, got ''.",
    ),
    "a template by position": (
        lambda: Lock("a:{b}"),
        "Lock('a:{b}'): expected names of props, got a template. Write Lock(template='a:{b}').",
    ),
    "open": (lambda: Lock(template="a:{b"), "Lock(template='a:{b'): invalid template"),
    "by position": (lambda: Lock(template="a:{}"), "expected only names of props in braces, got {}"),
    "part of a prop": (lambda: Lock(template="a:{b.id}"), "expected only names of props in braces, got {b.id}"),
    "formatted": (lambda: Lock(template="a:{b:>3}"), "expected only names of props in braces, got {b}"),
    "no time": (lambda: Lock(timeout="5"), "Lock: timeout='5': expected seconds or a timedelta."),
    "negative": (lambda: Lock(timeout=-1), "expected a finite delay of 0 or more seconds. None waits"),
    "no place": (
        lambda: Lock(backend="etcd"),
        "Lock(backend='etcd'): expected one of 'database', 'redis'.",
    ),
}


@pytest.mark.parametrize(("declare", "message"), REFUSED.values(), ids=REFUSED)
def test_an_invalid_lock_is_refused(declare: Callable[[], Any], message: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare()
    assert message in str(refused.value)


def test_a_class_with_an_invalid_lock_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Typo.lock = Lock\(template='a:\{acount\}'\): unknown prop 'acount'"):

        class Typo(Operation):
            account: int
            lock = Lock(template="a:{acount}")

    with pytest.raises(DeclarationError, match=r"Text.lock: expected a Lock\(\.\.\.\) or None, got 'account'"):

        class Text(Operation):
            account: int
            lock = "account"  # type: ignore[assignment]
