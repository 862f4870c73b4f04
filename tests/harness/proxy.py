"""A proxy before a server, which a test closes, cuts and opens again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Passes connections on to a server.

    Args:
        url: Of the server.
        open: Whether it lets connections through from the start.
    """

    def __init__(self, url: str, *, open: bool = True) -> None:
        self._parts = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.open()
        if not open:
            self.close()

    @property
    def url(self) -> str:
        """The server's URL, through the proxy."""
        user, at, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(self._parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    def open(self) -> None:
        """Let connections through, at the same port as before."""
        self._do(self._open())

    def close(self) -> None:
        """Cut every connection and let no new one through: the server is down, as far as can be seen from here."""
        self._do(self._close())

    def cut(self) -> int:
        """Cut every connection, accept new ones, and return the number of cut ones."""
        cut = len(self._writers) // 2
        self._do(self._cut())
        return cut

    def end(self) -> None:
        """Stop, for good."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            for socket in self._server.sockets:
                self._loop.remove_reader(socket.fileno())
            # Accept pending connections first: a server that is closed meanwhile drops them.
            for _ in range(2):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
        # The tasks of these connections end by themselves, now.
        await asyncio.sleep(0.05)

    async def _end(self) -> None:
        await self._close()
        # A connection that was just accepted is registered when its task has started.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._cut()
            await asyncio.wait(tasks, timeout=0.05)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        server_writer: asyncio.StreamWriter | None = None
        try:
            server_reader, server_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
            self._writers.add(server_writer)
            await asyncio.wait(
                [
                    asyncio.ensure_future(_pump(reader, server_writer)),
                    asyncio.ensure_future(_pump(server_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except OSError:
            pass
        finally:
            for end in (writer, server_writer):
                if end is not None:
                    self._writers.discard(end)
                    end.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
