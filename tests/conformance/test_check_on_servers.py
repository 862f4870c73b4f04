"""Workers and ``dexpy check`` on servers: a refusal is a single error, an outage is awaited, limits are reported."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from apps.shop import Count, Greet
from harness import strict_servers
from harness.pairs import Pair, open_pair
from harness.proxy import Proxy
from harness.workers import eventually

from dexpy.brokers.redis_urls import TIMEOUT_S as REDIS_TIMEOUT_S
from dexpy.brokers.server_check import check_reachable
from dexpy.brokers.urls import broker_from_url
from dexpy.database.server_info import SKEW_S
from dexpy.foundation.errors import ConfigurationError
from dexpy.runtime import install
from dexpy.worker.startup import OWN_CONNECTIONS

WAIT_S = 40.0
POLL_S = 0.05
SECRET = "s3cret-pass"


@pytest.fixture
def bare_pair(tmp_path: Path) -> Generator[Pair]:
    """Yield a pair on a SQLite file; tests replace the URL of its database or broker."""
    pair = Pair(tmp_path, f"sqlite:///{tmp_path / 'records.db'}", None)
    yield pair
    pair.close()
    install(None)


@pytest.fixture
def stack() -> Generator[ExitStack]:
    """Yield a stack that closes the servers of a test."""
    with ExitStack() as exit_stack:
        yield exit_stack


def url_of(server: str, **parts: Any) -> str:
    return sa.make_url(servers.need(server)).set(**parts).render_as_string(hide_password=False)


def assert_single_error(bare_pair: Pair, status: int, command: list[str], expected: list[str]) -> None:
    """Run a command, and assert its exit status and that its output is a single error with the expected texts."""
    ended = bare_pair.dexpy(*command)
    everything = ended.stderr + ended.stdout
    error_lines = [line for line in everything.splitlines() if line.startswith(("Error:", "FAIL"))]
    assert ended.returncode == status, (command, everything)
    assert len(error_lines) == 1, (command, everything)
    for words in expected:
        assert words in error_lines[0], (command, error_lines)
    assert "Traceback" not in everything
    assert SECRET not in everything
    assert strict_servers.PASSWORD not in everything


# ------------------------------------------------------------------------------------------------- brokers that refuse

Opens = Callable[[ExitStack, Path], str]


def tls_to_redis_without_tls(_stack: ExitStack, _folder: Path) -> str:
    return servers.need("redis").replace("redis://", "rediss://")


def tls_to_redis_without_tls_with_password(stack: ExitStack, _folder: Path) -> str:
    return f"rediss://:{SECRET}@127.0.0.1:{stack.enter_context(strict_servers.redis())}/0"


def tls_to_rabbitmq_without_tls(_stack: ExitStack, _folder: Path) -> str:
    return servers.need("rabbitmq").replace("amqp://", "amqps://")


def no_tls_to_redis_with_tls(stack: ExitStack, folder: Path) -> str:
    port = stack.enter_context(strict_servers.redis_with_tls(strict_servers.Certificate.make(folder)))
    return f"redis://:{SECRET}@127.0.0.1:{port}/0"


def no_tls_to_a_rabbitmq_port_with_tls(stack: ExitStack, folder: Path) -> str:
    port = stack.enter_context(strict_servers.tls_listener(strict_servers.Certificate.make(folder)))
    return f"amqp://guest:{SECRET}@127.0.0.1:{port}/"


def untrusted_certificate_on_redis(stack: ExitStack, folder: Path) -> str:
    port = stack.enter_context(strict_servers.redis_with_tls(strict_servers.Certificate.make(folder)))
    return f"rediss://:{SECRET}@127.0.0.1:{port}/0"


def untrusted_certificate_on_rabbitmq(stack: ExitStack, folder: Path) -> str:
    port = stack.enter_context(strict_servers.tls_listener(strict_servers.Certificate.make(folder)))
    return f"amqps://guest:{SECRET}@127.0.0.1:{port}/"


def certificate_of_another_host(stack: ExitStack, folder: Path) -> str:
    certificate = strict_servers.Certificate.make(folder, "DNS:elsewhere.example")
    port = stack.enter_context(strict_servers.redis_with_tls(certificate))
    return f"rediss://:{SECRET}@127.0.0.1:{port}/0?ssl_ca_certs={certificate.file}"


def no_certificate_for_a_server_that_requires_one(stack: ExitStack, folder: Path) -> str:
    certificate = strict_servers.Certificate.make(folder)
    port = stack.enter_context(strict_servers.redis_with_tls(certificate, asks_clients=True))
    return f"rediss://:{SECRET}@127.0.0.1:{port}/0?ssl_ca_certs={certificate.file}"


def missing_certificate_file(stack: ExitStack, folder: Path) -> str:
    port = stack.enter_context(strict_servers.redis_with_tls(strict_servers.Certificate.make(folder)))
    return f"rediss://:{SECRET}@127.0.0.1:{port}/0?ssl_ca_certs={folder}/nowhere.pem"


def wrong_password_on_redis(stack: ExitStack, _folder: Path) -> str:
    return f"redis://:{SECRET}@127.0.0.1:{stack.enter_context(strict_servers.redis())}/0"


def no_password_on_redis(stack: ExitStack, _folder: Path) -> str:
    return f"redis://127.0.0.1:{stack.enter_context(strict_servers.redis())}/0"


def wrong_password_over_tls(stack: ExitStack, folder: Path) -> str:
    certificate = strict_servers.Certificate.make(folder)
    port = stack.enter_context(strict_servers.redis_with_tls(certificate))
    return f"rediss://:{SECRET}@127.0.0.1:{port}/0?ssl_ca_certs={certificate.file}"


def missing_database_of_redis(stack: ExitStack, _folder: Path) -> str:
    return f"redis://:{strict_servers.PASSWORD}@127.0.0.1:{stack.enter_context(strict_servers.redis())}/99"


BROKERS: dict[Opens, list[str]] = {
    tls_to_redis_without_tls: ["does not support TLS", "Use redis://"],
    tls_to_redis_without_tls_with_password: ["does not support TLS", "Use redis://"],
    tls_to_rabbitmq_without_tls: ["does not support TLS", "Use amqp://"],
    no_tls_to_redis_with_tls: ["requires TLS", "Use rediss://"],
    no_tls_to_a_rabbitmq_port_with_tls: ["requires TLS", "Use amqps://"],
    untrusted_certificate_on_redis: ["its certificate is not trusted", "?ssl_ca_certs="],
    untrusted_certificate_on_rabbitmq: ["its certificate is not trusted", "?ssl_options="],
    certificate_of_another_host: ["its certificate is not trusted", "not valid for '127.0.0.1'"],
    no_certificate_for_a_server_that_requires_one: ["requires a client certificate", "?ssl_certfile="],
    missing_certificate_file: ["No such file", "Check the path of the certificate"],
    wrong_password_on_redis: ["Cannot connect to ", "password"],
    no_password_on_redis: ["Cannot connect to ", "Authentication required"],
    wrong_password_over_tls: ["Cannot connect to ", "password"],
    missing_database_of_redis: ["Cannot connect to ", "DB index is out of range"],
}


@pytest.mark.parametrize("opens", BROKERS, ids=lambda opens: opens.__name__)
def test_a_refusal_by_the_broker_is_one_error_at_once(
    bare_pair: Pair, stack: ExitStack, tmp_path: Path, opens: Opens
) -> None:
    bare_pair.broker = opens(stack, tmp_path)

    assert_single_error(bare_pair, 1, ["check", "apps.shop"], ["Cannot connect to ", *BROKERS[opens]])
    assert_single_error(bare_pair, 2, ["worker", "apps.shop", "-p", "2"], ["Cannot connect to ", *BROKERS[opens]])


def test_a_server_that_does_not_answer_tls_times_out(stack: ExitStack, tmp_path: Path) -> None:
    broker = broker_from_url(tls_to_redis_without_tls_with_password(stack, tmp_path))
    began = time.monotonic()

    with pytest.raises(ConfigurationError, match="does not support TLS"):
        check_reachable(broker)

    assert time.monotonic() - began < REDIS_TIMEOUT_S / 2


def test_brokers_with_a_trusted_certificate_accept_the_connection(
    bare_pair: Pair, stack: ExitStack, tmp_path: Path
) -> None:
    certificate = strict_servers.Certificate.make(tmp_path)
    port = stack.enter_context(strict_servers.redis_with_tls(certificate))
    bare_pair.broker = f"rediss://:{strict_servers.PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={certificate.file}"
    assert bare_pair.dexpy("check").returncode == 0
    bare_pair.broker = f"rediss://:{strict_servers.PASSWORD}@127.0.0.1:{port}/0"
    bare_pair.variables = {"SSL_CERT_FILE": str(certificate.file)}
    assert bare_pair.dexpy("check").returncode == 0


# ----------------------------------------------------------------------------------------------- databases that refuse


@contextlib.contextmanager
def mariadb_user(*options: str, password: str = strict_servers.PASSWORD) -> Generator[tuple[str, str]]:
    """Yield the names of a new user and of a database that the user owns."""
    with servers.database("mariadb", Path()) as url:
        name = str(sa.make_url(url).database)
        user = f"'{name}'@'%%'"
        run(servers.need("mariadb"), f"CREATE USER {user} IDENTIFIED BY '{password}' {' '.join(options)}",
            f"GRANT ALL ON {name}.* TO {user}")  # fmt: skip
        try:
            yield name, name
        finally:
            run(servers.need("mariadb"), f"DROP USER {user}")


def run(url: str, *statements: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize("credentials", [f"owner:{SECRET}", "owner", f"unknown_dexpy:{SECRET}"])
def test_a_wrong_password_on_postgresql_is_one_error_at_once(
    bare_pair: Pair, stack: ExitStack, credentials: str
) -> None:
    port = stack.enter_context(strict_servers.postgresql())
    bare_pair.url = f"postgresql+psycopg://{credentials}@127.0.0.1:{port}/postgres"

    for status, command in ((1, ["check", "apps.shop"]), (1, ["db", "init"]), (2, ["worker", "apps.shop", "-p", "2"])):
        assert_single_error(bare_pair, status, command, ["password", "Cannot open", "Check user, password"])

    bare_pair.url = f"postgresql+psycopg://owner:{strict_servers.PASSWORD}@127.0.0.1:{port}/postgres"
    assert bare_pair.dexpy("db", "init").returncode == 0


def test_a_wrong_password_on_mariadb_is_one_error_at_once(bare_pair: Pair, stack: ExitStack) -> None:
    user, name = stack.enter_context(mariadb_user())
    for password in (SECRET, None):
        bare_pair.url = url_of("mariadb", username=user, password=password, database=name)
        for status, command in (
            (1, ["check", "apps.shop"]),
            (1, ["db", "init"]),
            (2, ["worker", "apps.shop", "-p", "2"]),
        ):
            assert_single_error(bare_pair, status, command, ["Access denied", "Check user, password"])

    bare_pair.url = url_of("mariadb", username=user, password=strict_servers.PASSWORD, database=name)
    assert bare_pair.dexpy("db", "init").returncode == 0


@pytest.mark.parametrize(
    ("server", "parts", "expected"),
    [
        ("postgresql", {"database": "dexpy_never"}, "does not exist"),
        ("postgresql", {"username": "dexpy_unknown", "password": SECRET}, "dexpy_unknown"),
        ("postgresql", {"query": {"sslmode": "require"}, "port": None}, "SSL"),
        ("postgresql", {"query": {"no_such_option": "1", "password": SECRET}}, "no_such_option"),
        ("mariadb", {"database": "dexpy_never"}, "Unknown database"),
        ("mariadb", {"username": "dexpy_unknown", "password": SECRET}, "Access denied"),
    ],
    ids=str,
)
def test_a_refusal_by_the_database_is_one_error_at_once(
    bare_pair: Pair, stack: ExitStack, server: str, parts: dict[str, Any], expected: str
) -> None:
    if "port" in parts:
        # A server of the test, which certainly has no certificate.
        parts = {**parts, "port": stack.enter_context(strict_servers.postgresql()), "username": "owner"}
    bare_pair.url = url_of(server, **parts)

    for status, command in ((1, ["check", "apps.shop"]), (1, ["db", "check"]), (2, ["worker", "apps.shop", "-p", "2"])):
        assert_single_error(bare_pair, status, command, [expected, "Check user, password, database and options."])


# -------------------------------------------------------------------------------------------------- temporary outages


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_worker_waits_for_a_database_that_starts_later(kind: str, tmp_path: Path, stack: ExitStack) -> None:
    pair = stack.enter_context(open_pair(f"{kind}+sql", tmp_path))
    proxy = Proxy(pair.url, open=False)
    stack.callback(proxy.end)
    pair.configure()
    tickets = [Greet(name=f"early {number}").async_().call() for number in range(3)]
    pair.variables = {"DEXPY_DATABASE": proxy.url}
    checked = pair.dexpy("check")
    assert checked.returncode == 1
    assert "Check that the server is running, and check host and port." in checked.stdout
    worker = pair.serve([sys.executable, "-m", "dexpy", "worker", "apps.shop", "-p", "2", "-t", "2"])
    eventually(lambda: len(worker.lines("database.unreachable")) >= 4, "the worker retries", WAIT_S, worker.output)
    assert worker.children() == []

    proxy.open()

    worker.await_started(2)
    for ticket in tickets:
        assert ticket.result(WAIT_S, POLL_S)
    assert "Traceback" not in worker.output()
    install(None)


def test_a_worker_that_waits_for_its_database_can_be_stopped(bare_pair: Pair) -> None:
    bare_pair.url = f"postgresql+psycopg://unknown:{SECRET}@127.0.0.1:{strict_servers.free_port()}/nothing"
    worker = bare_pair.serve([sys.executable, "-m", "dexpy", "worker", "apps.shop", "-p", "2"])
    eventually(lambda: worker.lines("database.unreachable"), "the worker waits for its database", WAIT_S, worker.output)

    worker.signal(signal.SIGTERM)

    assert worker.ended(10) == 0, worker.output()
    assert SECRET not in worker.output()


def test_a_burst_worker_does_not_wait_for_a_database(bare_pair: Pair) -> None:
    bare_pair.url = f"postgresql+psycopg://unknown:{SECRET}@127.0.0.1:{strict_servers.free_port()}/nothing"

    assert_single_error(
        bare_pair, 1, ["worker", "apps.shop", "--burst", "-p", "1"], ["Check that the server is running"]
    )


# ------------------------------------------------------------------------------------------------- limits and clocks


def check_report(bare_pair: Pair, *arguments: str) -> dict[str, str]:
    """Return the lines of a successful ``dexpy check`` by their subjects."""
    checked = bare_pair.dexpy("check", *arguments)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    lines = [line[:4].strip() + " " + line[5:] for line in checked.stdout.splitlines()]
    return {line.split()[1].rstrip(":"): line for line in lines}


@contextlib.contextmanager
def postgresql_role(limit: int) -> Generator[str]:
    with servers.database("postgresql", Path()) as url:
        name = str(sa.make_url(url).database)
        run(
            url, f"CREATE ROLE {name} LOGIN CONNECTION LIMIT {limit}", f"GRANT CREATE, USAGE ON SCHEMA public TO {name}"
        )
        try:
            yield url_of("postgresql", database=name, username=name)
        finally:
            run(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@contextlib.contextmanager
def mariadb_limit(limit: int) -> Generator[str]:
    with mariadb_user(f"WITH MAX_USER_CONNECTIONS {limit}") as (user, name):
        yield url_of("mariadb", database=name, username=user, password=strict_servers.PASSWORD)


@pytest.mark.parametrize("limited", [postgresql_role, mariadb_limit], ids=["postgresql", "mariadb"])
def test_more_connections_than_a_user_may_have_are_a_warning(bare_pair: Pair, stack: ExitStack, limited: Any) -> None:
    limit = 3 * (4 + OWN_CONNECTIONS)
    bare_pair.url = stack.enter_context(limited(limit))
    assert bare_pair.dexpy("db", "init").returncode == 0

    fits = check_report(bare_pair, "-p", "3", "-t", "4")["connections"]
    assert fits == f"ok connections: 3 x {4 + OWN_CONNECTIONS} = {limit} at most; the server allows {limit}"
    too_many = check_report(bare_pair, "-p", "3", "-t", "5")["connections"]
    assert too_many.startswith(f"warn connections: 3 x {5 + OWN_CONNECTIONS} = {limit + 3} at most")
    assert f"the server allows {limit} (" in too_many
    assert "Lower -p or -t" in too_many


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_more_connections_than_a_server_has_are_a_warning(bare_pair: Pair, stack: ExitStack, kind: str) -> None:
    bare_pair.url = stack.enter_context(servers.database(kind, Path()))
    assert bare_pair.dexpy("db", "init").returncode == 0
    engine = sa.create_engine(bare_pair.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        setting = "SELECT current_setting('max_connections')" if kind == "postgresql" else "SELECT @@max_connections"
        most = int(connection.exec_driver_sql(setting).scalar_one())

    warned = check_report(bare_pair, "-p", str(most), "-t", "1")["connections"]

    assert warned.startswith(f"warn connections: {most} x {1 + OWN_CONNECTIONS} = {most * (1 + OWN_CONNECTIONS)}")
    assert f"max_connections = {most}" in warned


@pytest.mark.parametrize("name", ["postgresql+sql", "postgresql+redis"])
def test_a_busy_process_opens_at_most_as_many_connections_as_the_check_counts(name: str, tmp_path: Path) -> None:
    threads = 6
    with open_pair(name, tmp_path) as pair:
        pair.configure()
        pair.variables = {"DEXPY_DATABASE": f"{pair.url}?application_name=busy"}
        pair.start(processes=1, threads=threads)
        counted = sa.text(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'busy' AND datname = current_database()"
        )
        tickets = [
            Count(number=number, seconds=0.05).async_(queue="other" if number % 3 else "default").call()
            for number in range(150)
        ]
        most = 0

        def observe() -> bool:
            nonlocal most
            most = max(most, pair.sql(counted)[0][0])
            return all(ticket.reload().done for ticket in tickets[-3:])

        eventually(observe, "the last operations are done", WAIT_S, pair.output)
        # The observed number varies up to the maximum.
        assert 1 < most <= threads + OWN_CONNECTIONS
        install(None)


LATE = """
from dexpy.foundation.clock import clock
clock.advance({seconds})
from apps.shop import *
"""


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
@pytest.mark.parametrize(("moved_s", "direction"), [(-5, "ahead of"), (5, "behind")])
def test_clocks_that_disagree_are_a_warning(kind: str, moved_s: int, direction: str, tmp_path: Path) -> None:
    with open_pair(f"{kind}+sql", tmp_path) as pair:
        pair.configure()
        (tmp_path / "late.py").write_text(LATE.format(seconds=moved_s))
        (tmp_path / "nearly.py").write_text(LATE.format(seconds=moved_s / abs(moved_s) * SKEW_S / 2))

        warned = check_report(pair, "late", "-p", "1")["clock"]
        assert warned.startswith(
            f"warn clock: the clock of the database is {abs(moved_s)}.0 s {direction} that of this machine"
        )
        assert check_report(pair, "nearly", "-p", "1")["clock"] == "ok clock"

        late, nearly = pair.start(module="late"), pair.start(module="nearly")
        assert Greet(name="all the same").async_().call().result(WAIT_S, POLL_S)
        assert len(late.lines("clock.skewed")) == 1, late.output()
        assert f"ahead_s={-moved_s}." in late.output().replace("4.99", "5.00")
        assert nearly.lines("clock.skewed") == []
        install(None)
