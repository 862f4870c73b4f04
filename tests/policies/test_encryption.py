"""Encryption through the public interface: only the runs of a class and its callers read its encrypted data."""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from apps import shop_encryption as shop
from apps.shop_encryption import (
    NEW_KEY,
    OLD_KEY,
    SECRET,
    EchoSecret,
    EchoSecretDirectly,
    LeakSecret,
    Pay,
    PayByBoth,
    PayDirectly,
    PayFor,
    PayOnce,
    PayOrder,
    ReverseEncryptor,
    StorePlain,
)

import dexpy
from dexpy import ConfigurationError, Error, FernetEncryptor, OperationFailed, defer, prop, records
from dexpy.configuration.settings import Settings
from dexpy.database.tables import messages
from dexpy.errors import (
    DeclarationError,
    DecryptionFailed,
    EncryptorMissing,
    MissingExtra,
    OnceConflict,
    OptionsError,
    SensitiveInTransit,
)
from dexpy.foundation.encryption import Encryptors
from dexpy.recording import encryption
from dexpy.testing import Isolated, isolated

fernet = pytest.importorskip("cryptography.fernet")


@pytest.fixture
def isolated_runtime(database_url: str) -> Generator[Isolated]:
    """A runtime with two encryptors, on each database."""
    shop.performed.clear()
    with isolated(
        database=database_url, encryptors={"default": FernetEncryptor(OLD_KEY), "vault": ReverseEncryptor()}
    ) as it:
        yield it


def configured(isolated_runtime: Isolated, *keys: str) -> None:
    """Replace the keys of the runtime, as a deploy does."""
    isolated_runtime.runtime.encryptors = Encryptors({"default": FernetEncryptor(*keys)} if keys else {})


def stored(engine: sa.Engine, column: str = "params") -> Any:
    """Return a JSON column of the last row."""
    with engine.connect() as connection:
        query = sa.select(records.table.c[column]).order_by(records.table.c.id.desc()).limit(1)
        return connection.execute(query).scalar_one()


def everything(engine: sa.Engine) -> str:
    """Return all rows of a database, and the bytes of a SQLite file, as text."""
    with engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        rows = [connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in tables]
    if engine.dialect.name == "sqlite":
        file = Path(str(engine.url.database))
        rows += [path.read_bytes().decode("latin-1") for path in file.parent.glob(file.name + "*") if path.is_file()]
    return str(rows)


def forms(secret: str) -> list[str]:
    """Return the forms in which a secret may appear in stored text."""
    return [secret, secret[::-1], base64.b64encode(secret.encode()).decode().rstrip("=")[:-2], secret.encode().hex()]


# ------------------------------------------------------------------------------------------ stored data


