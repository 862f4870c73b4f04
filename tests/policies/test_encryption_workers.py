"""Encryption with real workers: database and broker hold no secret in plain text, and a missing key loses no run."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apps import shop_encryption
from apps.shop_encryption import NEW_KEY, OLD_KEY, SECRET, LeakSecret, PayDirectly, PayOrder
from harness.pairs import CapturedMessages
from harness.policy_workers import PolicyPair, open_pair
from harness.workers import eventually
from test_encryption import forms

from dexpy import Error, FernetEncryptor, OperationFailed, Ticket, records
from dexpy.foundation.encryption import Encryptors
from dexpy.runtime import install

pytest.importorskip("cryptography")

APPLICATION = shop_encryption
WAIT_S = 20.0


def encrypting(pair: PolicyPair, *keys: str) -> CapturedMessages:
    """Set the keys of this process and of workers that start later; return the messages that it publishes."""
    pair.variables["DEXPY_ENCRYPTION_KEYS"] = ",".join(keys)
    runtime = pair.runtime
    assert runtime is not None
    runtime.encryptors = Encryptors({"default": FernetEncryptor(*keys)} if keys else {})
    captured = CapturedMessages()
    runtime.broker.add_middleware(captured)
    return captured


def redis_content(pair: PolicyPair) -> str:
    """Return all data in the database and in Redis, as text."""
    with pair.engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        rows = [str(connection.exec_driver_sql(f"SELECT * FROM {table}").all()) for table in tables]
    rows += [file.read_bytes().decode("latin-1") for file in pair.folder.glob("*.db*") if file.is_file()]
    client = getattr(pair.runtime and pair.runtime.broker, "client", None)
    if client is not None:
        for key in client.scan_iter("*"):
            kind = client.type(key).decode()
            readers = {"hash": client.hgetall, "list": lambda key: client.lrange(key, 0, -1), "set": client.smembers}
            rows.append(f"{key} {readers.get(kind, client.dump)(key)}")
    return "\n".join(rows)


def is_silent(texts: list[str]) -> None:
    for text in texts:
        for form in [*forms(SECRET), base64.b64encode(SECRET[:15].encode()).decode()]:
            assert form not in text


def test_a_secret_is_in_no_message_no_row_and_no_line_of_the_log_while_it_waits_and_afterwards(
    pair: PolicyPair,
) -> None:
    captured = encrypting(pair, OLD_KEY)
    end_writer = ("done", "business", "crash", "retry", "database")
    tickets: list[Ticket[Any]] = [LeakSecret(card=SECRET, how=how).async_().call() for how in end_writer]
    tickets += [PayOrder(order=1, card=SECRET).async_().call()]
    PayDirectly(order=5, card=SECRET).async_().call()
    waiting = redis_content(pair)
    assert "LeakSecret" in waiting
    assert "PayDirectly" in waiting + str(captured.messages)
    worker = pair.start(processes=2)
    collected = []
    for ticket in tickets:
        try:
            ticket.result(WAIT_S)
        except (Error, OperationFailed) as error:
            collected.append(f"{error!r} {error}")
    eventually(
        lambda: worker.lines("run.succeeded operation=apps.shop_encryption.PayDirectly"),
        "the direct run succeeds",
        WAIT_S,
        worker.output,
    )

    encoded = [message.encode().decode() for message in captured.messages]
    is_silent([waiting, redis_content(pair), worker.output(), *collected, *encoded])


def test_two_workers_run_encrypted_operations_and_store_encrypted_results(pair: PolicyPair) -> None:
    encrypting(pair, OLD_KEY)
    pair.start(processes=2)
    tickets = [PayOrder(order=number, card=SECRET).async_().call() for number in range(10)]

    assert [ticket.result(WAIT_S) for ticket in tickets] == list(range(10))


def test_a_key_rotation_across_workers_with_old_and_new_keys_loses_nothing(pair: PolicyPair) -> None:
    encrypting(pair, OLD_KEY)
    late = pair.start()
    before = PayOrder(order=1, card=SECRET).async_().call()
    assert before.result(WAIT_S) == 1
    # In the wrong order: this process has the new key before the worker has it.
    encrypting(pair, NEW_KEY, OLD_KEY)
    after = PayOrder(order=2, card=SECRET).async_().call()
    with pytest.raises(OperationFailed, match="the encryptor 'default' cannot decrypt the stored data"):
        after.result(WAIT_S)
    assert records.get(after.id).failure == "undecodable"
    late.stop()
    pair.start()
    after.retry()

    assert after.result(WAIT_S) == 2
    assert before.reload().result(WAIT_S) == 1


@pytest.mark.parametrize("point", ["after_claim", "before_commit"])
def test_an_encrypted_run_whose_worker_is_killed_is_run_by_another(pair: PolicyPair, point: str) -> None:
    encrypting(pair, OLD_KEY)
    dead = pair.start_killed_at(point)
    ticket = PayOrder(order=3, card=SECRET).async_().call()
    eventually(lambda: pair.reached(point), f"a worker reaches {point}", WAIT_S, dead.output)
    pair.start()

    assert ticket.result(WAIT_S) == 3
    # The end of a run that did not use its session is one statement, which PostgreSQL has committed at this point.
    assert records.get(ticket.id).num_lost == 1 or point == "before_commit"
    is_silent([redis_content(pair), dead.output()])


@pytest.mark.servers
def test_a_direct_run_is_encrypted_in_its_message_on_rabbitmq(tmp_path: Path) -> None:
    with open_pair("postgresql+rabbitmq", tmp_path, APPLICATION) as pair:
        pair.configure()
        captured = encrypting(pair, OLD_KEY)
        PayDirectly(order=5, card=SECRET).async_().call()
        worker = pair.start()
        eventually(
            lambda: worker.lines("run.succeeded operation=apps.shop_encryption.PayDirectly"),
            "the direct run succeeds",
            WAIT_S,
            worker.output,
        )

        assert captured.messages
        is_silent([redis_content(pair), worker.output(), *(message.encode().decode() for message in captured.messages)])
    install(None)
