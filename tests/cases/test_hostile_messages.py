"""Messages that another program has published, with the threads of a worker in this process."""

from __future__ import annotations

import datetime as dt
import logging
import random
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import attrs
import pytest
import servers
import sqlalchemy as sa
from dramatiq.middleware.threading import raise_thread_exception
from hostile import messages
from hostile.sender import RedisSender, sender

import dexpy
from dexpy import Concurrency, Once, Operation, Recording, Ticket
from dexpy.brokers.message_validation import InvalidMessage, MessageValidator
from dexpy.brokers.urls import broker_from_url
from dexpy.foundation.errors import ConfigurationError
from dexpy.runtime import Runtime, install
from dexpy.worker.process import WorkerOptions, make_worker

SMALL = "test_hostile_messages.Small"
WITHIN_S = 3.0
PAST = "2020-01-01 00:00:00.000000"
release = threading.Event()
paid: list[str] = []


class Small(Operation):
    def perform(self) -> int:
        return 1


class Pay(Operation, name="hostile.pay"):
    encrypt = True
    once = Once("order")
    order: int
    card: str

    def perform(self) -> str:
        paid.append(f"{self.order} {self.card}")
        return "ok"


class Limited(Operation, name="hostile.limited"):
    concurrency = Concurrency(1)
    number: int

    def perform(self) -> int:
        paid.append(f"limited {self.number}")
        release.wait(20)
        return self.number


class NoRecord(Operation, name="hostile.no_record"):
    record = False
    text: str

    def perform(self) -> None:
        paid.append(self.text)


class Sealed(Operation, name="hostile.sealed"):
    record = False
    encrypt = True
    text: str

    def perform(self) -> None:
        paid.append(self.text)


class WithoutParams(Operation, name="hostile.without_params"):
    record = Recording(params=False)
    text: str

    def perform(self) -> None:
        paid.append(self.text)


@attrs.frozen
class Served:
    """A runtime, a worker in this process, and a client that writes to its broker."""

    runtime: Runtime
    worker: Any
    sender: Any

    def is_on(self, kind: str) -> bool:
        return kind in type(self.sender).__name__.lower()

    def sql(self, statement: str, **values: Any) -> Any:
        with self.runtime.store.database.engine.begin() as connection:
            rows = connection.execute(sa.text(statement), values)
            return rows.all() if rows.returns_rows else None


@pytest.fixture(
    scope="module",
    params=["sqlite+sql", "sqlite+redis", pytest.param("sqlite+rabbitmq", marks=pytest.mark.servers)],
)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    from cryptography.fernet import Fernet

    kind = request.param.partition("+")[2]
    folder = tmp_path_factory.mktemp("hostile")
    with servers.database("sqlite", folder) as url, servers.broker(kind) as broker:
        keys = Fernet.generate_key().decode()
        runtime = dexpy.configure(database=url, broker=broker, recover_within=5, encryption_keys=keys)
        runtime.dispatcher.require_tables()
        worker = make_worker(runtime.dispatcher.transport, WorkerOptions((), threads=2))
        worker.start()
        yield Served(runtime, worker, sender(url, broker))
        release.set()
        worker.stop(timeout=5000)
        runtime.close()
        install(None)


@pytest.fixture
def served(stage: Served) -> Generator[Served]:
    install(stage.runtime)
    paid.clear()
    canary()
    yield stage
    canary()
    assert len(stage.worker.workers) == 2
    assert all(thread.is_alive() for thread in [*stage.worker.workers, *stage.worker.consumers.values()])
    install(None)


def canary() -> None:
    began = time.monotonic()
    assert Small().async_().call().result(10, 0.02) == 1
    assert time.monotonic() - began < WITHIN_S


