"""The progress of a record is the last report of its run, in records and tickets of any query."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from dexpy import Once, Operation, Ticket, records
from dexpy.recording.progress import Progress
from dexpy.testing import Isolated


class Resize(Operation, name="progress.resize"):
    images: int = 3
    fails: bool = False

    def perform(self) -> int:
        self.report_progress(self.images, 4, "c.png")
        if self.fails:
            raise ValueError("broken image")
        return self.images


class ResizeOnce(Resize, name="progress.resize_once"):
    once = Once("images")


class Silent(Operation, name="progress.silent"):
    def perform(self) -> None: ...


def as_tuple(progress: Progress | None) -> Any:
    return None if progress is None else (progress.done, progress.total, progress.note)


@pytest.fixture
def ticket(isolated_runtime: Isolated) -> Ticket[int]:
    enqueued = Resize().async_().call()
    isolated_runtime.run_pending()
    return enqueued


@contextmanager
def counted(isolated_runtime: Isolated) -> Generator[list[str]]:
    """Collect the SQL statements that are executed in the block."""
    statements: list[str] = []
    engine = isolated_runtime.runtime.store.database.engine

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


WAYS: dict[str, Callable[[str], Progress | None]] = {
    "get": lambda id: records.get(id).ticket.progress,
    "get, of the record": lambda id: records.get(id).progress,
    "first": lambda id: _of(records.all().first()),
    "iterating": lambda id: next(iter(records.where(operation=Resize))).ticket.progress,
    "a list": lambda id: [*records.where(status="done").newest_first().limit(5)].pop().progress,
    "a page": lambda id: records.done().page(10).records[0].ticket.progress,
    "a ticket by id": lambda id: Ticket.get(id).progress,
    "reload": lambda id: records.get(id).ticket.reload().progress,
    "waiting": lambda id: _waited(id),
}


def _of(record: records.Record | None) -> Progress | None:
    assert record is not None
    return record.ticket.progress


def _waited(id: str) -> Progress | None:
    ticket = Ticket.get(id)
    ticket.wait(timeout=5)
    return ticket.progress


@pytest.mark.parametrize("way", WAYS)
def test_d4_a_loaded_record_has_its_progress(ticket: Ticket[int], way: str) -> None:
    assert as_tuple(WAYS[way](ticket.id)) == (3, 4, "c.png")


def test_d4_a_list_of_records_takes_one_query(isolated_runtime: Isolated) -> None:
    for images in range(1, 4):
        Resize(images=images).async_().call()
    Silent().async_().call()
    isolated_runtime.run_pending()

    with counted(isolated_runtime) as statements:
        shown = [as_tuple(record.ticket.progress) for record in records.all()]
        page = [as_tuple(record.progress) for record in records.all().page(10).records]

    assert shown == page == [(1, 4, "c.png"), (2, 4, "c.png"), (3, 4, "c.png"), None]
    assert len(statements) == 2


def test_d4_the_ticket_of_an_earlier_run_has_its_progress(isolated_runtime: Isolated) -> None:
    ResizeOnce().async_().call()
    isolated_runtime.run_pending()

    again = ResizeOnce().async_().call()

    assert again.duplicate
    assert as_tuple(again.progress) == (3, 4, "c.png")


def test_d4_transitions_keep_the_progress_of_a_record_and_a_retry_deletes_it(isolated_runtime: Isolated) -> None:
    ticket = Resize(fails=True).async_().call()
    isolated_runtime.run_pending()
    record = records.get(ticket.id)
    assert (record.status, as_tuple(record.progress)) == ("failed", (3, 4, "c.png"))

    again = record.retry()

    assert (again.status, again.progress) == ("pending", None)
    assert again.ticket.perform()
    assert as_tuple(again.ticket.reload().progress) == (3, 4, "c.png")


def test_d4_missing_progress_is_none_without_another_query(isolated_runtime: Isolated) -> None:
    with counted(isolated_runtime) as statements:
        ticket = Silent().async_().call()
        before = len(statements)
        assert ticket.progress is None
        assert len(statements) == before


def test_d4_the_underlying_select_is_unchanged(ticket: Ticket[int]) -> None:
    assert "progress" not in records.all().select().selected_columns
