"""A transaction pooler for PostgreSQL: a client connection has a server session only during a transaction.

It works like PgBouncer with ``pool_mode = transaction`` and without prepared statements, for one user and database.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from urllib.parse import urlsplit, urlunsplit

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
READY, KEY, TERMINATE, IDLE = b"Z", b"K", b"X", b"I"


class Session:
    """A session of the server, with its startup messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.greeting = b""


class Pooler:
    """A pooler that listens on a free port.

    Args:
        url: The URL of the server.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._idle: list[Session] = []
        self._all: list[Session] = []
        self._server: asyncio.Server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        """The URL of the server through the pooler."""
        user, at, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(self._parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    def end(self) -> None:
        """End every connection, and stop the pooler."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end(self) -> None:
        self._server.close()
        for session in self._all:
            session.writer.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            startup = await self._startup(reader, writer)
            if startup is None:
                return
            # The last idle session first, so that client connections share sessions early.
            session = self._idle.pop() if self._idle else await self._begin(startup)
            writer.write(session.greeting)
            self._idle.append(session)
            await self._talk(reader, writer, startup)
        writer.close()

    async def _startup(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        while True:
            header = await reader.readexactly(8)
            code = int.from_bytes(header[4:])
            body = await reader.readexactly(int.from_bytes(header[:4]) - 8)
            if code == CANCEL_REQUEST:
                return None
            if code not in (SSL_REQUEST, GSS_REQUEST):
                return header + body
            writer.write(b"N")

    async def _begin(self, startup: bytes) -> Session:
        session = Session(*await asyncio.open_connection(self._parts.hostname, self._parts.port))
        self._all.append(session)
        session.writer.write(startup)
        async for kind, message in messages(session.reader):
            # Random cancellation data: the next transaction may have another session, so none must be cancelled.
            session.greeting += message[:5] + secrets.token_bytes(8) if kind == KEY else message
            if kind == READY:
                break
        return session

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, startup: bytes) -> None:
        while data := await reader.read(65536):
            if data[:1] == TERMINATE:
                return
            session = self._idle.pop() if self._idle else await self._begin(startup)
            session.writer.write(data)
            forwarding = asyncio.ensure_future(self._forward(reader, session))
            try:
                async for kind, message in messages(session.reader):
                    writer.write(message)
                    if kind == READY and message[-1:] == IDLE:
                        break
            finally:
                forwarding.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await forwarding
            self._idle.append(session)

    async def _forward(self, reader: asyncio.StreamReader, session: Session) -> None:
        while data := await reader.read(65536):
            session.writer.write(data)


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    """Yield the messages of the server: their type and the whole message."""
    while True:
        header = await reader.readexactly(5)
        yield header[:1], header + await reader.readexactly(int.from_bytes(header[1:]) - 4)