def eventually(holds: Callable[[], bool], description: str, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, description
        time.sleep(0.02)


def valid(**parts: Any) -> bytes:
    return messages.encoded(messages.valid(SMALL, **parts))


def refused(served: Served, *bodies: bytes, queue: str = "default") -> None:
    """Send messages, and check that all become dead and that they do not delay a small run."""
    before = served.sender.dead(queue)
    served.sender.send(*bodies, queue=queue)
    canary()
    eventually(lambda: served.sender.dead(queue) == before + len(bodies), "all messages are dead")
    eventually(lambda: served.sender.waiting(queue) == 0, "the queue is empty")


def test_h1_an_invalid_message_is_dead_lettered_and_logged_once(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    refused(served, *[b"this is not json"] * 3)
    refused(served, b"[]", b"5", b"null", b"{}", b"[" * 100_000, b"1" * 5000, b'{"queue_name": "default"}')
    assert caplog.text.count("message: invalid encoding") <= 1
    assert all(len(record.getMessage()) < 2000 for record in caplog.records)


def test_h1_an_invalid_delayed_message_is_dead_lettered_too(served: Served) -> None:
    if served.is_on("sql"):
        # The SQL broker has no delay queues: a delay is the due time of a row.
        return
    refused(served, b"no json", valid(queue_name="default.DQ"), queue="default.DQ")
    later = {"dexpy": {"v": 1}, "eta": 10**18}
    refused(served, valid(queue_name="default.DQ", options=later), queue="default.DQ")


def test_h1_ids_without_a_body_and_ids_that_are_not_text_are_removed_from_the_list(served: Served) -> None:
    if not isinstance(served.sender, RedisSender):
        return
    served.sender.send_as(b"nothing", None)
    served.sender.send_as(b"\xff\xfe", valid())
    served.sender.send_as(b"", valid())
    # The message has the id of another message in its options.
    served.sender.send_as(b"mine", valid(options={"dexpy": {"v": 1}, "redis_message_id": "yours"}))
    canary()
    eventually(lambda: served.sender.waiting() == 0, "the queue is empty")
    assert served.sender.client.hlen(f"{served.sender.namespace}:default.msgs") == 0


@pytest.mark.parametrize("options", [None, [], "x", 5, True, {"dexpy": 5}, {"dexpy": [1]}, {"dexpy": {"v": "x"}}])
def test_h2_options_of_a_wrong_type_do_not_kill_a_thread(served: Served, options: Any) -> None:
    refused(served, *[valid(options=options)] * 3)


def test_h2_no_field_of_any_wrong_type_kills_a_thread(served: Served) -> None:
    bodies = [body for _, body in messages.every(SMALL)]
    sample = random.Random(7).sample(bodies, 80)
    served.sender.send(*sample)
    eventually(lambda: served.sender.waiting() == 0, "the queue is empty", 30)
    canary()


@pytest.mark.parametrize("actor", ["dexpy.RecordJob", "dexpy.DirectJob"])
def test_h2_options_that_dexpy_never_writes_have_no_effect(served: Served, actor: str) -> None:
    forged = messages.valid(SMALL, "op_none")
    body = messages.direct("hostile.no_record", actor_name=actor)
    body["kwargs"] |= {"record_id": "op_none", "params": {"text": "once"}}
    body["options"] |= {
        "pipe_target": {**forged, "actor_name": "nowhere"}, "on_success": "nowhere", "on_failure": "nowhere",
        "max_retries": 5, "retries": 1, "time_limit": 1, "max_age": 1, "group_completion_callbacks": [forged],
        "group_completion_uuid": "x", "notify_shutdown": True,
    }  # fmt: skip
    served.sender.send(messages.encoded(body))
    canary()
    expected = ["once"] if actor.endswith("DirectJob") else []
    eventually(lambda: served.sender.waiting() == 0 and paid == expected, "the message is handled")


def test_h2_validation_raises_only_its_own_error(served: Served) -> None:
    validator = MessageValidator(served.runtime.broker)
    num_valid = 0
    for description, body in messages.every(SMALL):
        try:
            message = validator.read(body, "default")
        except InvalidMessage:
            continue
        except Exception as error:
            pytest.fail(f"{description}: {error!r}")
        num_valid += 1
        # A valid message can be encoded and read again.
        assert validator.read(message.encode(), "default") == message, description
    assert num_valid > 100


def test_h3_a_message_for_another_time_or_queue_is_refused(served: Served) -> None:
    for eta in (10**18, -1, 1, int(time.time() * 1000) + 86_400_000, float("inf"), "soon", True, 10**4000):
        refused(served, valid(options={"dexpy": {"v": 1}, "eta": eta}))
    if served.is_on("sql"):
        # The SQL broker uses the queue of the row, because rows may be moved to another queue.
        served.sender.send(valid(queue_name="nowhere"))
        canary()
        eventually(lambda: served.sender.waiting() == 0, "the message is handled")
    else:
        refused(served, valid(queue_name="nowhere"), valid(queue_name="default.DQ"))
    refused(served, valid(actor_name="unknown"))


def test_h4_a_direct_message_runs_no_class_that_is_recorded(served: Served) -> None:
    assert Pay(order=len(paid), card="real").async_().call().result(10) == "ok"
    paid.clear()
    forged = {"class_name": "hostile.pay", "params": {"order": 99, "card": "FORGED"}, "trace": {"id": "t"}}
    facts = {"dexpy": {"v": 1, "id": "op_forged"}}
    refused(served, messages.encoded(messages.direct("hostile.pay", kwargs=forged, options=facts)))
    refused(served, messages.encoded(messages.direct(SMALL)))
    assert paid == []
    assert served.sql("SELECT count(*) FROM operation_records WHERE id = 'op_forged'") == [(0,)]


def test_h4_an_encrypted_class_without_records_refuses_plain_params(served: Served) -> None:
    clear = {"class_name": "hostile.sealed", "params": {"text": "FORGED"}, "trace": {"id": "t"}}
    both = {**clear, "params": {"text": "FORGED", "$encrypted": {"default": "x"}}}
    for kwargs in (clear, {**clear, "params": {}}, {**clear, "params": {"$encrypted": {}}}, both):
        refused(served, messages.encoded(messages.direct("", kwargs=kwargs)))
    Sealed(text="mine").async_().call()
    eventually(lambda: paid == ["mine"], "the encrypted message runs")


def test_h4_classes_without_records_run_as_before(served: Served) -> None:
    NoRecord(text="one").async_().call()
    WithoutParams(text="two").async_().call()
    eventually(lambda: sorted(paid) == ["one", "two"], "both run")


def lost(served: Served) -> Ticket[Any]:
    """Enqueue a record that is two days late and has no message."""
    ticket = Small().async_(in_=dt.timedelta(days=30)).call()
    late = (dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=2)).strftime("%Y-%m-%d %H:%M:%S.%f")
    served.sql("UPDATE operation_records SET scheduled_at = :late WHERE id = :id", late=late, id=ticket.id)
    if served.is_on("sql"):
        served.sql("DELETE FROM dexpy_messages WHERE due_at > '2030' OR payload LIKE :id", id=f"%{ticket.id}%")
    return ticket


@pytest.mark.parametrize(
    ("class_name", "version"), [("unknown.operation", 1), ("hostile.pay", 1), (SMALL, 99), ("unknown.operation", 99)]
)
def test_h5_a_hint_with_another_class_or_form_does_not_park_a_valid_record(
    served: Served, class_name: str, version: int
) -> None:
    ticket = lost(served)
    body = messages.valid(class_name, ticket.id, options={"dexpy": {"v": version}})
    served.sender.send(messages.encoded(body))
    assert ticket.result(10, 0.02) == 1


def test_h5_a_hint_with_another_class_does_not_bypass_a_concurrency_limit(served: Served) -> None:
    release.clear()
    first = Limited(number=1).async_().call()
    try:
        eventually(lambda: "limited 1" in paid, "the first run starts")
        second = Limited(number=2).async_().call()
        served.sender.send(
            *[messages.encoded(messages.valid(name, second.id)) for name in (SMALL, "unknown.operation")]
        )
        canary()
        eventually(lambda: served.sender.waiting() <= 1, "the forged messages are handled")
        assert paid == ["limited 1"]
    finally:
        release.set()
    assert (first.result(10, 0.02), second.result(10, 0.02)) == (1, 2)


@pytest.mark.parametrize(
    "facts",
    [
        {"looks": -(10**9)}, {"looks": 10**400}, {"looks": "x"}, {"looks": None}, {"looks": True}, {"looks": 1.5},
        {"unknown_since": 1e300}, {"unknown_since": float("nan")}, {"unknown_since": "x"}, {"unknown_since": -5},
        {"attempt": -1, "counts": {"x": -5}}, {"priority": 10**30}, {"counts": 5},
    ],
)  # fmt: skip
def test_h6_invalid_counters_count_as_zero(served: Served, facts: dict[str, Any]) -> None:
    served.sql("DELETE FROM dexpy_messages")
    body = messages.direct("unknown.operation", options={"dexpy": {"v": 1, "id": "op_1", **facts}})
    served.sender.send(messages.encoded(body))
    canary()
    soon = (dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=20)).strftime("%Y-%m-%d %H:%M:%S.%f")
    waits = "SELECT count(*) FROM dexpy_messages WHERE due_at > :soon"
    eventually(lambda: served.sql(waits, soon=soon) == [(1,)], "the message is deferred for half a minute")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_h2_dead_threads_are_replaced(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    worker = served.worker
    for thread in [worker.workers[0], worker.consumers["default"]]:
        raise_thread_exception(thread.ident, SystemExit)
        eventually(lambda dying=thread: not dying.is_alive(), "the thread dies")  # type: ignore[misc]
    eventually(
        lambda: len(worker.workers) == 2 and all(t.is_alive() for t in [*worker.workers, *worker.consumers.values()]),
        "both threads are replaced",
    )
    eventually(lambda: caplog.text.count("worker.thread_died") == 2, "each dead thread is logged once")


def test_a_message_of_several_megabytes_is_shortened_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "dexpy")
    served.sender.send(valid(kwargs={"class_name": "x" * 3_000_000, "record_id": "op_none", "trace": {}}))
    canary()
    eventually(lambda: served.sender.waiting() == 0, "the message is handled")
    assert max(len(record.getMessage()) for record in caplog.records if record.name.startswith("dexpy.")) < 5000


