"""Values that a database does not accept are omitted or refused before the run, and no run is repeated for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa

import dexpy
from dexpy import Error, NotSerializable, Once, Operation, enqueue_all, prop, records
from dexpy.database.column_types import metadata
from dexpy.database.engine import Database
from dexpy.errors import ResultNotStored
from dexpy.runtime import current_runtime, install
from dexpy.testing import Isolated, isolated

TOO_LARGE = 18_000_000
"""More characters than the default max_allowed_packet of MariaDB."""

runs: list[str] = []


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    runs.clear()


class Export(Operation):
    size: int = TOO_LARGE

    def perform(self) -> str:
        runs.append(self.run_id)
        return "a" * self.size


class Deep(Operation):
    levels: int

    def perform(self) -> Any:
        runs.append(self.run_id)
        value: Any = 1
        for _ in range(self.levels):
            value = [value]
        return value


class DeepList(Operation):
    levels: int

    def perform(self) -> list[Any]:
        runs.append(self.run_id)
        value: list[Any] = []
        for _ in range(self.levels):
            value = [value]
        return value


class Import(Operation):
    rows: list[str] = prop(factory=list)

    def perform(self) -> int:
        runs.append(self.run_id)
        raise Error("bad_rows", details={"rows": ["x" * 300] * 90_000})


class Steps(Operation):
    def big(self) -> str:
        return "a" * TOO_LARGE

    def perform(self) -> None:
        runs.append(self.run_id)
        self.step(self.big)


class Keyed(Operation):
    key: str
    once = Once("key")

    def perform(self) -> str:
        runs.append(self.run_id)
        return "a" * TOO_LARGE


@pytest.mark.parametrize("kind", [Deep, DeepList])
@pytest.mark.parametrize("levels", [250, 5_000, 100_000])
def test_q12_a_run_whose_result_is_nested_too_deeply_is_done_without_a_stored_result(
    kind: Any, levels: int, isolated_runtime: Isolated
) -> None:
    ticket = kind(levels=levels).async_().call()
    isolated_runtime.run_pending()

    assert (ticket.reload().status, len(runs)) == ("done", 1)
    with pytest.raises(ResultNotStored, match="nested"):
        ticket.result(1)


def test_q12_a_call_returns_a_result_that_is_nested_too_deeply(isolated_runtime: Isolated) -> None:
    assert type(Deep(levels=5_000).call()) is list
    assert [record.status for record in records.all()] == ["done"]


class Report(Operation):
    done: Any = None

    def perform(self) -> None:
        self.report_progress(reported["done"], reported.get("total"))


reported: dict[str, Any] = {}


class Whole(int):
    def __repr__(self) -> str:
        raise RuntimeError("no")


NUMBERS: tuple[Any, ...] = (0, 7, 0.5, 10**18, 10**299, 1e299, 5e-324, Whole(3), True, -1, float("nan"))


def test_l14_accepted_progress_can_be_read_again(isolated_runtime: Isolated) -> None:
    for done, total in [*((done, None) for done in NUMBERS), (7, 10**250), (10**299, 5e-324), (0.5, Whole(3))]:
        reported.update(done=done, total=total)
        ticket = Report().async_().call()
        isolated_runtime.run_pending()
        ticket.reload()

        if type(done) is bool or not done >= 0:
            assert (ticket.status, ticket.progress) == ("failed", None)
        else:
            assert ticket.progress is not None
            assert (ticket.progress.done, ticket.progress.total) == (done, total)
            assert ticket.progress.fraction is None or 0 <= ticket.progress.fraction <= 1


@pytest.mark.parametrize("digits", [301, 4_301, 100_000])
def test_l14_a_number_with_too_many_digits_is_refused(digits: int, isolated_runtime: Isolated) -> None:
    reported.update(done=10**digits, total=None)
    ticket = Report().async_().call()
    isolated_runtime.run_pending()

    assert ticket.reload().status == "failed"
    assert records.get(ticket.id).error == "dexpy.errors.OptionsError"


class Kept(Operation):
    def perform(self) -> None: ...


REFUSING = {
    "at the statement": "",
    "at the commit": "DEFERRABLE INITIALLY DEFERRED",
}


def test_q9_the_longest_duration_is_accepted_as_the_age_of_a_record(isolated_runtime: Isolated) -> None:
    Kept().call()

    assert records.prune(older_than=timedelta.max) == 0
    assert records.prune(older_than=timedelta.max, dry_run=True) == 0


@pytest.mark.parametrize("batch", [1, 2, 3, 1000])
@pytest.mark.parametrize("when", list(REFUSING))
def test_l13_other_records_are_deleted_although_one_cannot_be_deleted(
    when: str, batch: int, isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    check_pruning(REFUSING[when], batch, caplog)


@pytest.mark.servers
@pytest.mark.parametrize(
    ("kind", "when"),
    [("postgresql", "at the statement"), ("postgresql", "at the commit"), ("mariadb", "at the statement")],
)
def test_l13_other_records_are_deleted_although_one_cannot_be_deleted_on_servers(
    kind: str, when: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with servers.database(kind, tmp_path) as url, isolated(database=url) as isolated_runtime:
        metadata.create_all(isolated_runtime.runtime.store.database.engine)
        check_pruning(REFUSING[when], 2, caplog)


def check_pruning(constraint: str, batch: int, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(7):
        Kept().call()
    ids = [record.id for record in records.all()]
    referred = [ids[0], ids[3], ids[6]]
    collation = " COLLATE utf8mb4_nopad_bin" if "mysql" in current_runtime().database_url else ""
    with current_runtime().store.begin() as connection:
        connection.execute(
            sa.text(
                f"CREATE TABLE invoices (run VARCHAR(40){collation} NOT NULL, "
                f"FOREIGN KEY (run) REFERENCES operation_records (id) {constraint})"
            )
        )
        for run in referred:
            connection.execute(sa.text("INSERT INTO invoices VALUES (:run)"), {"run": run})

    with caplog.at_level(logging.WARNING, "dexpy"):
        deleted = records.prune(older_than=timedelta(0), batch=batch)

    assert deleted == 4
    assert sorted(record.id for record in records.all()) == sorted(referred)
    assert "records.skipped count=3" in caplog.text
    with current_runtime().store.begin() as connection:
        connection.execute(sa.text("DROP TABLE invoices"))


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[Isolated]:
    with servers.database("mariadb", tmp_path) as url, isolated(database=url) as isolated_runtime:
        metadata.create_all(isolated_runtime.runtime.store.database.engine)
        yield isolated_runtime


@pytest.mark.servers
def test_n8_a_run_whose_result_is_too_large_is_done_without_a_stored_result(mariadb: Isolated) -> None:
    ticket = Export().async_().call()
    mariadb.run_pending()

    assert (ticket.reload().status, len(runs)) == ("done", 1)
    with pytest.raises(ResultNotStored, match="max_allowed_packet"):
        ticket.result(1)


@pytest.mark.servers
@pytest.mark.parametrize("levels", [31, 32, 100])
def test_n8_a_run_whose_result_is_too_deep_for_mariadb_is_done(levels: int, mariadb: Isolated) -> None:
    ticket = Deep(levels=levels).async_().call()
    mariadb.run_pending()

    assert (ticket.reload().status, len(runs)) == ("done", 1)


@pytest.mark.servers
def test_n8_details_that_are_too_large_are_left_out(mariadb: Isolated) -> None:
    ticket = Import().async_().call()
    mariadb.run_pending()

    assert (ticket.reload().status, ticket.failure, len(runs)) == ("failed", "business", 1)
    assert ticket.outcome is not None


@pytest.mark.servers
def test_n8_an_end_that_repeatedly_fails_like_an_outage_is_written_in_a_shorter_form(
    mariadb: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "why_too_large", lambda *_: None)
    ticket = Import().async_().call()
    mariadb.run_pending()

    assert (ticket.reload().status, ticket.failure, len(runs)) == ("failed", "business", 1)


@pytest.mark.servers
def test_n8_a_step_whose_result_is_too_large_ends_the_run(mariadb: Isolated) -> None:
    ticket = Steps().async_().call()
    mariadb.run_pending()

    assert (ticket.reload().status, len(runs)) == ("failed", 1)
    assert records.get(ticket.id).error == "dexpy.errors.StepError"


@pytest.mark.servers
def test_n8_a_prop_that_is_too_large_is_refused_at_the_enqueue(mariadb: Isolated) -> None:
    large = Import(rows=["x" * TOO_LARGE])

    with pytest.raises(NotSerializable, match="max_allowed_packet"):
        large.async_().call()
    with pytest.raises(NotSerializable):
        enqueue_all([Import(), large])

    assert records.all().count() == 0


class Send(Operation):
    record = False
    text: str

    def perform(self) -> None: ...


@pytest.mark.servers
@pytest.mark.parametrize("text", ["x" * TOO_LARGE, "'" * (TOO_LARGE // 2)], ids=["letters", "quotes"])
def test_n8_a_prop_that_is_too_large_for_a_message_is_refused_at_the_enqueue(text: str, mariadb: Isolated) -> None:
    for send in (lambda: Send(text=text).async_().call(), lambda: enqueue_all([Send(text=text)])):
        with pytest.raises(NotSerializable, match="max_allowed_packet"):
            send()

    assert mariadb.run_pending() == []


@pytest.mark.servers
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("wait", [None, timedelta(hours=1)], ids=["at once", "later"])
def test_n8_a_prop_that_is_too_large_for_a_stored_message_is_refused_beside_a_broker(
    broker: str, wait: timedelta | None, tmp_path: Path
) -> None:
    with servers.database("mariadb", tmp_path) as url, servers.broker(broker) as named:
        runtime = dexpy.configure(database=url, broker=named, create_tables=True)
        with pytest.raises(NotSerializable, match="max_allowed_packet"):
            Send(text="x" * TOO_LARGE).async_(in_=wait).call()
        Send(text="x").async_(in_=wait).call()
        install(None)
        runtime.close()


@pytest.mark.servers
def test_n8_calls_in_place_keep_their_records(mariadb: Isolated) -> None:
    with pytest.raises(Error):
        Import(rows=["x" * TOO_LARGE]).call()
    assert len(Export().call()) == TOO_LARGE
    assert len(Keyed(key="a").call()) == TOO_LARGE

    assert sorted(record.status for record in records.all()) == ["done", "done", "failed"]
