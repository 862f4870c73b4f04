"""Probes which protocol a server speaks: TLS, plain text, or an unknown one.

A server of one kind does not answer a client of the other, or closes the connection, as if it were unreachable.
The probe sends no secrets, so it checks no certificate.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager

import attrs

TIMEOUT_S = 1.0
"""How long to wait for the server's answer, in seconds; after that its protocol counts as unknown."""


@attrs.frozen
class Address:
    """The address of a server.

    Attributes:
        host: The name or IP address.
        port: The TCP port.
        is_tls: Whether the URL requires TLS.
    """

    host: str
    port: int
    is_tls: bool

    def speaks_tls(self) -> bool:
        """Return whether the server starts a TLS handshake."""
        try:
            with self._handshake():
                return True
        except ssl.SSLError as error:
            return _is_alert(error)
        except OSError:
            return False

    def requires_certificate(self) -> bool:
        """Return whether the server refuses a client without a certificate."""
        try:
            with self._handshake() as channel:
                # In TLS 1.3 the server refuses after the client has finished the handshake.
                channel.recv(1)
        except ssl.SSLError as error:
            return _is_alert(error) and "certificate" in str(error).lower()
        except OSError:
            pass
        return False

    def speaks_redis(self) -> bool:
        """Return whether the server answers Redis's PING in plain text, possibly with an authentication error."""
        try:
            with self._opened() as channel:
                channel.sendall(b"PING\r\n")
                return channel.recv(1) in (b"+", b"-")
        except OSError:
            return False

    @contextmanager
    def _opened(self) -> Generator[socket.socket, None, None]:
        with socket.create_connection((self.host, self.port), TIMEOUT_S) as channel:
            yield channel

    @contextmanager
    def _handshake(self) -> Generator[socket.socket, None, None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with self._opened() as plain, context.wrap_socket(plain, server_hostname=self.host) as channel:
            yield channel


def _is_alert(error: ssl.SSLError) -> bool:
    """Return whether the server sent a TLS alert."""
    return "ALERT" in str(error.reason).upper()
