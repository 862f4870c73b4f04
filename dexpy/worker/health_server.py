"""A small HTTP server for ``/live`` and ``/ready``, without threads.

The supervisor runs it in its only thread, because it forks: a lock that another thread holds at that moment would be
locked forever in the child.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs

from dexpy.foundation.errors import ConfigurationError

MAX_CLIENTS = 64
"""The number of open connections; the oldest one is closed for another one."""
MAX_REQUEST_BYTES = 8192
"""The longest request, in bytes; nothing of it but the first line is used."""
CLIENT_TIMEOUT_S = 5.0
"""How long a client may take to send its request and to receive the response, in seconds."""
REQUEST_LINE = re.compile(rb"(?P<method>[A-Z]{1,16}) (?P<target>[\x21-\x7e]+) HTTP/1\.[01]")
PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

Answer: TypeAlias = Callable[[str], "tuple[int, dict[str, Any]] | None"]
_open: list[HealthServer] = []


@attrs.define(eq=False)
class _Client:
    """A connection: the request until it is complete, then the rest of the response."""

    socket: socket.socket
    deadline: float
    request: bytes = b""
    response: bytes = b""


class HealthServer:
    """Serves while `serve` is called.

    Args:
        host: The address to listen on.
        port: The port; 0 for any.
        answer: Returns status and body for a path; None for an unknown path.

    Raises:
        ConfigurationError: The address is not available.
    """

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        self._answer = answer
        self._clients: dict[socket.socket, _Client] = {}
        try:
            self._listener = _listen(host, port)
        except (OSError, UnicodeError) as error:
            raise ConfigurationError(
                f"--health-port: cannot listen on {host!r}, port {port}: {error}. Choose another port or --health-host."
            ) from None
        self._selector = selectors.DefaultSelector()
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.host, self.port = self._listener.getsockname()[:2]
        _open.append(self)

    def serve(self, seconds: float, events: Sequence[Any] = ()) -> None:
        """Answer requests for a while.

        Args:
            seconds: How long.
            events: File descriptors or objects with one; the call returns when one of them is readable.
        """
        until = time.monotonic() + seconds
        for event in events:
            self._selector.register(event, selectors.EVENT_READ)
        is_over = False
        while not is_over and (left_s := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left_s):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket):
                    if (client := self._clients.get(key.fileobj)) is not None:
                        self._continue(client)
                else:
                    is_over = True
            self._close_late()
        for event in events:
            self._selector.unregister(event)

    def close(self) -> None:
        """Close the port and all connections."""
        for client in list(self._clients.values()):
            self._close(client)
        self._selector.close()
        self._listener.close()
        _open.remove(self)

    def close_copies(self) -> None:
        """Close what a forked child has inherited, without an effect on its parent."""
        _open.remove(self)
        # Nothing is unregistered: both processes share one list of what is selected.
        self._selector.close()
        for copy in (self._listener, *self._clients):
            copy.close()

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            # The client has gone, or no file descriptor is left.
            return
        accepted.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            self._close(next(iter(self._clients.values())))
        self._clients[accepted] = _Client(accepted, time.monotonic() + CLIENT_TIMEOUT_S)
        self._selector.register(accepted, selectors.EVENT_READ)

    def _continue(self, client: _Client) -> None:
        try:
            if not client.response:
                self._read(client)
            if client.response:
                client.response = client.response[client.socket.send(client.response) :]
                if not client.response:
                    self._close(client)
        except BlockingIOError:
            return
        except OSError:
            self._close(client)

    def _read(self, client: _Client) -> None:
        data = client.socket.recv(MAX_REQUEST_BYTES)
        client.request += data
        if not data:
            self._close(client)
            return
        if re.search(rb"\r?\n\r?\n", client.request):
            client.response = self._respond(client.request)
        elif len(client.request) > MAX_REQUEST_BYTES:
            client.response = _response(431, {"error": f"expected at most {MAX_REQUEST_BYTES} bytes"})
        if client.response:
            self._selector.modify(client.socket, selectors.EVENT_WRITE)

    def _respond(self, request: bytes) -> bytes:
        line = REQUEST_LINE.fullmatch(request.partition(b"\n")[0].rstrip(b"\r"))
        if line is None:
            return _response(400, {"error": "expected a request of HTTP/1.1"})
        if line["method"] not in (b"GET", b"HEAD"):
            return _response(405, {"error": "expected GET or HEAD"})
        answered = self._answer(line["target"].partition(b"?")[0].decode("ascii"))
        status, body = answered or (404, {"error": "expected /live or /ready"})
        return _response(status, body, has_body=line["method"] == b"GET")

    def _close_late(self) -> None:
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.deadline < now]:
            self._close(client)

    def _close(self, client: _Client) -> None:
        self._clients.pop(client.socket, None)
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(client.socket)
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        client.socket.close()


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_CLIENTS)
    except BaseException:
        listener.close()
        raise
    return listener


def _response(status: int, body: dict[str, Any], *, has_body: bool = True) -> bytes:
    content = f"{json.dumps(body, indent=2)}\n".encode()
    lines = [
        f"HTTP/1.1 {status} {PHRASES[status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + content if has_body else head


def close_inherited() -> None:
    """Close the ports that a forked child has inherited: its parent serves them."""
    for server in _open:
        server.close_copies()
