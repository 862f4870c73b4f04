"""A ciphertext can be decrypted only in the row and column in which it was stored."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Generator
from typing import Any

import attrs
import pytest
import sqlalchemy as sa

import dexpy
from dexpy import FernetEncryptor, Once, Operation, Retry, Ticket, prop, records
from dexpy.database.tables import messages, steps
from dexpy.declaration import registry
from dexpy.errors import DecryptionFailed, ResultNotStored
from dexpy.foundation.encryption import Encryptors
from dexpy.testing import Isolated, isolated

KEY = "b2xkLWtleS1vZi0zMi1ieXRlcy1mb3ItdGVzdHMtISE="
NEW_KEY = "bmV3LWtleS1vZi0zMi1ieXRlcy1mb3ItdGVzdHMtISE="
SECRET = "4111 SECRET"

pytest.importorskip("cryptography.fernet")
cards: list[str] = []


class Pay(Operation, name="bound.pay"):
    encrypt = True
    card: str

    def perform(self) -> str:
        cards.append(self.card)
        return f"paid by {self.card}"


class Echo(Operation, name="bound.echo"):
    card: str

    def perform(self) -> str:
        cards.append(self.card)
        return self.card


class PayElsewhere(Operation, name="bound.pay_elsewhere"):
    encrypt = True
    card: str

    def perform(self) -> str:
        cards.append(self.card)
        return self.card


class PayTwice(Operation, name="bound.pay_twice"):
    """Has two props whose encryptors have different names and the same key."""

    card: str = prop(encrypted=True)
    pin: str = prop(encrypted="vault")

    def perform(self) -> str:
        cards.append(self.card)
        return "paid"


class PayOnce(Operation, name="bound.pay_once"):
    encrypt = True
    once = Once("order")
    order: int
    card: str

    def perform(self) -> str:
        cards.append(self.card)
        return self.card


class PayInSteps(Operation, name="bound.pay_in_steps"):
    encrypt = True
    card: str
    retry_on = (Retry(ConnectionError, attempts=3, wait=60, jitter=0),)

    def reserve(self) -> str:
        return f"reserved by {self.card}"

    def perform(self) -> str:
        reserved: str = self.step(self.reserve)
        cards.append(reserved)
        if len(cards) < 3:
            raise ConnectionError("away")
        return reserved


class PayDirectly(Operation, name="bound.pay_directly"):
    encrypt = True
    record = False
    card: str

    def perform(self) -> None:
        cards.append(self.card)


class PayFirst(Operation, name="bound.pay_first"):
    encrypt = True
    card: str
    once = Once("card", group="payments")

    def perform(self) -> str:
        cards.append(self.card)
        return f"paid by {self.card}"


class PayAgain(PayFirst, name="bound.pay_again"):
    encrypt = "vault"


class PayInClear(PayFirst, name="bound.pay_in_clear"):
    encrypt = False


@pytest.fixture
def isolated_runtime() -> Generator[Isolated]:
    cards.clear()
    fernet = FernetEncryptor(KEY)
    with isolated(encryptors={"default": fernet, "vault": fernet}) as it:
        yield it


def read(isolated_runtime: Isolated, id: str, column: str = "params") -> Any:
    with isolated_runtime.runtime.store.begin() as connection:
        return connection.scalar(sa.select(records.table.c[column]).where(records.table.c.id == id))


def write(isolated_runtime: Isolated, id: str, **columns: Any) -> None:
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.update(records.table).where(records.table.c.id == id).values(**columns))


def unbound(isolated_runtime: Isolated, data: Any) -> dict[str, Any]:
    """Encrypt data as releases before the binding did."""
    token = isolated_runtime.runtime.encryptors["default"].encrypt(json.dumps(data).encode())
    return {"$encrypted": {"default": base64.b64encode(token).decode()}}


@pytest.mark.parametrize("operation", [Echo(card="x"), PayElsewhere(card="x"), Pay(card="x")], ids=repr)
def test_s1_params_of_one_run_are_not_decrypted_in_the_row_of_another(
    isolated_runtime: Isolated, operation: Any
) -> None:
    stolen, other = Pay(card=SECRET).async_().call(), operation.async_().call()
    write(isolated_runtime, other.id, params=read(isolated_runtime, stolen.id))
    isolated_runtime.run_pending()

    record = records.get(other.id)
    assert (record.status, record.failure, record.error) == ("failed", "undecodable", "dexpy.errors.DecryptionFailed")
    assert "for another operation, column or run" in (record.error_message or "")
    assert cards == [SECRET]
    assert SECRET not in str(
        [read(isolated_runtime, other.id, column) for column in ("params", "result", "error_message")]
    )


def test_s1_a_row_whose_operation_was_changed_is_not_decrypted(isolated_runtime: Isolated) -> None:
    ticket = Pay(card=SECRET).async_().call()
    write(isolated_runtime, ticket.id, operation="bound.echo")
    isolated_runtime.run_pending()

    assert (records.get(ticket.id).failure, cards) == ("undecodable", [])


def test_s1_params_are_not_decrypted_by_another_encryptor_of_the_same_key(isolated_runtime: Isolated) -> None:
    ticket = PayTwice(card=SECRET, pin="0000").async_().call()
    entries = read(isolated_runtime, ticket.id)["$encrypted"]
    write(
        isolated_runtime, ticket.id, params={"$encrypted": {"default": entries["vault"], "vault": entries["default"]}}
    )
    isolated_runtime.run_pending()

    assert (records.get(ticket.id).failure, cards) == ("undecodable", [])


def test_s1_params_in_place_of_a_result_are_not_decrypted(isolated_runtime: Isolated) -> None:
    ticket = Pay(card=SECRET).async_().call()
    params = read(isolated_runtime, ticket.id)
    isolated_runtime.run_pending()
    write(isolated_runtime, ticket.id, result=params)

    assert ticket.reload().outcome is None
    with pytest.raises(DecryptionFailed, match="for another operation, column or run"):
        ticket.result(1)


def test_s2_the_result_of_another_run_is_not_decrypted(isolated_runtime: Isolated) -> None:
    first, second = Pay(card=SECRET).async_().call(), Pay(card="other").async_().call()
    isolated_runtime.run_pending()
    write(isolated_runtime, second.id, result=read(isolated_runtime, first.id, "result"))

    assert first.result(1) == f"paid by {SECRET}"
    with pytest.raises(DecryptionFailed):
        second.result(1)


def test_s2_the_result_of_another_run_is_not_replayed(isolated_runtime: Isolated) -> None:
    PayOnce(order=1, card=SECRET).call()
    PayOnce(order=2, card="other").call()
    first, second = sorted(records.all(), key=lambda record: record.id)
    assert PayOnce(order=1, card=SECRET).call() == SECRET
    write(isolated_runtime, second.id, result=read(isolated_runtime, first.id, "result"))

    with pytest.raises(DecryptionFailed):
        PayOnce(order=2, card="other").call()


def test_s2_the_value_of_a_step_of_another_run_is_not_used(isolated_runtime: Isolated) -> None:
    first, second = PayInSteps(card=SECRET).async_().call(), PayInSteps(card="other").async_().call()
    isolated_runtime.run_pending()
    with isolated_runtime.runtime.store.begin() as connection:
        value = connection.scalar(sa.select(steps.c.value).where(steps.c.record_id == first.id))
        connection.execute(sa.update(steps).where(steps.c.record_id == second.id).values(value=value))
    isolated_runtime.advance(61)
    isolated_runtime.run_pending()

    assert first.result(1) == f"reserved by {SECRET}"
    record = records.get(second.id)
    assert (record.status, record.failure, record.error) == ("failed", "undecodable", "dexpy.errors.DecryptionFailed")
    assert cards.count(f"reserved by {SECRET}") == 2


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda token: {"default": token[:-8] + "AAAAAAA="}, "dexpy.errors.DecryptionFailed"),
        (lambda token: {"default": "no base64"}, "dexpy.errors.DecryptionFailed"),
        (lambda token: "no object", "dexpy.errors.DecryptionFailed"),
        (lambda token: {"gone": token}, "dexpy.errors.EncryptorMissing"),
    ],
    ids=["tampered", "text", "no object", "no encryptor"],
)
def test_s2_a_step_that_does_not_decrypt_ends_the_run_as_undecodable_despite_its_retry_rules(
    isolated_runtime: Isolated, spoil: Any, error: str
) -> None:
    ticket = PayInSteps(card=SECRET).async_().call()
    isolated_runtime.run_pending()
    with isolated_runtime.runtime.store.begin() as connection:
        stored_value = connection.scalar(sa.select(steps.c.value))
        connection.execute(sa.update(steps).values(value={"$encrypted": spoil(stored_value["$encrypted"]["default"])}))
    isolated_runtime.advance(61)
    isolated_runtime.run_pending()

    record = records.get(ticket.id)
    assert (record.status, record.failure, record.error) == ("failed", "undecodable", error)
    assert cards == [f"reserved by {SECRET}"]
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.update(steps).values(value=stored_value))
    ticket.retry()
    isolated_runtime.run_pending()
    isolated_runtime.advance(121)
    isolated_runtime.run_pending()
    assert ticket.result(1) == f"reserved by {SECRET}"


class AsksForAnother(Operation, name="bound.asks"):
    retry_on = (Retry(DecryptionFailed, attempts=2, wait=0),)
    id: str

    def perform(self) -> Any:
        return Ticket.get(self.id).result(1)


def test_s2_a_value_of_another_run_that_does_not_decrypt_follows_the_rules_of_the_class(
    isolated_runtime: Isolated,
) -> None:
    other = Pay(card=SECRET).async_().call()
    params = read(isolated_runtime, other.id)
    isolated_runtime.run_pending()
    write(isolated_runtime, other.id, result=params)
    ticket = AsksForAnother(id=other.id).async_().call()
    isolated_runtime.run_pending()

    record = records.get(ticket.id)
    assert (record.status, record.failure, record.num_attempts) == ("failed", "crash", 2)


def direct_params(isolated_runtime: Isolated, change: Callable[[list[Any]], None]) -> None:
    """Change the params in the messages of direct runs."""
    with isolated_runtime.runtime.store.begin() as connection:
        rows = connection.execute(sa.select(messages).order_by(messages.c.id)).all()
        payloads = [json.loads(row.payload) for row in rows]
        change([payload["kwargs"]["params"] for payload in payloads])
        for row, payload in zip(rows, payloads, strict=True):
            changed = sa.update(messages).where(messages.c.id == row.id)
            connection.execute(changed.values(payload=json.dumps(payload)))


def test_s2_params_in_the_message_of_another_direct_run_are_not_decrypted(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    for card in (SECRET, "other"):
        PayDirectly(card=card).async_().call()
    direct_params(isolated_runtime, lambda params: params[1].update(params[0]))
    with pytest.warns(RuntimeWarning, match="is dead: "):
        isolated_runtime.run_pending()

    assert cards == [SECRET]
    assert caplog.text.count("dead=True") == 1


@pytest.mark.parametrize(
    "spoil",
    [lambda token: token[:-8] + "AAAAAAA=", lambda token: "no base64", lambda token: None],
    ids=["tampered", "text", "null"],
)
def test_s2_a_direct_message_that_does_not_decrypt_is_dead_lettered_at_once(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture, spoil: Any
) -> None:
    PayDirectly(card=SECRET).async_().call()
    direct_params(
        isolated_runtime,
        lambda params: params[0]["$encrypted"].update(default=spoil(params[0]["$encrypted"]["default"])),
    )
    with pytest.warns(RuntimeWarning, match="is dead: "):
        isolated_runtime.run_pending()
    with isolated_runtime.runtime.store.begin() as connection:
        rows = connection.execute(sa.select(messages)).all()
    assert [row.dead for row in rows] == [True], "the message is dead at once, without a wait for a key"

    assert (cards, caplog.text.count("dead=True")) == ([], 1)


class PayForNothing(Pay, name="bound.pay_for_nothing"):
    def perform(self) -> Any:
        return {self.card: object()}


@pytest.mark.parametrize("in_place", [True, False])
def test_s1_the_reason_why_an_encrypted_result_was_not_stored_is_encrypted(
    isolated_runtime: Isolated, in_place: bool
) -> None:
    operation = PayForNothing(card=SECRET)
    if in_place:
        operation.call()
    else:
        operation.async_().call()
        isolated_runtime.run_pending()

    (record,) = records.all()
    assert record.status == "done"
    assert SECRET not in str(read(isolated_runtime, record.id, "result"))
    with pytest.raises(ResultNotStored, match="has no JSON form"):
        record.ticket.result(1)


class Leaves:
    """An encryptor that raises SystemExit when it decrypts."""

    def encrypt(self, data: bytes) -> bytes:
        return data

    def decrypt(self, token: bytes) -> bytes:
        raise SystemExit(3)


def test_s1_an_encryptor_that_ends_the_program_does_not_decrypt() -> None:
    with isolated(encryptors={"default": Leaves()}) as isolated_runtime:
        ticket = Pay(card=SECRET).async_().call()
        isolated_runtime.run_pending()

        assert (records.get(ticket.id).failure, cards) == ("undecodable", [])


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize("operation", [Pay, Echo])
def test_s1_a_setting_decrypts_values_of_an_earlier_release_for_a_class_that_encrypts(
    isolated_runtime: Isolated, operation: Any, accepts: bool
) -> None:
    isolated_runtime.runtime.encryptors.accepts_unbound = accepts
    ticket = operation(card="x").async_().call()
    write(isolated_runtime, ticket.id, params=unbound(isolated_runtime, {"card": SECRET}))
    isolated_runtime.run_pending()

    record = records.get(ticket.id)
    if operation is Pay and accepts:
        assert (ticket.result(1), cards) == (f"paid by {SECRET}", [SECRET])
        return
    assert (record.failure, cards) == ("undecodable", [])
    assert "accept_unbound_ciphertext" in (record.error_message or "")


@pytest.mark.parametrize("value", ["1", "true", "0", None])
def test_s1_the_setting_for_values_of_an_earlier_release_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("DEXPY_ACCEPT_UNBOUND_CIPHERTEXT", value)
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/app.db", encryption_keys=KEY)

    assert runtime.encryptors.accepts_unbound is (value in ("1", "true"))
    runtime.close()


def test_s1_old_and_new_names_of_a_class_and_old_keys_decrypt_what_they_stored(isolated_runtime: Isolated) -> None:
    pay, ended = Pay(card=SECRET).async_().call(), Pay(card="ended").async_().call()
    ended.perform()
    contract = Pay.contract
    # As after a deploy that renames the class and adds a new key.
    renamed = attrs.evolve(contract, name="bound.payment", aliases=("bound.pay",))
    isolated_runtime.runtime.encryptors = Encryptors({"default": FernetEncryptor(NEW_KEY, KEY)})
    type.__setattr__(Pay, "contract", renamed)
    registry._by_name["bound.payment"] = Pay
    try:
        isolated_runtime.run_pending()
        assert (pay.reload().result(1), ended.reload().result(1)) == (f"paid by {SECRET}", "paid by ended")
    finally:
        type.__delattr__(Pay, "contract")
        del registry._by_name["bound.payment"]
    # A process with the old code reads the result that the new code stored in a row with the old name.
    assert pay.reload().result(1) == f"paid by {SECRET}"


def test_s1_a_class_that_no_longer_encrypts_decrypts_what_it_stored(isolated_runtime: Isolated) -> None:
    ticket = Pay(card=SECRET).async_().call()
    contract = Pay.contract
    # As after a deploy that disables the encryption.
    type.__setattr__(Pay, "contract", attrs.evolve(contract, encryptor=None))
    try:
        isolated_runtime.run_pending()
    finally:
        type.__delattr__(Pay, "contract")

    assert ticket.result(1) == f"paid by {SECRET}"
    assert read(isolated_runtime, ticket.id, "result") == {"value": f"paid by {SECRET}"}


def test_s1_a_run_that_is_retried_by_a_rule_or_by_its_ticket_decrypts_its_params(isolated_runtime: Isolated) -> None:
    ticket = PayInSteps(card=SECRET).async_().call()
    isolated_runtime.run_pending()
    isolated_runtime.advance(61)
    isolated_runtime.run_pending()
    isolated_runtime.advance(61)
    isolated_runtime.run_pending()

    assert ticket.result(1) == f"reserved by {SECRET}"


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "in a worker"])
@pytest.mark.parametrize("first", [PayFirst, PayAgain, PayInClear])
@pytest.mark.parametrize("second", [PayFirst, PayAgain, PayInClear])
def test_p12_classes_of_a_group_replay_results_that_another_class_encrypted(
    isolated_runtime: Isolated, first: type[PayFirst], second: type[PayFirst], in_place: bool
) -> None:
    if in_place:
        assert first(card=SECRET).call() == second(card=SECRET).call() == f"paid by {SECRET}"
    else:
        first(card=SECRET).async_().call()
        ticket = second(card=SECRET).async_().call()
        isolated_runtime.run_pending()
        assert ticket.result(1) == f"paid by {SECRET}"
    assert cards == [SECRET]
