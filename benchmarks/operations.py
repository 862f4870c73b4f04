"""What is measured: operations that do nothing, or one write."""

from __future__ import annotations

import os

import sqlalchemy as sa

import dexpy
from benchmarks.meter import Report, meter
from dexpy import Operation

metadata = sa.MetaData()
effects = sa.Table(
    "bench_effects", metadata, sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("n", sa.Integer)
)

if "BENCH_DATABASE" in os.environ:
    runtime = dexpy.configure(database=os.environ["BENCH_DATABASE"], broker=os.environ["BENCH_BROKER"])
    runtime.broker.add_middleware(Report())


class Recorded(Operation):
    """Recorded, and never touches the session."""

    number: int

    def perform(self) -> None:
        """Do nothing."""
        meter.tick()


class Writing(Operation):
    """Recorded, with one write in its session."""

    number: int

    def perform(self) -> None:
        """Write one row."""
        self.session.execute(sa.insert(effects).values(n=self.number))
        meter.tick()


class Direct(Operation):
    """Not recorded: the message carries the params."""

    number: int
    record = False

    def perform(self) -> None:
        """Do nothing."""
        meter.tick()
