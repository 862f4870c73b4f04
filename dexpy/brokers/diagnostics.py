"""Why a broker refuses a connection, and how to fix it; or that it is only unreachable."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Any

from dexpy.brokers.tls_probe import Address

REFUSAL_CLASSES = ("Auth", "Access", "Permission", "ResponseError", "SSL", "Certificate")
"""Parts of the class names of errors that waiting does not fix: a server or its certificate refuses."""
REFUSAL_TEXTS = ("ACCESS_REFUSED", "NOT_ALLOWED", "PRECONDITION_FAILED", "RESOURCE_LOCKED", "[SSL")
"""The same in the texts of errors."""
TEMPORARY_ERRORS = (
    "BusyLoading", "ReadOnly", "MasterDown", "ClusterDown", "TryAgain", "OutOfMemory",
    "SSLEOF", "SSLZeroReturn", "UNEXPECTED_EOF", "is down",
)  # fmt: skip
"""Exceptions to both: a server has these for a while, when it starts, fails over, is full or hangs up."""

SCHEMES = {True: ("redis", "rediss"), False: ("amqp", "amqps")}
"""In plain text and with TLS, of Redis and of RabbitMQ."""
AUTHORITY = {True: "?ssl_ca_certs=/path/ca.pem", False: "?ssl_options={'cafile': '/path/ca.pem'}"}
CLIENT = {
    True: "?ssl_certfile=/path/client.pem&ssl_keyfile=/path/client.key",
    False: "?ssl_options={'cafile': '/path/ca.pem', 'certfile': '/path/client.pem', 'keyfile': '/path/client.key'}",
}


def lacks_tls(address: Address | None, is_redis: bool) -> str | None:
    """Return the refusal of a Redis server without TLS where the URL asks for TLS, before a client waits for it."""
    if address is None or not (is_redis and address.is_tls) or address.speaks_tls() or not address.speaks_redis():
        return None
    return _no_tls(is_redis)


def refusal(error: BaseException, address: Address | None, is_redis: bool) -> str | None:
    """Return why waiting would not help, and the fix; None if it may help.

    Args:
        error: The client's error.
        address: The server's address; None if it is unknown.
        is_redis: Whether it is Redis and not RabbitMQ.
    """
    errors = list(_causes_of(error))
    for cause in errors:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted: {cause.verify_message.rstrip('.')}. Use the host's name that stands "
                f"in it, and name the file of who has signed it in SSL_CERT_FILE, or in the URL: {AUTHORITY[is_redis]}."
            )
    if any("WRONG_VERSION_NUMBER" in str(cause) for cause in errors):
        return _no_tls(is_redis)
    if any("CERTIFICATE_REQUIRED" in str(cause) for cause in errors):
        return _no_client_certificate(is_redis)
    if _is_refusal(errors):
        return f"{describe_error(error)} Are user, password, virtual host and certificate right?"
    if address is None:
        return None
    if not address.is_tls and address.speaks_tls():
        secure = SCHEMES[is_redis][1]
        return f"it speaks only TLS there. Write {secure}:// in the URL, or give its port without TLS."
    if address.is_tls and any(isinstance(cause, FileNotFoundError) for cause in errors):
        return f"{describe_error(error)} Is the path of the certificate in the URL right?"
    if address.is_tls and address.requires_certificate():
        return _no_client_certificate(is_redis)
    return None


def queue_refusal(error: BaseException) -> str | None:
    """Return why RabbitMQ refuses a queue permanently, and the fix; None for another error."""
    for cause in _causes_of(error):
        text = str(cause)
        if (match := _QUEUE.search(text)) is None or not _contains_any(REFUSAL_TEXTS, [text]):
            continue
        queue, reply = match[1], _server_reply(text)
        if "PRECONDITION_FAILED" in text:
            return (
                f"queue {queue!r}: it exists with other arguments than dexpy declares; got {reply!r}. "
                f"Delete it when it is empty, rabbitmqctl delete_queue {queue}, or use another queue name."
            )
        return (
            f"queue {queue!r}: the server refuses it; got {reply!r}. Permit this user to use it, or use another name."
        )
    return None


_QUEUE = re.compile(r"queue '([^']*)'")


def _server_reply(text: str) -> str:
    """Return the server's reply from the client's error."""
    start = min(text.find(code) for code in REFUSAL_TEXTS if code in text)
    return text[start:].rstrip("\"')")


def describe_error(error: BaseException) -> str:
    """Return an error in one line: its class and its text."""
    return f"{type(error).__name__}: {one_line(error)}."


def one_line(error: BaseException) -> str:
    """Return the text of an error, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")


def _no_tls(is_redis: bool) -> str:
    plain, secure = SCHEMES[is_redis]
    return (
        f"it does not speak TLS there, and {secure}:// asks for it. "
        f"Write {plain}:// in the URL, or give its port with TLS."
    )


def _no_client_certificate(is_redis: bool) -> str:
    return f"it wants a certificate of this client. Name its files in the URL: {CLIENT[is_redis]}."


def _is_refusal(errors: list[BaseException]) -> bool:
    names = [kind.__name__ for error in errors for kind in type(error).__mro__]
    texts = [str(error) for error in errors]
    if _contains_any(TEMPORARY_ERRORS, [*names, *texts]):
        return False
    return _contains_any(REFUSAL_CLASSES, names) or _contains_any(REFUSAL_TEXTS, texts)


def _contains_any(fragments: tuple[str, ...], texts: list[str]) -> bool:
    return any(fragment in text for text in texts for fragment in fragments)


def _causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    current: Any = error
    while isinstance(current, BaseException):
        yield current
        # Dramatiq wraps Pika's error, and drops it as the cause.
        wrapped = getattr(current, "message", None)
        if isinstance(wrapped, BaseException):
            yield wrapped
        current = current.__cause__ or current.__context__
