"""The models of a small shop, for the operations of these tests."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from dexpy.testing import Isolated


class Base(DeclarativeBase):
    """The base of the models."""


class Customer(Base):
    """A row whose primary key is an int."""

    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    balance: Mapped[int] = mapped_column(default=0)


class Country(Base):
    """A row whose primary key is a text."""

    __tablename__ = "countries"
    code: Mapped[str] = mapped_column(primary_key=True)


class Device(Base):
    """A row whose primary key is a UUID."""

    __tablename__ = "devices"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)


class Line(Base):
    """A row whose primary key has two columns."""

    __tablename__ = "lines"
    order: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(default="")


class Deferred(Base):
    """A row whose foreign key is checked at the commit."""

    __tablename__ = "deferred"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(
        sa.ForeignKey("customers.id", deferrable=True, initially="DEFERRED"),
    )


class Shop:
    """The tables of one test, in the database of its runtime."""

    def __init__(self, isolated_runtime: Isolated) -> None:
        self.isolated_runtime = isolated_runtime
        self.engine = isolated_runtime.runtime.store.database.engine
        self.sessions = sessionmaker(self.engine)
        Base.metadata.create_all(self.engine)

    def add(self, *rows: Any) -> None:
        """Insert rows and commit."""
        with self.sessions(expire_on_commit=False) as session:
            session.add_all(rows)
            session.commit()

    def session(self) -> Session:
        """Return a session of the application."""
        return self.sessions()

    def names(self) -> list[str]:
        """Return the names of all customers, sorted."""
        with self.sessions() as session:
            return sorted(session.scalars(sa.select(Customer.name)))

    def balance(self, key: int = 1) -> int:
        """Return the committed balance of a customer."""
        with self.sessions() as session:
            return session.get_one(Customer, key).balance

    @contextmanager
    def statements(self) -> Generator[list[str]]:
        """Collect the SQL statements of the block that use the application's tables."""
        statements: list[str] = []

        def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if any(table.name in statement for table in Base.metadata.sorted_tables):
                statements.append(statement)

        event.listen(self.engine, "before_cursor_execute", note)
        try:
            yield statements
        finally:
            event.remove(self.engine, "before_cursor_execute", note)
