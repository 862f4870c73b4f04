"""Tables that the example applications share."""

from __future__ import annotations

import os
import threading
import time

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Model(DeclarativeBase):
    pass


class Customer(Model):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(50))


class Effect(Model):
    """An effect of a run, without a unique constraint, so that a duplicate run adds a second row."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(sa.String(200))
    run: Mapped[str] = mapped_column(sa.String(40))
    pid: Mapped[int]
    thread: Mapped[int] = mapped_column(sa.BigInteger)
    at: Mapped[float] = mapped_column(sa.Float(53))

    def __init__(self, what: str, run: str) -> None:
        super().__init__(what=what, run=run, pid=os.getpid(), thread=threading.get_ident(), at=time.time())
