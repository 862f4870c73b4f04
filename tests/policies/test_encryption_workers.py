"""Encryption with real workers: no secret is found in what broker and database hold, and no lost key loses a run."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import encryption_shop
import pytest
import sqlalchemy as sa
from crew import Crew, opened
from encryption_shop import NEW_KEY, OLD_KEY, SECRET, PayDirectly, PayOrder, Spill
from pairs import Captured
from test_encryption import forms
from workers import eventually

from dexpy import Error, FernetEncryptor, OperationFailed, Ticket, records
from dexpy.runtime import install

pytest.importorskip("cryptography")

APPLICATION = encryption_shop
WAIT_S = 20.0


def encrypting(crew: Crew, *keys: str) -> Captured:
    """Give this process, and workers that start from now on, these keys."""
    crew.variables["DEXPY_ENCRYPTION_KEYS"] = ",".join(keys)
    runtime = crew.runtime
    assert runtime is not None
    runtime.given_encryptors = {"default": FernetEncryptor(*keys)} if keys else {}
    runtime._encryptors = None
    captured = Captured()
    runtime.broker.add_middleware(captured)
    return captured


def held(crew: Crew) -> str:
    """All that the database and the broker hold, as text."""
    with crew.engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        rows = [str(connection.exec_driver_sql(f"SELECT * FROM {table}").all()) for table in tables]
    rows += [file.read_bytes().decode("latin-1") for file in crew.folder.glob("*.db*") if file.is_file()]
    client = getattr(crew.runtime and crew.runtime.broker, "client", None)
    if client is not None:
        for key in client.scan_iter("*"):
            kind = client.type(key).decode()
            read = {"hash": client.hgetall, "list": lambda key: client.lrange(key, 0, -1), "set": client.smembers}
            rows.append(f"{key} {read.get(kind, client.dump)(key)}")
    return "\n".join(rows)


def is_silent(texts: list[str]) -> None:
    for text in texts:
        for form in [*forms(SECRET), base64.b64encode(SECRET[:15].encode()).decode()]:
            assert form not in text


def test_a_secret_is_in_no_message_no_row_and_no_line_of_the_log_while_it_waits_and_afterwards(crew: Crew) -> None:
    captured = encrypting(crew, OLD_KEY)
    endings = ("done", "business", "crash", "retry", "database")
    tickets: list[Ticket[Any]] = [Spill(card=SECRET, how=how).async_().call() for how in endings]
    tickets += [PayOrder(order=1, card=SECRET).async_().call()]
    PayDirectly(order=5, card=SECRET).async_().call()
    waiting = held(crew)
    assert "Spill" in waiting
    assert "PayDirectly" in waiting + str(captured.messages)
    worker = crew.start(processes=2)
    told = []
    for ticket in tickets:
        try:
            ticket.result(WAIT_S)
        except (Error, OperationFailed) as error:
            told.append(f"{error!r} {error}")
    eventually(
        lambda: worker.lines("done operation=encryption_shop.PayDirectly"), "the direct run", WAIT_S, worker.output
    )

    encoded = [message.encode().decode() for message in captured.messages]
    is_silent([waiting, held(crew), worker.output(), *told, *encoded])


def test_two_workers_run_what_is_encrypted_and_give_results_that_only_a_key_can_read(crew: Crew) -> None:
    encrypting(crew, OLD_KEY)
    crew.start(processes=2)
    tickets = [PayOrder(order=number, card=SECRET).async_().call() for number in range(10)]

    assert [ticket.result(WAIT_S) for ticket in tickets] == list(range(10))


def test_a_rotation_goes_through_workers_with_old_and_new_keys_and_loses_nothing(crew: Crew) -> None:
    encrypting(crew, OLD_KEY)
    late = crew.start()
    before = PayOrder(order=1, card=SECRET).async_().call()
    assert before.result(WAIT_S) == 1
    # The wrong way round: this process has the new key before its worker has.
    encrypting(crew, NEW_KEY, OLD_KEY)
    after = PayOrder(order=2, card=SECRET).async_().call()
    with pytest.raises(OperationFailed, match="does not decrypt by 'default'"):
        after.result(WAIT_S)
    assert records.get(after.id).failure == "undecodable"
    late.stop()
    crew.start()
    after.retry()

    assert after.result(WAIT_S) == 2
    assert before.reload().result(WAIT_S) == 1


@pytest.mark.parametrize("point", ["after_claim", "before_commit"])
def test_an_encrypted_run_whose_worker_is_killed_is_run_by_another(crew: Crew, point: str) -> None:
    encrypting(crew, OLD_KEY)
    dead = crew.start_deadly(point)
    ticket = PayOrder(order=3, card=SECRET).async_().call()
    eventually(lambda: crew.reached(point), f"a worker came to {point}", WAIT_S, dead.output)
    crew.start()

    assert ticket.result(WAIT_S) == 3
    # A run that never used its session ends by one statement: PostgreSQL has committed that before this point.
    assert records.get(ticket.id).num_lost == 1 or point == "before_commit"
    is_silent([held(crew), dead.output()])


@pytest.mark.servers
def test_a_direct_run_is_encrypted_in_its_message_on_rabbitmq(tmp_path: Path) -> None:
    with opened("postgresql+rabbitmq", tmp_path, APPLICATION) as crew:
        crew.configure()
        captured = encrypting(crew, OLD_KEY)
        PayDirectly(order=5, card=SECRET).async_().call()
        worker = crew.start()
        eventually(lambda: worker.lines("done operation=encryption_shop.PayDirectly"), "it ran", WAIT_S, worker.output)

        assert captured.messages
        is_silent([held(crew), worker.output(), *(message.encode().decode() for message in captured.messages)])
    install(None)