def test_params_and_result_of_an_encrypted_class_are_stored_encrypted_and_read_with_their_types(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    ticket = Pay(card=SECRET, amount=Decimal("9.50")).async_().call()
    assert list(stored(engine)) == ["$encrypted"]
    isolated_runtime.run_pending()

    assert ticket.result(5) == {"receipt": f"9.50 by {SECRET} on 2026-01-31"}
    assert list(stored(engine, "result")) == ["$encrypted"]
    assert list(stored(engine)["$encrypted"]) == ["default"]
    assert not any(form in everything(engine) for form in forms(SECRET))


def test_a_single_prop_can_be_encrypted(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = PayOrder(order=7, card=SECRET).async_().call()
    isolated_runtime.run_pending()

    params = stored(engine)
    assert (params.pop("order"), list(params)) == (7, ["$encrypted"])
    assert stored(engine, "result") == {"value": 7}
    assert ticket.result(5) == 7
    assert not any(form in everything(engine) for form in forms(SECRET))


def test_the_name_of_each_encryptor_is_in_the_row(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = PayByBoth(card=SECRET, pin=1234).async_().call()
    isolated_runtime.run_pending()

    assert sorted(stored(engine)["$encrypted"]) == ["default", "vault"]
    assert ticket.result(5) == f"{SECRET} 1234"


def test_a_reference_is_encrypted_by_its_key(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    shop.create_tables(engine)
    ticket = PayFor(customer=77).async_().call()
    isolated_runtime.run_pending()

    assert list(stored(engine)) == ["$encrypted"]
    assert ticket.result(5) == "Ada"


def test_a_call_in_place_is_recorded_encrypted(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    assert Pay(card=SECRET, amount=Decimal(1)).call()["receipt"].startswith("1 by")

    assert (list(stored(engine)), list(stored(engine, "result"))) == (["$encrypted"], ["$encrypted"])
    assert SECRET not in everything(engine)


def test_an_encrypted_argument_of_a_deferred_call_is_stored_encrypted(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    ticket = defer(shop.call_out, number=1, token=SECRET)
    isolated_runtime.run_pending()

    assert ticket.result(5) == "1 True"
    assert SECRET not in everything(engine)


def test_equal_params_have_different_ciphertexts(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    rows = []
    for _ in range(2):
        PayOrder(order=1, card=SECRET).async_().call()
        rows.append(stored(engine)["$encrypted"])

    assert rows[0] != rows[1]


def test_rows_from_before_and_during_the_encryption_of_a_class_are_read(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    before = PayOrder(order=1, card=SECRET).async_().call()
    while_it_was = StorePlain(data={"word": SECRET}).async_().call()
    plain = {"$bound": [while_it_was.operation, "params", while_it_was.id, "default"]}
    plain |= {"$data": {"data": {"word": "kept"}}}
    token = base64.b64encode(FernetEncryptor(OLD_KEY).encrypt(json.dumps(plain).encode())).decode()
    with engine.begin() as connection:
        for id, params in (
            (before.id, {"order": 1, "card": SECRET}),
            (while_it_was.id, {"$encrypted": {"default": token}}),
        ):
            changed = sa.update(records.table).where(records.table.c.id == id).values(params=params)
            connection.execute(changed)
    isolated_runtime.run_pending()

    assert (before.result(5), while_it_was.result(5)) == (1, {"word": "kept"})


def test_data_that_looks_encrypted_is_read_as_data(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    PayOrder(order=1, card=SECRET).async_().call()
    stolen = {"$encrypted": stored(engine)["$encrypted"]}
    ticket = StorePlain(data=stolen).async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(5) == stolen


# ---------------------------------------------------------------------------------------------------- keys


def test_after_a_rotation_old_rows_are_read_and_new_rows_use_the_new_key(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    old = PayOrder(order=1, card=SECRET).async_().call()
    configured(isolated_runtime, NEW_KEY, OLD_KEY)
    new = PayOrder(order=2, card=SECRET).async_().call()
    token = base64.b64decode(stored(engine)["$encrypted"]["default"])

    assert json.loads(fernet.Fernet(NEW_KEY).decrypt(token))["$data"] == {"card": SECRET}
    with pytest.raises(fernet.InvalidToken):
        fernet.Fernet(OLD_KEY).decrypt(token)
    isolated_runtime.run_pending()
    assert (old.result(5), new.result(5)) == (1, 2)


def test_without_an_encryptor_nothing_is_enqueued(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    configured(isolated_runtime)
    for operation in (Pay(card=SECRET, amount=Decimal(1)), PayOrder(order=1, card=SECRET)):
        with pytest.raises(EncryptorMissing, match="the encryptor 'default' is not configured in this process") as no:
            operation.async_().call()
        assert "DEXPY_ENCRYPTION_KEYS" in str(no.value)
        assert (no.value.encryptor, no.value.operation) == ("default", type(operation).contract.name)

    with pytest.raises(EncryptorMissing, match="the encryptor 'vault' is not configured"):
        PayByBoth(card=SECRET, pin=1).async_().call()
    assert records.all().count() == 0


def test_without_an_encryptor_a_recorded_call_is_refused(isolated_runtime: Isolated) -> None:
    configured(isolated_runtime)
    with pytest.raises(EncryptorMissing):
        Pay(card=SECRET, amount=Decimal(1)).call()

    assert shop.performed == []


@pytest.mark.parametrize(
    ("keys", "error", "expected"),
    [
        ((), "dexpy.errors.EncryptorMissing", "is not configured in this process"),
        (
            (NEW_KEY,),
            "dexpy.errors.DecryptionFailed",
            "the encryptor 'default' cannot decrypt the stored data (cryptography.fernet.InvalidToken)",
        ),
    ],
    ids=["no encryptor", "another key"],
)
@pytest.mark.parametrize("operation", [Pay(card=SECRET, amount=Decimal(1)), PayOrder(order=1, card=SECRET)])
def test_a_worker_without_the_key_parks_the_row_which_runs_when_the_key_is_back(
    isolated_runtime: Isolated, operation: Any, keys: tuple[str, ...], error: str, expected: str
) -> None:
    ticket = operation.async_().call()
    configured(isolated_runtime, *keys)
    isolated_runtime.run_pending()

    record = records.get(ticket.id)
    assert (record.status, record.failure, record.error, shop.performed) == ("failed", "undecodable", error, [])
    assert expected in (record.error_message or "")
    with pytest.raises(OperationFailed, match="undecodable"):
        ticket.result(5)
    configured(isolated_runtime, OLD_KEY)
    record.retry()
    isolated_runtime.run_pending()
    ticket.result(5)
    assert shop.performed == [type(operation).__name__]


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda token: token[:-8] + "AAAAAAA=",
        lambda token: "no base64 at all",
        lambda token: None,
        lambda token: base64.b64encode(FernetEncryptor(OLD_KEY).encrypt(b"no json")).decode(),
        lambda token: base64.b64encode(FernetEncryptor(OLD_KEY).encrypt(b"[1]")).decode(),
    ],
    ids=["tampered", "text", "null", "no json", "no object"],
)
def test_a_row_whose_ciphertext_was_changed_is_never_run(
    isolated_runtime: Isolated, engine: sa.Engine, spoilt: Any
) -> None:
    ticket = Pay(card=SECRET, amount=Decimal(1)).async_().call()
    params = {"$encrypted": {"default": spoilt(stored(engine)["$encrypted"]["default"])}}
    with engine.begin() as connection:
        connection.execute(sa.update(records.table).values(params=params))
    isolated_runtime.run_pending()

    assert (ticket.reload().failure, shop.performed) == ("undecodable", [])
    assert records.get(ticket.id).error == "dexpy.errors.DecryptionFailed"


def test_a_result_without_its_key_is_reported_and_readable_when_the_key_is_back(isolated_runtime: Isolated) -> None:
    ticket = Pay(card=SECRET, amount=Decimal(1)).async_().call()
    isolated_runtime.run_pending()
    configured(isolated_runtime, NEW_KEY)

    assert ticket.reload().done
    assert ticket.outcome is None
    with pytest.raises(DecryptionFailed, match="Append the key that encrypted it"):
        ticket.result(5)
    configured(isolated_runtime)
    with pytest.raises(EncryptorMissing):
        ticket.wait(5)
    configured(isolated_runtime, NEW_KEY, OLD_KEY)
    assert SECRET in ticket.result(5)["receipt"]


def test_keys_are_read_from_the_environment_and_the_first_one_encrypts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEXPY_ENCRYPTION_KEYS", f"{NEW_KEY}, {OLD_KEY}")
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'app.db'}")
    token = runtime.encryptors["default"].encrypt(b"x")

    assert fernet.Fernet(NEW_KEY).decrypt(token) == b"x"
    assert NEW_KEY not in repr(runtime.settings) + repr(runtime.encryptors)
    runtime.close()


def test_arguments_of_configure_precede_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    monkeypatch.setenv("DEXPY_ENCRYPTION_KEYS", OLD_KEY)
    by_keys = dexpy.configure(database=url, encryption_keys=[NEW_KEY])
    mine = ReverseEncryptor()
    by_object = dexpy.configure(database=url, encryptors={"default": mine})

    assert fernet.Fernet(NEW_KEY).decrypt(by_keys.encryptors["default"].encrypt(b"x")) == b"x"
    assert by_object.encryptors["default"] is mine
    by_keys.close()
    by_object.close()


# ------------------------------------------------------------------------------------------ direct messages


def test_a_run_without_a_record_is_encrypted_in_its_message_also_when_it_is_retried(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    ticket = PayDirectly(order=0, card=SECRET).async_().call()
    assert "PayDirectly" in everything(engine)
    assert not any(form in everything(engine) for form in forms(SECRET))
    isolated_runtime.run_pending()

    assert shop.performed == ["PayDirectly 0 True", "PayDirectly 0 True"]
    assert not ticket.recorded
    assert SECRET not in everything(engine)


def test_a_sensitive_prop_that_is_not_encrypted_is_still_refused_in_a_message(isolated_runtime: Isolated) -> None:
    with pytest.raises(SensitiveInTransit):
        EchoSecretDirectly(token=SECRET).async_().call()


def test_a_message_waits_for_its_missing_key(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    PayDirectly(order=1, card=SECRET).async_().call()
    configured(isolated_runtime)
    isolated_runtime.run_pending()
    assert shop.performed == []
    configured(isolated_runtime, OLD_KEY)
    isolated_runtime.advance(31)
    if engine.dialect.name != "sqlite":
        # The clock of a server cannot be advanced, so the message is made due.
        with engine.begin() as connection:
            connection.execute(sa.update(messages).values(due_at=messages.c.created_at))
    isolated_runtime.run_pending()

    assert shop.performed == ["PayDirectly 1 True"]


# ------------------------------------------------------------------------------------- redaction


def test_encrypted_props_are_sensitive_and_not_shown_with_the_record(isolated_runtime: Isolated) -> None:
    whole, part = Pay(card=SECRET, amount=Decimal(1)), PayOrder(order=1, card=SECRET)
    tickets = [whole.async_().call(), part.async_().call()]
    isolated_runtime.run_pending()
    first, second = records.all()

    assert repr(whole) == "Pay(card=<sensitive>, amount=<sensitive>, day=<sensitive>)"
    assert repr(part) == "PayOrder(order=1, card=<sensitive>)"
    assert set((first.params or {}).values()) == {"<sensitive>"}
    assert (first.result, tickets[0].reload().to_dict()["result"]) == ("<sensitive>", "<sensitive>")
    assert second.params == {"order": 1, "card": "<sensitive>"}


def test_a_sensitive_prop_without_encryption_is_stored_in_plain_text_and_not_shown(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    ticket = EchoSecret(token=SECRET).async_().call()

    assert stored(engine) == {"token": SECRET}
    assert records.get(ticket.id).params == {"token": "<sensitive>"}
    report = EchoSecret.explain(token=SECRET)
    assert report.encryption == {"props": {}, "result": None, "missing": [], "readable": ["token"]}


def test_explain_shows_encrypted_parts_their_encryptor_and_whether_it_exists(isolated_runtime: Isolated) -> None:
    assert PayByBoth.explain(card=SECRET, pin=1).encryption == {
        "props": {"card": "vault", "pin": "default"},
        "result": "vault",
        "missing": [],
        "readable": [],
    }
    configured(isolated_runtime)
    report = PayOrder.explain(order=1, card=SECRET)
    assert report.encryption is not None
    assert report.encryption["missing"] == ["default"]
    assert SECRET not in f"{report} {report.to_dict()}"
    assert StorePlain.explain(data={}).encryption is None


def test_filtering_by_encrypted_params_is_refused(isolated_runtime: Isolated) -> None:
    PayOrder(order=1, card=SECRET).async_().call()

    assert records.where(operation=PayOrder, params={"order": 1}).count() == 1
    with pytest.raises(OptionsError, match=r"PayOrder\.card is encrypted, so the database cannot compare it"):
        records.where(operation=PayOrder, params={"card": SECRET})
    assert records.where(params={"card": SECRET}).count() == 0


@pytest.mark.parametrize("how", ["done", "business", "crash", "retry", "database"])
def test_a_secret_reaches_no_sink_at_any_end_of_a_run(
    isolated_runtime: Isolated,
    engine: sa.Engine,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    how: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    operation = LeakSecret(card=SECRET, how=how)
    ticket = operation.async_().call()
    runs = isolated_runtime.run_pending()
    sinks = [repr(operation), str(runs), str(ticket.reload().to_dict()), str(LeakSecret.explain(card=SECRET, how=how))]
    try:
        assert ticket.result(5) == SECRET
    except (Error, OperationFailed) as error:
        sinks += [repr(error), str(error), str(getattr(error, "details", ""))]
    for record in records.all():
        sinks += [repr(record), str(vars(record) | {"_row": None}), str(records.attempts(record.id))]
    sinks += [caplog.text, *capfd.readouterr(), everything(engine)]

    for text in sinks:
        for form in forms(SECRET):
            assert form not in text


# ------------------------------------------------------------------------------------------- other policies


def test_an_encrypted_run_with_a_key_is_compared_and_replayed_decrypted(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    first = PayOnce(order=1, card=SECRET).async_().call()
    again = PayOnce(order=1, card=SECRET).async_().call()
    isolated_runtime.run_pending()

    assert (again.duplicate, again.id) == (True, first.id)
    assert again.reload().result(5) == f"1 by {SECRET}"
    assert PayOnce(order=1, card=SECRET).call() == f"1 by {SECRET}"
    assert shop.performed == ["PayOnce"]
    with pytest.raises(OnceConflict):
        PayOnce(order=1, card="another").async_().call()
    with pytest.raises(OnceConflict):
        PayOnce(order=1, card="another").call()
    assert SECRET not in everything(engine)


def test_a_class_without_encryption_never_looks_up_an_encryptor(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_if_called() -> Encryptors:
        raise AssertionError("no encryptor is needed")

    monkeypatch.setattr(encryption, "current_encryptors", fail_if_called)
    ticket = StorePlain(data={"a": 1}).async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(5) == {"a": 1}
    assert StorePlain(data={}).call() == {}


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: FernetEncryptor(), r"expected a key, got none\. Generate one with Fernet"),
        (lambda: FernetEncryptor(OLD_KEY, "short"), r"key 2 of 2 is invalid; expected 32 bytes in URL-safe base64"),
        (lambda: Encryptors({"": ReverseEncryptor()}), r"invalid name ''; expected a non-empty str"),
        (lambda: Encryptors({"default": object()}), r"expected an object with encrypt\(bytes\) and decrypt"),  # type: ignore[dict-item]
        (
            lambda: Encryptors({"default": ReverseEncryptor()}, OLD_KEY),
            r"encryption keys or the encryptor 'default', got both",
        ),
        (lambda: dexpy.configure(encryption_keys="short"), r"key 1 of 1 is invalid"),
    ],
)
def test_an_invalid_encryptor_is_refused_without_showing_its_key(make: Any, expected: str) -> None:
    with pytest.raises(ConfigurationError, match=expected) as refused:
        make()
    assert OLD_KEY not in str(refused.value)
    assert "short" not in str(refused.value)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(MissingExtra, match=r'pip install "dexpy-operations\[crypto\]"'):
        FernetEncryptor(OLD_KEY)


def test_keys_in_pyproject_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[tool.dexpy]\nencryption_keys = "{OLD_KEY}"\n')
    with pytest.raises(ConfigurationError, match="must not be stored in a file") as refused:
        Settings.find({}, tmp_path)
    assert OLD_KEY not in str(refused.value)


@pytest.mark.parametrize("declared", [None, 1, "", b"default"])
def test_a_declaration_that_names_no_encryptor_is_refused(declared: Any) -> None:
    with pytest.raises(DeclarationError, match=r"expected True, False or the name of an encryptor"):
        prop(encrypted=declared)
    with pytest.raises(DeclarationError, match=r"Wrong\.encrypt: expected True, False or the name"):
        type("Wrong", (dexpy.Operation,), {"encrypt": declared, "__module__": __name__, "perform": lambda self: None})
