"""The application's tables, which say what should have been done and what was.

A `Wish` is written in the transaction that enqueues an operation: it is there exactly if that was committed, and is the
truth of what has to be done. An `Effect` is written by the run, in a table where nothing keeps a second one out.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ACCOUNTS = 5
"""So many rows do all the runs of `Pay` lock in turn."""


class Model(DeclarativeBase):
    pass


class Wish(Model):
    """What was asked for, in the transaction that asked for it.

    Attributes:
        expected: ``effect``, ``nothing`` for what fails as meant, or ``either``.
        run: The id of its record.
        made_by: The pid of the producer, or of the worker whose run enqueued it.
    """

    __tablename__ = "chaos_wishes"

    # Not "key": MariaDB has that word for itself.
    key: Mapped[str] = mapped_column("wish", sa.String(60), primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(20))
    expected: Mapped[str] = mapped_column(sa.String(10))
    run: Mapped[str] = mapped_column(sa.String(40))
    made_by: Mapped[int]


class Effect(Model):
    """What a run has done."""

    __tablename__ = "chaos_effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column("wish", sa.String(60), index=True)
    run: Mapped[str] = mapped_column(sa.String(40))
    pid: Mapped[int]
    at: Mapped[float] = mapped_column(sa.Float(53))


class Account(Model):
    """Counts what was paid into it."""

    __tablename__ = "chaos_accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]
