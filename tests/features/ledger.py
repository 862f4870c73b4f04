"""Operations that write a line into a ledger and end in different ways."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from dexpy import Error, Operation, records

from .shop import Base, Shop


class Entry(Base):
    """One line of the ledger."""

    __tablename__ = "ledger_entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


def lines(shop: Shop) -> list[str]:
    """Return the committed lines, sorted."""
    with shop.sessions() as session:
        return sorted(session.scalars(sa.select(Entry.text)))


def only(operation: type[Operation] | str | None = None) -> Any:
    """Return the only record, or the only record of an operation."""
    query = records.all() if operation is None else records.where(operation=operation)
    rows = list(query)
    assert len(rows) == 1, rows
    return rows[0]


def statuses() -> dict[str, tuple[str, str | None]]:
    """Return the status and failure of each record, by the last part of its operation's name."""
    return {each.operation.rpartition(".")[2]: (each.status, each.failure) for each in records.all()}


def count_in_own_transaction() -> int:
    """Return the number of lines that another session finds, which reads only committed rows."""
    from dexpy import current_runtime

    with Session(current_runtime().store.database.engine) as session:
        return session.scalars(sa.select(sa.func.count()).select_from(Entry)).one()


class Write(Operation):
    """Writes a line."""

    text: str

    def perform(self) -> str:
        self.session.add(Entry(text=self.text))
        return self.text


class Refuse(Operation):
    """Writes a line, and raises a business error."""

    text: str

    def perform(self) -> None:
        self.session.add(Entry(text=self.text))
        self.session.flush()
        raise Error("refused", "Not today", details={"text": self.text})


class Crash(Operation):
    """Writes a line, and crashes."""

    text: str

    def perform(self) -> None:
        self.session.add(Entry(text=self.text))
        self.session.flush()
        raise RuntimeError(f"cannot write {self.text}")


class Quiet(Operation):
    """Uses no session."""

    def perform(self) -> int:
        return 7


class WriteAsync(Operation):
    """Writes a line from a coroutine."""

    text: str

    async def perform(self) -> str:
        def write(session: Session) -> None:
            session.add(Entry(text=self.text))
            session.flush()

        await self.in_session(write)
        return self.text


class RefuseAsync(Operation):
    """Writes a line from a coroutine, and raises a business error."""

    text: str

    async def perform(self) -> None:
        await WriteAsync(text=self.text).acall()
        raise Error("refused", "Not today")


class CrashAsync(Operation):
    """Writes a line from a coroutine, and crashes."""

    text: str

    async def perform(self) -> None:
        await WriteAsync(text=self.text).acall()
        raise RuntimeError("broken")
