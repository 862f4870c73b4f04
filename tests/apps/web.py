"""A shop behind a web server, with an embedded worker, for ASGI and WSGI."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import dexpy
from dexpy import Operation


class Pack(Operation):
    """Pack a crate: return the pid of the process when a file exists."""

    file: str

    def perform(self) -> int:
        Path(f"{self.file}.started").touch()
        while not Path(self.file).exists():
            time.sleep(0.01)
        return os.getpid()


worker = dexpy.EmbeddedWorker(threads=2, shutdown_timeout=float(os.environ.get("SHOP_SHUTDOWN_S", "10")))


def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(os.getpid()))


asgi = Starlette(routes=[Route("/", home)], lifespan=worker.lifespan)


def answer_pid(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


wsgi = worker.wsgi(answer_pid)

if os.environ.get("SHOP_STARTS_AT_IMPORT"):
    worker.start()
