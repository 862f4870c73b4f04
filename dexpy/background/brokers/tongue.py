"""What the server at an address speaks: TLS, plain text, or nothing that can be understood.

To a client of the other kind it is only silent, or hangs up, which looks like a server that is away.
Nothing secret is said here, so no certificate is checked.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager

import attrs

PATIENCE_S = 1.0
"""How long a server may take for a word of greeting, in seconds; one that takes longer is not understood."""


@attrs.frozen
class Address:
    """Where a server listens.

    Attributes:
        host: Its name or number.
        port: Of TCP.
        is_tls: Whether it was named as one that speaks TLS.
    """

    host: str
    port: int
    is_tls: bool

    def speaks_tls(self) -> bool:
        """Whether a handshake begins there, whatever becomes of it."""
        try:
            with self._handshake():
                return True
        except ssl.SSLError as error:
            return _is_alert(error)
        except OSError:
            return False

    def wants_certificate(self) -> bool:
        """Whether it hangs up on a client that shows no certificate."""
        try:
            with self._handshake() as channel:
                # In TLS 1.3 the refusal comes when the handshake is over on this side.
                channel.recv(1)
        except ssl.SSLError as error:
            return _is_alert(error) and "certificate" in str(error).lower()
        except OSError:
            pass
        return False

    def speaks_redis(self) -> bool:
        """Whether it answers Redis's PING in plain text, if only to say that a password is missing."""
        try:
            with self._opened() as channel:
                channel.sendall(b"PING\r\n")
                return channel.recv(1) in (b"+", b"-")
        except OSError:
            return False

    @contextmanager
    def _opened(self) -> Generator[socket.socket, None, None]:
        with socket.create_connection((self.host, self.port), PATIENCE_S) as channel:
            yield channel

    @contextmanager
    def _handshake(self) -> Generator[socket.socket, None, None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with self._opened() as plain, context.wrap_socket(plain, server_hostname=self.host) as channel:
            yield channel


def _is_alert(error: ssl.SSLError) -> bool:
    """Whether the other side said in TLS what it does not like."""
    return "ALERT" in str(error.reason).upper()
