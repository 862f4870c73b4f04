"""A query with hostile values finds nothing or is refused with an error of dexpy, on every database."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import servers

from dexpy import Operation, Ticket, deferrable, enqueue_all, records
from dexpy.deferred.deferral import defer
from dexpy.errors import OptionsError, RecordNotFound
from dexpy.testing import Isolated, isolated

ODD_TEXTS = ["a\0b", "\ud800", "x" * 100_000, "", "'; DROP TABLE x", "\U0010ffff"]
ODD_VALUES = [None, 5, 10**400, 1.5, b"a", ["a"], {"a": 1}]


class CountStock(Operation, name="odd.count_stock"):
    n: Any = 1
    item: str = ""

    def perform(self) -> None: ...


@deferrable(name="odd.note")
def note(text: str) -> None: ...


@pytest.fixture(
    params=[
        pytest.param("sqlite"),
        pytest.param("postgresql", marks=pytest.mark.servers),
        pytest.param("mariadb", marks=pytest.mark.servers),
    ]
)
def isolated_runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Isolated]:
    with servers.database(request.param, tmp_path) as url, isolated(database=url) as it:
        it.runtime.create_tables = True
        it.runtime.store.create_tables = True  # type: ignore[attr-defined]
        yield it


def test_s9_an_odd_id_matches_no_record(isolated_runtime: Isolated) -> None:
    CountStock().async_().call()
    for id in (*ODD_TEXTS, *ODD_VALUES):
        for ask in (records.get, records.steps, records.attempts, Ticket.get):
            with pytest.raises(RecordNotFound) as refused:
                ask(id)  # type: ignore[operator]
            assert len(str(refused.value)) < 500
            str(refused.value).encode()


def test_s9_odd_text_in_a_filter_matches_nothing(isolated_runtime: Isolated) -> None:
    CountStock(item="x").async_().call()
    for text in ODD_TEXTS:
        for name in ("operation", "queue", "error", "trace", "parent"):
            assert records.where(**{name: text}).count() == 0
        assert records.where(actor=text).count() == records.for_actor({"type": "user", "id": text}).count() == 0
        assert records.tree(text).roots == ()
        if text:
            assert records.where(params={"item": text}).count() == 0
            assert records.where(operation="odd.count_stock", params={"item": text}).count() == 0


def test_s9_a_filter_of_another_type_is_refused(isolated_runtime: Isolated) -> None:
    CountStock().async_().call()
    for value in (5, 10**400, 1.5, b"a"):
        for name in ("operation", "queue", "error", "trace", "parent", "status", "failure", "actor", "since", "params"):
            with pytest.raises(OptionsError):
                records.where(**{name: value})
    for count in (10**400, -(10**10), 1.5, True, "1", None):
        if count is not None:
            with pytest.raises(OptionsError):
                records.where(min_attempts=count)  # type: ignore[arg-type]
            with pytest.raises(OptionsError):
                records.where(max_attempts=count)  # type: ignore[arg-type]
    for after in ("a\0b", "\ud800", 5, b"a"):
        with pytest.raises(OptionsError, match="expected the `next` of the previous page"):
            records.all().page(after=after)  # type: ignore[arg-type]
    for word in ("a\0b", "\ud800" * 10_000, 7, None):
        with pytest.raises(OptionsError) as refused:
            records.where(status=[word])  # type: ignore[list-item]
        str(refused.value).encode()


def test_s9_datetimes_and_numbers_out_of_range_raise_no_driver_error(isolated_runtime: Isolated) -> None:
    CountStock(n=5).async_().call()
    far = dt.datetime.max.replace(tzinfo=ZoneInfo("America/New_York"))
    early = dt.datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo"))
    for moment in (far, early, dt.timedelta.max, dt.timedelta.min, dt.datetime.now()):
        with pytest.raises(OptionsError):
            records.where(since=moment)
    assert records.where(since=dt.timedelta(days=300 * 365)).count() == 1
    assert records.all().limit(10**30).count() == 1
    assert len(records.all().page(10**30).records) == 1
    for number in (10**400, -(2**63) - 1, 1e300, math.inf, math.nan):
        assert records.where(params={"n": number}).count() == 0
    assert records.where(params={"n": 2**63 - 1}).count() == 0


def test_s9_a_number_is_found_beside_texts_and_large_numbers_under_the_same_name(isolated_runtime: Isolated) -> None:
    for value in ("abc", 5, 2**40, 1.5, True, None, "5x"):
        CountStock(n=value).async_().call()

    assert records.where(params={"n": 5}).count() == 1
    assert records.where(params={"n": 2**40}).count() == 1
    assert records.where(params={"n": 1.5}).count() == 1
    assert records.where(params={"n": "abc"}).count() == 1


# --------------------------------------------------------------------------------------- datetimes and tokens


def by_call(**options: Any) -> None:
    CountStock().async_(**options).call()


def by_batch(**options: Any) -> None:
    enqueue_all([CountStock()], **options)


def by_deferral(**options: Any) -> None:
    defer.with_options(at=options["at"])(note, text="x")


def by_ticket(**options: Any) -> None:
    CountStock().async_(in_=60).call().reschedule(at=options["at"])


@pytest.fixture
def on_sqlite() -> Generator[Isolated]:
    with isolated() as it:
        yield it


@pytest.mark.parametrize("enqueue", [by_call, by_batch, by_deferral, by_ticket])
@pytest.mark.parametrize(
    "moment",
    [
        dt.datetime.max.replace(tzinfo=ZoneInfo("America/New_York")),
        dt.datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")),
        dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=1))),
    ],
    ids=["late", "early", "fixed offset"],
)
def test_q9_a_datetime_that_is_out_of_range_in_utc_is_refused(
    on_sqlite: Isolated, enqueue: Callable[..., None], moment: dt.datetime
) -> None:
    with pytest.raises(OptionsError, match="expected a datetime within the years 1 to 9999 in UTC"):
        enqueue(at=moment)


@pytest.mark.parametrize("token", ["x\ud800", "x\0", "", "x" * 256, 5, b"x"], ids=ascii)
def test_q10_a_token_that_no_database_stores_is_refused(on_sqlite: Isolated, token: Any) -> None:
    with pytest.raises(OptionsError, match="idempotence_token: expected") as refused:
        CountStock().async_(idempotence_token=token).call()
    with pytest.raises(OptionsError, match="idempotence_token: expected"):
        defer(note, text="x", idempotence_token=token)
    str(refused.value).encode()
    assert records.all().count() == 0
