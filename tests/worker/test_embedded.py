"""`EmbeddedWorker` in the test process: start, stop, what it leaves alone, and what prevents a start."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import threading
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from apps import shop
from harness.pairs import open_pair
from harness.workers import Deployment, eventually
from sqlalchemy.orm import Session

import dexpy
from dexpy import EmbeddedWorker, Every, Once, Operation
from dexpy.configuration.settings import command_modules
from dexpy.database.tables import records, workers
from dexpy.errors import ConfigurationError, DatabaseUnavailable
from dexpy.runtime import Runtime, install

WAIT_S = 20.0
released = threading.Event()
started = threading.Event()


class Greet(Operation):
    name: str

    def perform(self) -> str:
        return f"hello {self.name}"


class GreetInSteps(Greet):
    """Is interrupted between its steps when a worker stops."""

    def perform(self) -> str:
        self.step(self.prepare)
        return str(self.step(self.greet))

    def prepare(self) -> None: ...

    def greet(self) -> str:
        return f"hello {self.name}"


class AwaitRelease(Operation):
    """Ends when the test releases it."""

    def perform(self) -> str:
        started.set()
        released.wait(WAIT_S)
        self.session.execute(sa.text("SELECT 1"))
        return "released"


class CallOnce(Operation):
    """A synchronous call that holds its key until the test releases it."""

    once = Once()

    def perform(self) -> str:
        started.set()
        released.wait(WAIT_S)
        return "called"


class Cancellable(Operation):
    def perform(self) -> None:
        started.set()
        while not released.wait(0.01):
            self.check_cancelled()


class TooLong(Operation):
    timeout = 0.2

    def perform(self) -> None:
        started.set()
        while True:
            released.wait(0.01)


class Tick(Operation):
    schedule = Every("second")

    def perform(self) -> str:
        return str(self.scheduled_for)


@pytest.fixture
def runtime(tmp_path: Path) -> Generator[Runtime]:
    released.clear()
    started.clear()
    configured = dexpy.configure(database=f"sqlite:///{tmp_path / 'records.db'}", recover_within=5)
    configured.store.prepare()
    yield configured
    released.set()
    configured.close()
    install(None)


def registered(runtime: Runtime) -> list[Any]:
    with Session(runtime.store.database.engine) as session:
        return list(session.execute(sa.select(workers)).all())


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_it_runs_operations_while_the_block_lasts_and_can_start_again(runtime: Runtime) -> None:
    embedded = EmbeddedWorker(threads=2)
    for name in ("Ada", "Ben"):
        with embedded:
            assert embedded.is_running
            (row,) = registered(runtime)
            assert (row.pid, row.threads, row.queues) == (os.getpid(), 2, None)
            assert GreetInSteps(name=name).async_().call().result(WAIT_S) == f"hello {name}"
        assert not embedded.is_running
        assert registered(runtime) == []
        # Nothing of the stopped worker would consume a queue that is declared later.
        assert "_WorkerMiddleware" not in {type(middleware).__name__ for middleware in runtime.broker.middleware}
    later = Greet(name="Cy").async_().call()
    assert later.reload().status == "pending"
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("dexpy-")]
    assert not {"dexpy-relay", "dexpy-watch", "dexpy-embedded", "dexpy-heartbeat"} & set(threads)


def test_it_serves_only_its_queues(runtime: Runtime) -> None:
    with EmbeddedWorker(threads=1, queues=["mail"]):
        other = Greet(name="Ada").async_().call()
        assert Greet(name="Ben").async_(queue="mail").call().result(WAIT_S) == "hello Ben"
        assert registered(runtime)[0].queues == ["mail"]
        assert other.reload().status == "pending"


def test_a_run_that_outlives_the_shutdown_timeout_is_released_without_an_attempt(runtime: Runtime) -> None:
    embedded = EmbeddedWorker(threads=1, shutdown_timeout=timedelta(milliseconds=100)).start()
    ticket = AwaitRelease().async_().call()
    assert started.wait(WAIT_S)

    embedded.stop()

    assert (ticket.reload().status, ticket.num_attempts) == ("pending", 0)
    released.set()
    with EmbeddedWorker(threads=1):
        assert ticket.result(WAIT_S) == "released"
    assert ticket.reload().num_attempts == 1


def test_a_run_that_ends_within_the_shutdown_timeout_is_awaited(runtime: Runtime) -> None:
    embedded = EmbeddedWorker(threads=1).start()
    ticket = AwaitRelease().async_().call()
    assert started.wait(WAIT_S)

    stopping = threading.Thread(target=embedded.stop)
    stopping.start()
    released.set()
    stopping.join(WAIT_S)

    assert ticket.reload().status == "done"


def test_timeouts_and_cancellations_are_delivered_while_it_waits_for_its_runs(runtime: Runtime) -> None:
    embedded = EmbeddedWorker(threads=2, shutdown_timeout=WAIT_S).start()
    cancelled = Cancellable().async_().call()
    assert started.wait(WAIT_S)
    started.clear()
    late = TooLong().async_().call()
    assert started.wait(WAIT_S)

    stopping = threading.Thread(target=embedded.stop)
    stopping.start()
    eventually(lambda: "dexpy-relay" not in names_of_threads(), "it has begun to stop", WAIT_S)
    cancelled.cancel()

    eventually(lambda: late.reload().terminal, "the timeout ends the run", WAIT_S / 2)
    eventually(lambda: cancelled.reload().terminal, "the cancellation ends the run", WAIT_S / 2)
    assert (late.failure, cancelled.status) == ("timeout", "cancelled")
    stopping.join(WAIT_S)
    assert "dexpy-watch" not in names_of_threads()


def test_timeouts_cancellations_and_recurring_tasks_work_as_in_a_worker_process(runtime: Runtime) -> None:
    with EmbeddedWorker(threads=3, shutdown_timeout=1):
        late = TooLong().async_().call()
        assert eventually(lambda: late.reload().terminal, "the timeout ends the run", WAIT_S)
        assert late.failure == "timeout"
        started.clear()
        cancelled = Cancellable().async_().call()
        assert started.wait(WAIT_S)
        cancelled.cancel()
        eventually(lambda: cancelled.reload().terminal, "the cancellation ends the run", WAIT_S)
        assert cancelled.status == "cancelled"
        ticks = dexpy.records.where(operation=Tick, status="done")
        eventually(lambda: ticks.count() >= 1, "a tick runs", WAIT_S)


def test_runs_of_a_dead_process_are_recovered(runtime: Runtime) -> None:
    ticket = Greet(name="Ada").async_().call()
    with Session(runtime.store.database.engine) as session:
        claimed = {"status": "running", "claimed_by": "gone:1:w", "claim_token": 1, "num_attempts": 1}
        session.execute(sa.update(records).where(records.c.id == ticket.id).values(claimed))
        session.execute(sa.text("DELETE FROM dexpy_messages"))
        session.commit()

    with EmbeddedWorker(threads=1):
        assert ticket.result(WAIT_S) == "hello Ada"


def test_signals_and_logging_of_the_process_do_not_change(runtime: Runtime) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    loggers = ("", "dexpy", "dexpy.worker", "dramatiq", "pika", "sqlalchemy.pool")

    def state() -> list[Any]:
        facts = [(logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in loggers]
        return [
            *map(signal.getsignal, numbers),
            signal.pthread_sigmask(signal.SIG_BLOCK, []),
            facts,
            logging.lastResort,
        ]

    before = state()
    with EmbeddedWorker(threads=1):
        assert Greet(name="Ada").async_().call().result(WAIT_S) == "hello Ada"
        assert state() == before
    assert state() == before


def test_the_event_loop_runs_while_it_starts_and_stops(runtime: Runtime) -> None:
    ticks = 0

    async def host() -> str:
        nonlocal ticks
        embedded = EmbeddedWorker(threads=1, shutdown_timeout=0.3)

        async def count() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        counting = asyncio.create_task(count())
        async with embedded.lifespan(object()):
            assert embedded.is_running
            result = await Greet(name="Ada").async_().call().aresult(WAIT_S)
            await asyncio.to_thread(AwaitRelease().async_().call)
            await asyncio.to_thread(started.wait, WAIT_S)
            before = ticks
        assert ticks > before, "the loop has run while the worker waited for its run"
        counting.cancel()
        return result

    assert asyncio.run(host()) == "hello Ada"


def test_a_synchronous_call_in_another_thread_keeps_its_lease(runtime: Runtime) -> None:
    results: list[str] = []
    calling = threading.Thread(target=lambda: results.append(CallOnce().call()))
    calling.start()
    assert started.wait(WAIT_S)
    (before,) = registered(runtime)

    with EmbeddedWorker(threads=2):
        (during,) = registered(runtime)
        assert Greet(name="Ada").async_().call().result(WAIT_S) == "hello Ada"
    (after,) = registered(runtime)
    released.set()
    calling.join(WAIT_S)

    assert before.id == during.id == after.id
    assert (before.threads, during.threads, after.threads) == (0, 2, 0)
    assert results == ["called"]


# ---------------------------------------------------------------------------------- what prevents a start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "EmbeddedWorker(threads=...): expected a whole number from 1 to 1000, got 0."),
        ({"threads": "2"}, "EmbeddedWorker(threads=...): expected a whole number from 1 to 1000, got '2'."),
        ({"queues": "mail"}, "EmbeddedWorker(queues=...): expected an array of queue names"),
        ({"queues": []}, "EmbeddedWorker(queues=...): expected an array of queue names"),
        ({"queues": ["a b"]}, "EmbeddedWorker(queues=...): expected a queue name"),
        ({"shutdown_timeout": -1}, "EmbeddedWorker(shutdown_timeout=...): expected seconds or a timedelta, from 0 to"),
        ({"shutdown_timeout": "30s"}, "EmbeddedWorker(shutdown_timeout=...): expected seconds or a timedelta"),
        ({"polling_interval": timedelta(0)}, "EmbeddedWorker(polling_interval=...): expected seconds or a timedelta"),
    ],
)
def test_an_invalid_option_is_one_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        EmbeddedWorker(**options)
    assert str(refused.value).startswith(message)


def test_options_that_are_left_out_come_from_the_settings(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEXPY_THREADS", "3")
    with EmbeddedWorker(queues=["*"]):
        assert (registered(runtime)[0].threads, registered(runtime)[0].queues) == (3, None)
    monkeypatch.delenv("DEXPY_THREADS")
    (tmp_path / "dexpy.toml").write_text('[[workers]]\nname = "fast"\nthreads = 1\n[[workers]]\nqueues = ["low"]\n')
    with pytest.raises(ConfigurationError, match=r"has 2 worker groups: '2', 'fast'.*EmbeddedWorker\(group='fast'\)"):
        EmbeddedWorker().start()
    with EmbeddedWorker(group="2", threads=2):
        assert (registered(runtime)[0].threads, registered(runtime)[0].queues) == (2, ["low"])


def test_a_second_one_in_the_process_is_refused(runtime: Runtime) -> None:
    with (
        EmbeddedWorker(threads=1),
        pytest.raises(ConfigurationError, match="has an embedded worker already"),
    ):
        EmbeddedWorker(threads=1).start()


def test_one_cannot_start_while_a_command_loads_the_application(runtime: Runtime) -> None:
    command_modules.set(("shop",))
    with pytest.raises(ConfigurationError, match="started while a command of dexpy loads the application"):
        EmbeddedWorker(threads=1).start()


def test_a_forked_child_does_not_stop_the_worker_and_cannot_start_one(runtime: Runtime) -> None:
    with EmbeddedWorker(threads=1) as embedded:
        if (pid := os.fork()) == 0:
            status = 1
            try:
                assert not embedded.is_running
                embedded.stop()
                try:
                    EmbeddedWorker(threads=1).start()
                except ConfigurationError as error:
                    status = 0 if f"The process {os.getppid()} started".lower() in str(error).lower() else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert Greet(name="Ada").async_().call().result(WAIT_S) == "hello Ada"


def test_a_start_fails_with_the_message_of_the_command(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    with sa.create_engine(deployment.url).begin() as connection:
        connection.execute(sa.text("CREATE TABLE operation_records (id INTEGER)"))
    runtime = dexpy.configure(database=deployment.url)
    with pytest.raises(DatabaseUnavailable) as refused:
        EmbeddedWorker(threads=1).start()
    runtime.close()
    (tmp_path / "empty.py").touch()
    try:
        ended = deployment.dexpy("worker", "empty", "-p", "1")
    finally:
        deployment.close()

    assert ended.returncode == 2
    assert "is not ready for dexpy" in str(refused.value)
    advice = re.compile(r" Run: dexpy db .*|--app MODULE.*")
    assert advice.sub("", ended.stderr.strip().splitlines()[-1]) == f"Error: {advice.sub('', str(refused.value))}"


def test_a_broker_that_does_not_answer_fails_the_start(tmp_path: Path) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'records.db'}", broker="redis://127.0.0.1:1/0")
    with pytest.raises(
        ConfigurationError, match=r"Cannot connect to Redis at 127.0.0.1:1: .* Check that the server is"
    ):
        EmbeddedWorker(threads=1).start()
    runtime.close()


# --------------------------------------------------------------------------------------------------- servers


@pytest.mark.servers
@pytest.mark.parametrize("name", ["postgresql+sql", "postgresql+redis", "mariadb+sql", "mariadb+rabbitmq"])
def test_on_servers_it_runs_releases_and_recovers_runs(name: str, tmp_path: Path) -> None:
    with open_pair(name, tmp_path, shop) as pair:
        pair.variables = {"DEXPY_RECOVER_WITHIN": "5s"}
        runtime = dexpy.configure(database=pair.url, broker=pair.broker, recover_within=5)
        released.clear()
        started.clear()
        embedded = EmbeddedWorker(threads=2, shutdown_timeout=0.2)
        with embedded:
            assert Greet(name="Ada").async_().call().result(WAIT_S) == "hello Ada"
            slow = AwaitRelease().async_().call()
            assert started.wait(WAIT_S)
        assert (slow.reload().status, slow.num_attempts) == ("pending", 0)
        released.set()
        lost = Greet(name="Ben").async_().call()
        pair.change(
            "UPDATE operation_records SET status = 'running', claimed_by = 'gone:1:w', claim_token = 1, "
            "num_attempts = 1 WHERE id = :id",
            id=lost.id,
        )
        with embedded:
            assert slow.result(2 * WAIT_S) == "released"
            assert lost.result(2 * WAIT_S) == "hello Ben"
            eventually(lambda: embedded.health().is_ready, "it is ready", WAIT_S, lambda: str(embedded.health()))
        runtime.close()
    install(None)


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_missing_tables_on_a_server_fail_the_start(kind: str, tmp_path: Path) -> None:
    with servers.database(kind, tmp_path) as url:
        runtime = dexpy.configure(database=url)
        with pytest.raises(DatabaseUnavailable, match=r"is not ready for dexpy: no table .* Run: dexpy db init"):
            EmbeddedWorker(threads=1).start()
        runtime.close()
    install(None)
