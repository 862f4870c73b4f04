"""``make bench-quick``: enqueue and drain on PostgreSQL and Redis, beside raw psycopg and raw Dramatiq, interleaved.

Prints a table with the ratio first. Compare ratios: the variants ran interleaved on one machine.
Servers: ``DEXPY_TEST_POSTGRES`` and ``DEXPY_TEST_REDIS``, else the usual local addresses.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import redis
import sqlalchemy as sa

from benchmarks.meter import FOLDER, Drain

HOME = Path(__file__).parents[1]
POSTGRES = os.environ.get("DEXPY_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1/postgres")
REDIS = os.environ.get("DEXPY_TEST_REDIS", "redis://127.0.0.1:6379/0")
LONGEST_S = 165.0
"""The time limit in seconds: no round of drains starts that would exceed it, so a busy machine runs fewer."""


class Bench:
    """One benchmark run with a separate database and namespace."""

    def __init__(self, rounds: int, enqueues: int, jobs: int) -> None:
        self.rounds, self.enqueues, self.jobs = rounds, enqueues, jobs
        self.began = time.monotonic()
        self.drained = 0
        self.name = f"dexpy_bench_{uuid4().hex[:8]}"
        self.database = sa.make_url(POSTGRES).set(database=self.name).render_as_string(hide_password=False)
        self.broker = f"{REDIS}?namespace={self.name}"
        self.environment = os.environ | {
            "BENCH_REDIS": REDIS,
            "BENCH_NAMESPACE": self.name,
            "BENCH_DATABASE": self.database,
            "BENCH_BROKER": self.broker,
            "PYTHONPATH": str(HOME),
        }

    def __enter__(self) -> Bench:
        self._admin(f'CREATE DATABASE "{self.name}"')
        os.environ.update(self.environment)
        import benchmarks.operations as operations
        from dexpy.database import schema

        self.operations: Any = operations
        with operations.runtime.store.database.begin() as connection:
            schema.create(connection)
            operations.metadata.create_all(connection)
        return self

    def __exit__(self, *_: object) -> None:
        self.operations.runtime.close()
        self._admin(f'DROP DATABASE "{self.name}" WITH (FORCE)')
        client = redis.Redis.from_url(REDIS)
        for key in client.scan_iter(f"{self.name}*"):
            client.delete(key)

    def _admin(self, statement: str) -> None:
        engine = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()

    def enqueue(self) -> dict[str, float]:
        """Return the microseconds of one enqueue for each variant, as the median over all rounds."""
        import benchmarks.raw as raw

        url = sa.make_url(self.database)
        connection = psycopg.connect(
            host=url.host, port=url.port, user=url.username, password=url.password, dbname=self.name, autocommit=True
        )
        columns = "id, operation, params, status, queue, priority, trace_id, enqueued_at, created_at, updated_at"
        insert = (
            f"INSERT INTO operation_records ({columns}) "  # noqa: S608 - fixed names
            "VALUES (%s, 'bench', %s, 'pending', 'raw', 0, 'tr', now(), now(), now())"
        )

        def bare(number: int) -> None:
            connection.execute(insert, (uuid4().hex, json.dumps({"number": number})))
            raw.nothing.send(number)

        ways: dict[str, Callable[[int], Any]] = {
            "raw psycopg insert + raw Dramatiq send": bare,
            "async_().call(), recorded": lambda number: self.operations.Recorded(number=number).async_().call(),
            "raw Dramatiq send": raw.nothing.send,
            "async_().call(), direct": lambda number: self.operations.Direct(number=number).async_().call(),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for round_number in range(self.rounds + 1):
            for way, do in ways.items():
                began = time.perf_counter()
                for number in range(self.enqueues):
                    do(number)
                if round_number:
                    times[way].append((time.perf_counter() - began) / self.enqueues * 1e6)
        connection.close()
        self._empty()
        return {way: statistics.median(samples) for way, samples in times.items()}

    def _empty(self) -> None:
        client = redis.Redis.from_url(REDIS)
        for key in client.scan_iter(f"{self.name}*"):
            client.delete(key)
        with self.operations.runtime.store.database.begin() as connection:
            connection.exec_driver_sql("TRUNCATE operation_records, bench_effects")

    def drain(self) -> dict[str, Drain]:
        """The median drain over all rounds, for each way."""
        import benchmarks.raw as raw

        dexpy_worker = [sys.executable, "-m", "dexpy", "worker", "benchmarks.operations", "-p", "2", "-t", "4"]
        raw_worker = [sys.executable, "-m", "dramatiq", "benchmarks.raw", "-p", "2", "-t", "4"]
        ways: dict[str, tuple[Callable[[int], Any], list[str], dict[str, str]]] = {
            "raw Dramatiq, as it comes": (raw.nothing.send, raw_worker, {}),
            "raw Dramatiq, prefetch 64": (raw.nothing.send, raw_worker, {"dramatiq_queue_prefetch": "64"}),
            "recorded, one write": (lambda n: self.operations.Writing(number=n).async_().call(), dexpy_worker, {}),
            "recorded, no write": (lambda n: self.operations.Recorded(number=n).async_().call(), dexpy_worker, {}),
            "direct": (lambda n: self.operations.Direct(number=n).async_().call(), dexpy_worker, {}),
        }
        drains_by_way: dict[str, list[Drain]] = {way: [] for way in ways}
        longest_s = 0.0
        while self.drained < self.rounds and time.monotonic() + longest_s < self.began + LONGEST_S:
            began = time.monotonic()
            for way, (send, command, extra) in ways.items():
                for number in range(self.jobs):
                    send(number)
                drains_by_way[way].append(self._run(command, extra))
                self._empty()
            self.drained += 1
            longest_s = max(longest_s, time.monotonic() - began)
        return {
            way: sorted(drains, key=lambda drain: drain.rate)[len(drains) // 2] for way, drains in drains_by_way.items()
        }

    def _run(self, command: list[str], extra: dict[str, str]) -> Drain:
        with tempfile.TemporaryDirectory() as folder:
            environment = self.environment | extra | {FOLDER: folder}
            log_file = Path(folder, "said.txt")
            with log_file.open("w") as log:
                worker = subprocess.Popen(command, env=environment, cwd=HOME, stderr=log)
                try:
                    self._await_empty(worker)
                finally:
                    worker.send_signal(signal.SIGTERM)
                    worker.wait(timeout=60)
            drain, output = Drain.read(Path(folder)), log_file.read_text()[-2000:]
        if drain.jobs != self.jobs:
            raise SystemExit(f"{drain.jobs} of {self.jobs} jobs ran in: {' '.join(command)}\n{output}")
        return drain

    def _await_empty(self, worker: subprocess.Popen[bytes]) -> None:
        client = redis.Redis.from_url(REDIS)
        deadline = time.monotonic() + 120
        while client.hlen(f"{self.name}:default.msgs"):
            if time.monotonic() > deadline or worker.poll() is not None:
                return
            time.sleep(0.05)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--enqueues", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1500)
    options = parser.parse_args()
    with Bench(options.rounds, options.enqueues, options.jobs) as bench:
        enqueue, drain = bench.enqueue(), bench.drain()
    print("\nEnqueue, one process, PostgreSQL + Redis\n")
    print(f"{'ratio':>7} {'µs':>8}  what")
    references = list(enqueue)[::2]
    for index, (way, micros) in enumerate(enqueue.items()):
        print(f"{micros / enqueue[references[index // 2]]:>7.2f} {micros:>8.0f}  {way}")
    print("\nDrain, 2 processes x 4 threads; ratios against raw Dramatiq as it comes\n")
    print(f"{'ratio':>7} {'jobs/s':>8} {'CPU ratio':>10} {'CPU s/10k':>10}  what")
    reference = drain["raw Dramatiq, as it comes"]
    for way, one in drain.items():
        ratio, cpu = one.rate / reference.rate, one.cpu_per_10k / reference.cpu_per_10k
        print(f"{ratio:>7.2f} {one.rate:>8.0f} {cpu:>10.2f} {one.cpu_per_10k:>10.2f}  {way}")
    took_s, load = time.monotonic() - bench.began, os.getloadavg()[0]
    rounds = f"{options.rounds} rounds of {options.enqueues} enqueues and {bench.drained} of {options.jobs} jobs"
    print(f"\nMedians of {rounds};")
    print(f"{took_s:.0f} s, at a load of {load:.1f} on {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
