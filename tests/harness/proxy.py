"""A TCP proxy for a server, with which a test simulates outages and cut connections."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """A proxy that forwards connections to a server.

    Args:
        url: The URL of the server.
        open: Whether it accepts connections from the start.
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
        """The URL of the server through the proxy."""
        user, at, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(self._parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    def open(self) -> None:
        """Accept connections, on the same port as before."""
        self._run(self._open())

    def close(self) -> None:
        """End every connection and refuse new ones, as if the server were down."""
        self._run(self._close())

    def cut(self) -> int:
        """End every connection, continue to accept new ones, and return the number of ended connections."""
        cut = len(self._writers) // 2
        self._run(self._cut())
        return cut

    def end(self) -> None:
        """Stop the proxy."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
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
        # Let the tasks of these connections end.
        await asyncio.sleep(0.05)

    async def _end(self) -> None:
        await self._close()
        # A connection that was just accepted is registered only when its task starts.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._cut()
            await asyncio.wait(tasks, timeout=0.05)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
