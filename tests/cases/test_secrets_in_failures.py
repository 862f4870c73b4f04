"""A sensitive value is redacted from texts about a failure in each of its common forms; the rest stays readable."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
import sqlalchemy as sa

import dexpy
from dexpy import Error, Operation, Retry, prop, records
from dexpy.enqueue.queues import declare_new_queues
from dexpy.foundation.redaction import Redactor
from dexpy.testing import Isolated, isolated

SECRET = "s3cr&t <w0rd>/ü+"
raised: list[Callable[[str], BaseException]] = []


class LogIn(Operation, name="secrets.log_in"):
    password: str = prop(sensitive=True)
    retry_on = (Retry("busy", attempts=2, wait=0),)

    def perform(self) -> None:
        raise raised[0](self.password)


class LogInDirectly(LogIn, name="secrets.log_in_outer"):
    def perform(self) -> None:
        LogIn(password=self.password).call()


def basic(secret: str) -> str:
    return base64.b64encode(f"user:{secret}".encode()).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "itself": lambda secret: secret,
    "quote": quote,
    "quote all": lambda secret: quote(secret, safe=""),
    "quote_plus": quote_plus,
    "lower case quotes": lambda secret: quote(secret, safe="").lower(),
    "query string": lambda secret: urlencode({"password": secret}),
    "json": json.dumps,
    "json in utf-8": lambda secret: json.dumps({"p": secret}, ensure_ascii=False),
    "html": html.escape,
    "html text": lambda secret: html.escape(secret, quote=False),
    "repr": repr,
    "ascii": ascii,
    "bytes": lambda secret: repr(secret.encode()),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "urlsafe base64": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "Basic": basic,
    "Basic of a longer user": lambda secret: base64.b64encode(f"user.name:{secret}".encode()).decode(),
    "JWT part": lambda secret: base64.urlsafe_b64encode(json.dumps({"sub": secret}).encode()).decode().rstrip("="),
    "hex": lambda secret: secret.encode().hex(),
    "upper case hex": lambda secret: secret.encode().hex().upper(),
}


SECRETS = [SECRET, "hunter2hunter2", "4111 1111 1111 1111", "pa'ss\"w\\ord"]
# Without secrets that JSON escapes: inside of base64 they are a different text.
PAIRS = [(form, one) for form in FORMS for one in SECRETS if form != "JWT part" or json.dumps(one)[1:-1] == one]


@pytest.mark.parametrize(("form", "secret"), PAIRS)
def test_s8_common_forms_of_a_secret_are_redacted(form: str, secret: str) -> None:
    text = FORMS[form](secret)
    redactor = Redactor().knowing([secret])
    redacted = redactor(f"the header was: {text} and no more")

    assert redacted.startswith("the header was: ")
    assert redacted.endswith(" and no more")
    assert "<sensitive>" in redacted
    if not form.startswith("json in") and form != "query string":
        assert text not in redacted
    core = base64.b64encode(secret.encode()).decode().rstrip("=")[4:-4]
    for trace in (secret, quote(secret, safe=""), core, secret.encode().hex()):
        assert trace not in redacted


def raised_in_file(name: str) -> BaseException:
    """Return an error whose traceback names a file."""
    try:
        exec(compile("raise ValueError('no')", name, "exec"))  # noqa: S102 - as a template is run
    except ValueError as error:
        return error
    raise AssertionError(name)


ERRORS: dict[str, Callable[[str], BaseException]] = {
    "code": lambda secret: Error("denied for " + secret),
    "message": lambda secret: Error("denied", f"no {secret}"),
    "details": lambda secret: Error("denied", "no", details={secret: {"password": secret}}),
    "header in a crash": lambda secret: ValueError(f"Authorization: Basic {basic(secret)}"),
    "class name": lambda secret: type("Denied_" + secret, (Exception,), {})("no"),
    "group": lambda secret: ExceptionGroup("g", [ValueError(secret), ValueError("x")]),
    "code tried again": lambda secret: Error("busy", secret),
    "class name in details": lambda secret: Error("denied", "no", details={"by": type("User_" + secret, (), {})()}),
    "file name": lambda secret: raised_in_file(f"/srv/{secret}.py"),
}


@pytest.mark.parametrize("operation", [LogIn, LogInDirectly])
@pytest.mark.parametrize("how", ERRORS)
def test_s8_no_sink_shows_a_sensitive_value(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture, how: str, operation: type[LogIn]
) -> None:
    caplog.set_level(logging.DEBUG)
    raised[:] = [ERRORS[how]]
    ticket = operation(password=SECRET).async_().call()
    isolated_runtime.run_pending()
    sinks: list[Any] = [ticket.reload().to_dict(), ticket.outcome, caplog.text]
    for record in records.all():
        row = {name: value for name, value in record._row._mapping.items() if name != "params"}
        sinks += [repr(record), row, record.error, records.attempts(record.id)]

    for text in map(str, sinks):
        for form in FORMS.values():
            assert form(SECRET) not in text
    assert records.get(ticket.id).status == "failed"


def test_s8_a_call_in_place_is_recorded_with_redaction(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    raised[:] = [ERRORS["code"]]
    with pytest.raises(Error):
        LogIn(password=SECRET).call()

    (record,) = records.all()
    assert record.error == "denied for <sensitive>"
    assert SECRET not in caplog.text


@pytest.mark.parametrize("place", range(250, 300, 7))
def test_s8_a_message_in_a_group_is_shortened_after_redaction(place: int) -> None:
    secret = "correct-horse-battery-staple"
    group = ExceptionGroup("g", [ValueError("x" * place + secret), ValueError("y")])

    assert "correct" not in Redactor().knowing([secret]).of(group)


def test_s8_a_reason_of_a_user_is_stored_redacted(isolated_runtime: Isolated) -> None:
    ticket = LogIn(password=SECRET).async_().call()
    ticket.fail(f"{SECRET} is a password that was stolen")

    assert records.get(ticket.id).error_message == "<sensitive> is a password that was stolen"


class Export(Operation, name="secrets.export"):
    password: str = prop(sensitive=True)

    def perform(self) -> Any:
        return {f"key {self.password}": object()}


@pytest.mark.parametrize("in_place", [True, False])
def test_s8_the_reason_why_a_result_was_not_stored_is_redacted(isolated_runtime: Isolated, in_place: bool) -> None:
    if in_place:
        Export(password=SECRET).call()
    else:
        Export(password=SECRET).async_().call()
        isolated_runtime.run_pending()

    (record,) = records.all()
    assert record.result_error is not None
    assert record.result_error.startswith("result['key <sensitive>']")


# ------------------------------------------------------------------------------------------- short secrets


@pytest.mark.parametrize("secret", ["e", "12", 7, "no", "s", "a1", "<", ".", " ", "x-y"])
def test_p17_the_rest_of_a_text_stays_readable_with_a_short_secret(secret: Any) -> None:
    text = "the sensitive delivery of 2012 was not seen at line 177. A xylophone-yard <b> failed"

    assert Redactor().knowing([secret])(text) == text


@pytest.mark.parametrize("secret", ["e", "12", 7, "no", "a1", "ü", "-1", "王"])
@pytest.mark.parametrize("around", ["pin {}", "{}", "pin={}&x", "{{'pin': '{}'}}", "({})", "pin '{}' is wrong", "{}\n"])
def test_p17_a_short_secret_is_redacted_where_it_is_a_whole_word(secret: Any, around: str) -> None:
    redacted = Redactor().knowing([secret])(around.format(secret))

    assert redacted.count("<sensitive>") == 1
    assert redacted.replace("<sensitive>", "") == around.format("")


def test_p17_a_marker_is_not_redacted_again() -> None:
    assert Redactor().knowing(["hunter2", "sensitive", "s", "<"])("a hunter2 b 'sensitive'") == (
        "a <sensitive> b '<sensitive>'"
    )


def test_s8_a_long_text_with_many_secrets_is_redacted_quickly() -> None:
    secrets = [f"secret-number-{number:06}" for number in range(300)]
    redacted = Redactor().knowing(secrets)("A" * 300_000 + secrets[7])

    assert secrets[7] not in redacted


# ------------------------------------------------------------------------------------------- names in log lines


class Notify(Operation, name="secrets.notify"):
    password: str = prop(sensitive=True)

    def perform(self) -> None:
        password = self.password

        def fail() -> None:
            raise type("Denied_" + password, (Exception,), {})("no")

        self.after_commit(fail)


@pytest.mark.parametrize("in_place", [True, False])
def test_s8_a_log_line_hides_the_secrets_of_the_run_in_the_names_of_classes(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture, in_place: bool
) -> None:
    if in_place:
        Notify(password="hunter2hunter2").call()
    else:
        Notify(password="hunter2hunter2").async_().call()
        isolated_runtime.run_pending()

    assert "after_commit.failed" in caplog.text
    assert "Denied_<sensitive>" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("column", ["operation", "queue"])
def test_s8_a_log_line_hides_secrets_in_the_names_of_messages_and_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def hide(text: str) -> str:
        shown.append(text)
        return re.sub(r"sk_live_\w+", "<key>", text)

    dexpy.configure(database=f"sqlite:///{tmp_path}/a.db", redactor=hide)
    with isolated() as isolated_runtime:
        ticket = LogIn(password=SECRET).async_().call()
        raised[:] = [lambda secret: ValueError("no")]
        name = "sk_live_51H8 x" + "y" * 200
        with isolated_runtime.runtime.store.database.engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE operation_records SET {column} = :name"), {"name": name})
            if column == "queue":
                connection.execute(sa.text("UPDATE dexpy_messages SET queue = :name"), {"name": name})
        declare_new_queues(isolated_runtime.runtime.dispatcher.transport)
        isolated_runtime.run_pending()

    assert "<key>" in caplog.text
    assert "sk_live_51H8" not in caplog.text
    # Names that this process has declared or generated itself are not redacted by the function.
    assert not {"secrets.log_in", ticket.id} & set(shown)


def test_s8_the_failure_of_a_redactor_hides_the_text_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(text: str) -> str:
        raise KeyError(text)

    caplog.set_level(logging.DEBUG)
    dexpy.configure(database=f"sqlite:///{tmp_path}/a.db", redactor=fail)
    with isolated() as isolated_runtime:
        LogIn(password=SECRET).async_().call()
        raised[:] = [lambda secret: ValueError("no")]
        isolated_runtime.run_pending()

    assert "redactor.failed error=KeyError" in caplog.text
    assert "operation=secrets.log_in" in caplog.text
