"""Redis beyond one healthy server: Sentinels with a failover, replicas, clusters, full memory and failed snapshots."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from apps.shop import Count, DirectCount
from harness.own_servers import OwnRedis, free_port, redis_server, sentinel
from harness.pairs import Pair
from harness.workers import eventually

import dexpy
from dexpy.brokers.urls import broker_from_url, display_of
from dexpy.database.tables import records
from dexpy.errors import BrokerUnavailable, ConfigurationError
from dexpy.runtime import install
from dexpy.worker.startup import wait_for_broker

WAIT_S = 40.0


@contextlib.contextmanager
def pair_on(folder: Path, broker: str) -> Generator[Pair]:
    """Yield a pair of a SQLite file and a broker."""
    pair = Pair(folder, f"sqlite:///{folder / 'records.db'}", broker)
    try:
        pair.create_tables()
        pair.variables = {"DEXPY_RECOVER_WITHIN": "5s"}
        pair.configure()
        yield pair
        pair.end()
    finally:
        pair.close()
        install(None)


def assert_each_ran_once(pair: Pair, total: int) -> None:
    unfinished = sa.select(sa.func.count()).where(records.c.status != "done")
    eventually(lambda: pair.sql(unfinished) == [(0,)], "all operations are done", WAIT_S, pair.output)
    assert Counter(pair.effects()) == Counter(f"count {number}" for number in range(total))
    assert set(pair.sql(sa.select(records.c.num_lost))) == {(0,)}


def replicates(replica: OwnRedis) -> bool:
    return bool(replica.client.info("replication").get("master_link_status") == "up")


def test_a_failover_by_sentinels_in_the_middle_of_a_load_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with redis_server(tmp_path / "primary") as primary, redis_server(tmp_path / "replica") as replica:
        replica.client.replicaof("127.0.0.1", primary.port)
        eventually(lambda: replicates(replica), "the replica is connected", WAIT_S)
        with sentinel(tmp_path / "sentinel", primary) as watcher:
            find = ("SENTINEL", "REPLICAS", "mymaster")
            eventually(lambda: watcher.client.execute_command(*find), "the Sentinel knows the replica", WAIT_S)
            # The first Sentinel does not answer, so that the second one is asked.
            sentinels = f"127.0.0.1:{free_port()},127.0.0.1:{watcher.port}"
            with pair_on(tmp_path, f"redis+sentinel://{sentinels}/mymaster/0?namespace=own") as pair:
                worker = pair.start(processes=2, threads=2)
                for number in range(60):
                    Count(number=number, seconds=0.05).async_().call()
                eventually(lambda: len(pair.effects()) > 10, "some operations have run", WAIT_S, pair.output)

                primary.kill()
                for number in range(60, 80):
                    Count(number=number, seconds=0.05).async_().call()

                assert_each_ran_once(pair, 80)
                assert replica.client.role()[0] == b"master"
                Count(number=80).async_().call().result(WAIT_S)
                assert worker.process.poll() is None


def test_the_error_of_sentinels_without_a_primary_has_no_password() -> None:
    url = f"redis+sentinel://shop:hush1@127.0.0.1:{free_port()}/mymaster/0?sentinel_password=hush2"
    broker: Any = broker_from_url(url)

    with pytest.raises(redis.ConnectionError, match="no Sentinel knows an available primary 'mymaster'") as refused:
        broker.do_qsize("default")

    assert "hush" not in f"{refused.value!r}{refused.value.__context__}{refused.value.__cause__}{display_of(broker)}"


def test_a_url_of_a_redis_cluster_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://host/0: .*got a Redis Cluster.*redis\+sentinel"):
        dexpy.configure(database=f"sqlite:///{tmp_path / 'a.db'}", broker="redis+cluster://:secret@host/0")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_refuses_a_node_of_a_redis_cluster_with_the_reason(tmp_path: Path) -> None:
    with redis_server(tmp_path / "node", "--cluster-enabled", "yes") as node:
        node.client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: node.client.cluster("info")["cluster_state"] == "ok", "the cluster is up", WAIT_S)

        with pytest.raises(ConfigurationError, match=f"Redis at 127.0.0.1:{node.port}: .*got a Redis Cluster"):
            wait_for_broker(broker_from_url(node.url))

        # A node that does not have the queue's keys.
        node.client.execute_command("CLUSTER DELSLOTSRANGE", 0, 16383)
        with pytest.raises(ConfigurationError, match="got a Redis Cluster"):
            wait_for_broker(broker_from_url(node.url))


# -------------------------------------------------------------------------------- a server that accepts no writes


def fail_snapshots(server: OwnRedis, folder: Path) -> None:
    """Make each snapshot fail: a folder has the name of its file."""
    (folder / "dump.rdb").mkdir()
    server.client.config_set("save", "3600 1")
    server.client.bgsave()
    eventually(lambda: server.client.info("persistence")["rdb_last_bgsave_status"] == "err", "a snapshot fails", WAIT_S)


def allow_snapshots(server: OwnRedis, folder: Path) -> None:
    (folder / "dump.rdb").rmdir()
    server.client.config_set("save", "")


CONDITIONS: dict[str, tuple[Callable[[OwnRedis, Path], Any], Callable[[OwnRedis, Path], Any]]] = {
    "a failed snapshot": (fail_snapshots, allow_snapshots),
    "full memory": (
        lambda server, folder: server.client.config_set("maxmemory", 1),
        lambda server, folder: server.client.config_set("maxmemory", 0),
    ),
    "a replica": (
        lambda server, folder: server.client.replicaof("127.0.0.1", free_port()),
        lambda server, folder: server.client.replicaof("NO", "ONE"),
    ),
}
"""What makes Redis refuse writes, and what ends it."""


def test_a_redis_that_refuses_writes_for_a_while_loses_and_repeats_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    with redis_server(folder) as server, pair_on(tmp_path, f"{server.url}?namespace=own") as pair:
        pair.variables |= {"dramatiq_restart_delay": "200"}
        worker = pair.start(threads=2)
        total = 0
        for name, (begin, end) in CONDITIONS.items():
            running = Count(number=total, seconds=1.5).async_().call()
            pair.wait_for_status(running.id, "running", within_s=WAIT_S)

            begin(server, folder)
            with pytest.raises(redis.ResponseError):
                server.client.set("refused", "by the server")
            # Each enqueue stores its record; the broker refuses the message.
            for number in range(total + 1, total + 4):
                Count(number=number).async_().call()
            # Its end is written, although the message cannot be acknowledged.
            pair.wait_for_status(running.id, "done", within_s=WAIT_S)
            end(server, folder)

            total += 4
            assert_each_ran_once(pair, total)
            eventually(lambda: not pair.queued("default"), f"no message is left after {name}", WAIT_S, pair.output)
        assert worker.process.poll() is None


def test_an_enqueue_without_a_database_raises_one_error_while_redis_refuses_writes(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server:
        runtime = dexpy.configure(broker=server.url)
        try:
            server.client.config_set("maxmemory", 1)
            with pytest.raises(BrokerUnavailable, match="has not accepted the message: OutOfMemoryError: .*database"):
                Count(number=1).async_().call()
            server.client.config_set("maxmemory", 0)
            Count(number=1).async_().call()
            server.kill()
            with pytest.raises(BrokerUnavailable, match="has not accepted the message: ConnectionError: .*database"):
                Count(number=1).async_().call()
        finally:
            runtime.close()
            install(None)


# -------------------------------------------------------------------------------------------------- long runs


def test_a_direct_run_longer_than_the_heartbeat_timeout_runs_once(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as server, pair_on(tmp_path, f"{server.url}?namespace=own") as pair:
        # A process without a heartbeat is dead for the other one after half of `recover_within`, 2.5 s.
        pair.start(processes=2, threads=1)
        for number in range(2):
            DirectCount(number=number, seconds=6.0).async_().call()
        eventually(lambda: len(pair.effects()) >= 2, "both have run", WAIT_S, pair.output)
        eventually(lambda: not pair.queued("default"), "no message is left", WAIT_S, pair.output)
        assert Counter(pair.effects()) == Counter(["count 0", "count 1"])
