"""The tables of the application: expected and actual effects.

A `Wish` is written in the transaction that enqueues an operation, so it exists exactly if that was committed.
An `Effect` is written by the run, in a table without a unique constraint.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ACCOUNTS = 5
"""The number of rows that the runs of `Pay` lock."""


class Model(DeclarativeBase):
    pass


class Wish(Model):
    """An enqueued operation, written in the same transaction.

    Attributes:
        expected: ``effect``, ``nothing`` for an expected failure, or ``either``.
        run: The id of its record.
        made_by: The pid of the producer, or of the worker whose run enqueued it.
    """

    __tablename__ = "chaos_wishes"

    # The column is not named "key", a reserved word of MariaDB.
    key: Mapped[str] = mapped_column("wish", sa.String(60), primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(20))
    expected: Mapped[str] = mapped_column(sa.String(10))
    run: Mapped[str] = mapped_column(sa.String(40))
    made_by: Mapped[int]


class Effect(Model):
    """An effect of a run."""

    __tablename__ = "chaos_effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column("wish", sa.String(60), index=True)
    run: Mapped[str] = mapped_column(sa.String(40))
    pid: Mapped[int]
    at: Mapped[float] = mapped_column(sa.Float(53))


class Account(Model):
    """An account that counts its payments."""

    __tablename__ = "chaos_accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]
