"""Servers for single tests that require a password or TLS."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path

import attrs
import pytest

PATIENCE_S = 30.0
PASSWORD = "right-pass"


def program(name: str, *places: str) -> str:
    """Return the path of a program; without one, skip the test, or fail it with ``CI=true``."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *(folder for place in places for folder in glob.glob(place))])
    executable = shutil.which(name, path=path)
    if executable is not None:
        return executable
    reason = f"{name} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@attrs.frozen
class Certificate:
    """A self-signed certificate.

    Attributes:
        file: The file of the certificate.
        key: The file of its key.
    """

    file: Path
    key: Path

    @classmethod
    def make(cls, folder: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> Certificate:
        """Create a certificate for this machine, or for other names."""
        certificate = cls(folder / "certificate.pem", folder / "key.pem")
        subprocess.run(
            [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
             "-addext", f"subjectAltName={names}", "-keyout", certificate.key, "-out", certificate.file],
            check=True, capture_output=True, timeout=PATIENCE_S,
        )  # fmt: skip
        return certificate


@contextlib.contextmanager
def running(command: list[str], port: int, *, user: str | None = None) -> Generator[None]:
    """Run a server until the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not listens(port):
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command} does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def listens(port: int) -> bool:
    """Whether a port accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def redis(*options: str) -> Generator[int]:
    """Yield the port of a Redis server that requires `PASSWORD`."""
    port = free_port()
    fixed = ["--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD]
    with running([program("redis-server"), "--port", str(port), *fixed, *options], port):
        yield port


@contextlib.contextmanager
def redis_with_tls(certificate: Certificate, *, asks_clients: bool = False) -> Generator[int]:
    """Yield the port of a Redis server that requires TLS and `PASSWORD`."""
    port = free_port()
    fixed = ["--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD]
    files = ["--tls-cert-file", str(certificate.file), "--tls-key-file", str(certificate.key)]
    clients = ["--tls-ca-cert-file", str(certificate.file), "--tls-auth-clients", "yes" if asks_clients else "no"]
    with running([program("redis-server"), *fixed, *files, *clients], port):
        yield port


@contextlib.contextmanager
def tls_listener(certificate: Certificate) -> Generator[int]:
    """Yield the port of a server that completes the TLS handshake and then closes the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.file, certificate.key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                channel, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                channel.settimeout(5)
                context.wrap_socket(channel, server_side=True).close()
            channel.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        # A close alone does not wake the thread in `accept`.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@contextlib.contextmanager
def postgresql() -> Generator[int]:
    """Yield the port of a PostgreSQL server that requires a password; its user is `owner`, with `PASSWORD`."""
    places = "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin"
    # The server does not run as root and cannot access the temporary folders of pytest.
    user = "postgres" if os.geteuid() == 0 else None
    folder, port = tempfile.mkdtemp(prefix="dexpy-pg-"), free_port()
    try:
        if user is not None:
            shutil.chown(folder, user)
        secret = Path(folder, "password")
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        data = f"{folder}/data"
        subprocess.run(
            [program("initdb", *places), "-D", data, "-A", "scram-sha-256", "-U", "owner", f"--pwfile={secret}", "-N"],
            check=True, capture_output=True, timeout=PATIENCE_S, user=user, cwd=folder,
        )  # fmt: skip
        options = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with running([program("postgres", *places), "-D", data, *options], port, user=user):
            yield port
    finally:
        shutil.rmtree(folder)