@pytest.mark.parametrize(
    "option", ["decode_responses=true", "encoding=utf-16", "encoding_errors=ignore", "parser_class=x", "db=0&retry=x"]
)
def test_q7_options_that_change_replies_are_refused_when_the_url_is_parsed(option: str) -> None:
    for query in (option, f"namespace=a&{option}"):
        with pytest.raises(ConfigurationError, match="Remove it from the URL"):
            broker_from_url(f"redis://127.0.0.1:6379/0?{query}")


def test_q7_options_of_the_connection_are_accepted() -> None:
    broker_from_url("redis://127.0.0.1:6379/0?socket_timeout=3&client_name=me&health_check_interval=5&protocol=3")


@pytest.mark.servers
@pytest.mark.parametrize("queue", ["orders", "orders.DQ", "orders.XQ"])
def test_q6_a_queue_with_other_arguments_is_not_treated_as_an_outage(
    queue: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    import pika

    (tmp_path / "app.py").write_text(
        "from dexpy import Async, Operation\n\n\nclass Order(Operation):\n    async_ = Async(queue='orders')\n\n"
        "    def perform(self) -> int:\n        return 1\n"
    )
    with servers.broker("rabbitmq") as url:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        connection.channel().queue_declare(queue, durable=True)
        connection.close()
        monkeypatch.setenv("DEXPY_BROKER", str(url))
        monkeypatch.setenv("DEXPY_DATABASE", f"sqlite:///{tmp_path / 'a.db'}")
        collected: list[str] = []
        for command in (["check", "app"], ["worker", "app", "-p", "1"]):
            ended = subprocess.run(
                [sys.executable, "-m", "dexpy", *command], cwd=tmp_path, capture_output=True, text=True, timeout=60
            )
            collected.append(ended.stdout + ended.stderr)
            assert ended.returncode == (1 if command[0] == "check" else 2), collected[-1]
            assert f"queue '{queue}': it exists with other arguments" in collected[-1]
            assert f"delete_queue {queue}" in collected[-1]
        assert "FAIL" in collected[0]
