"""Create and delete virtual hosts of RabbitMQ by its management API or, without it, by ``rabbitmqctl``."""

from __future__ import annotations

import base64
import shutil
import subprocess
import urllib.request
from typing import Protocol
from urllib.parse import urlsplit

TIMEOUT_S = 60
"""The timeout of ``rabbitmqctl``, which starts a virtual machine for each command, in seconds."""


class Administrator(Protocol):
    """The interface that manages virtual hosts."""

    def add(self, name: str) -> None:
        """Create a virtual host, and permit the user of the tests to use it."""

    def delete(self, name: str) -> None:
        """Delete a virtual host, even if clients are still connected."""


def administrator(url: str) -> Administrator:
    """Return the faster one of the available interfaces.

    Raises:
        FileNotFoundError: None is available.
    """
    over_http = Management(url)
    if over_http.answers():
        return over_http
    program = shutil.which("rabbitmqctl")
    if program is None:
        raise FileNotFoundError("there is neither rabbitmqctl nor RabbitMQ's management API")
    return Rabbitmqctl(program, urlsplit(url).username or "guest")


class Rabbitmqctl:
    """Manages virtual hosts by the command ``rabbitmqctl``.

    Args:
        program: The path of the command.
        user: The user of the tests.
    """

    def __init__(self, program: str, user: str) -> None:
        self._program = program
        self._user = user

    def add(self, name: str) -> None:
        """Create a virtual host, and permit the user to use it."""
        self._run("add_vhost", name)
        self._run("set_permissions", "-p", name, self._user, ".*", ".*", ".*")

    def delete(self, name: str) -> None:
        """Delete a virtual host."""
        self._run("delete_vhost", name)

    def _run(self, *arguments: str) -> None:
        subprocess.run([self._program, "-q", *arguments], check=True, capture_output=True, timeout=TIMEOUT_S)


class Management:
    """Manages virtual hosts by the management API at its default port.

    Args:
        url: The URL of the broker.
    """

    def __init__(self, url: str) -> None:
        url_parts = urlsplit(url)
        self._host = url_parts.hostname
        self._user = url_parts.username or "guest"
        self._secret = base64.b64encode(f"{self._user}:{url_parts.password or 'guest'}".encode()).decode()

    def answers(self) -> bool:
        """Whether the management API answers."""
        try:
            self._ask("GET", "whoami")
        except OSError:
            return False
        return True

    def add(self, name: str) -> None:
        """Create a virtual host, and permit the user to use it."""
        self._ask("PUT", f"vhosts/{name}")
        self._ask("PUT", f"permissions/{name}/{self._user}", b'{"configure": ".*", "write": ".*", "read": ".*"}')

    def delete(self, name: str) -> None:
        """Delete a virtual host."""
        self._ask("DELETE", f"vhosts/{name}")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> None:
        headers = {"Authorization": f"Basic {self._secret}", "Content-Type": "application/json"}
        url = f"http://{self._host}:15672/api/{path}"
        request = urllib.request.Request(url, data=body, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - http, to the server that the tests were given
            pass
