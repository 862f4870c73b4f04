"""Secrets are redacted in texts about failures."""

from __future__ import annotations

import json
from decimal import Decimal
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from dexpy.foundation.redaction import MAX_LENGTH, Redactor, class_path, frames_of, message_of

SECRET = 'pä"ss\nword/1'


@pytest.mark.parametrize(
    "form", [SECRET, repr(SECRET), json.dumps(SECRET), quote(SECRET), quote(SECRET, safe="")], ids=lambda form: form[:6]
)
def test_a_secret_is_redacted_in_every_written_form(form: str) -> None:
    redactor = Redactor().knowing([SECRET])

    assert redactor(f"could not log in with {form}!").count("<sensitive>") == 1
    assert "word" not in redactor(f"could not log in with {form}!")


def test_values_inside_containers_are_secret_too() -> None:
    redactor = Redactor().knowing([{"card": ["4111", {"pin": 1234}]}, Decimal("9.75"), None, True])

    assert redactor("4111 with 1234 pays 9.75, True or None") == (
        "<sensitive> with <sensitive> pays <sensitive>, True or None"
    )


def test_the_longer_secret_is_redacted_first() -> None:
    assert Redactor().knowing(["abc", "abcdef"])("abcdef") == "<sensitive>"


def test_the_redactor_of_the_application_runs_last() -> None:
    assert Redactor(custom=lambda text: text.replace("4111", "XXXX"))("card 4111") == "card XXXX"


def test_a_long_text_is_cut() -> None:
    assert len(Redactor()("x" * (MAX_LENGTH + 10))) == MAX_LENGTH


def test_a_database_error_keeps_neither_statement_nor_parameters() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError) as failed:
        connection.execute(sa.text("SELECT * FROM nowhere WHERE token = :token"), {"token": "s3cr3t"})
    engine.dispose()

    assert message_of(failed.value) == "no such table: nowhere"


def test_an_exception_that_cannot_be_printed_is_still_reported() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert message_of(Mute()) == "<Mute cannot be printed>"


def test_a_class_path_is_importable() -> None:
    assert class_path(ConnectionError()) == "ConnectionError"
    assert class_path(json.JSONDecodeError) == "json.decoder.JSONDecodeError"


def test_a_traceback_has_source_lines_and_no_values() -> None:
    password = "hunter2"
    try:
        raise ValueError(password)
    except ValueError as error:
        text = frames_of(error)

    assert text.startswith(__file__)
    assert "hunter2" not in text
