"""The reason why a broker refuses a connection, with the fix, or that it is only unreachable."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Any

from dramatiq.errors import ConnectionClosed, ConnectionFailed

from dexpy.brokers.tls_probe import Address

REFUSAL_CLASSES = ("Auth", "Access", "Permission", "ResponseError", "SSL", "Certificate")
"""Parts of the class names of errors that persist: the server refuses the client, or its certificate is invalid."""
REFUSAL_TEXTS = ("ACCESS_REFUSED", "NOT_ALLOWED", "PRECONDITION_FAILED", "RESOURCE_LOCKED", "[SSL")
"""The same, as parts of the texts of errors."""
TEMPORARY_ERRORS = (
    "BusyLoading", "ReadOnly", "MasterDown", "TryAgain", "OutOfMemory", "MISCONF", "NOREPLICAS",
    "SSLEOF", "SSLZeroReturn", "UNEXPECTED_EOF", "is down",
)  # fmt: skip
"""Exceptions to both: temporary errors of a server that starts, fails over, is full or closes connections."""

CLUSTER_ERRORS = ("MovedError", "AskError", "ClusterCrossSlotError", "ClusterDownError", "non local key")
"""Parts of the class names and texts of errors that only a node of a Redis Cluster returns."""
CLUSTER_REASON = (
    "expected one Redis server, got a Redis Cluster, which stores the keys of one queue on several nodes; Dramatiq's "
    "scripts need all of them on one server. Use a server without cluster mode, a primary with Sentinels "
    "(redis+sentinel://host1,host2/mymaster/0), RabbitMQ or the database."
)

BLOCKED = (
    "RabbitMQ accepts no messages, because its memory or disk alarm is on. Free memory or disk space on the server; "
    "messages are accepted again when the alarm is off."
)

SCHEMES = {True: ("redis", "rediss"), False: ("amqp", "amqps")}
"""The URL schemes without and with TLS; the keys are whether it is Redis, as below."""
AUTHORITY = {True: "?ssl_ca_certs=/path/ca.pem", False: "?ssl_options={'cafile': '/path/ca.pem'}"}
CLIENT = {
    True: "?ssl_certfile=/path/client.pem&ssl_keyfile=/path/client.key",
    False: "?ssl_options={'cafile': '/path/ca.pem', 'certfile': '/path/client.pem', 'keyfile': '/path/client.key'}",
}


def lacks_tls(address: Address | None, is_redis: bool) -> str | None:
    """Return the error of a Redis server without TLS whose URL requires TLS, before a client waits for its answer."""
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
    if is_redis and is_of_cluster(error):
        return CLUSTER_REASON
    for cause in errors:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted: {cause.verify_message.rstrip('.')}. Use the host name of the "
                "certificate, and set the file of its certificate authority in SSL_CERT_FILE or in the URL: "
                f"{AUTHORITY[is_redis]}."
            )
    if any("WRONG_VERSION_NUMBER" in str(cause) for cause in errors):
        return _no_tls(is_redis)
    if any("CERTIFICATE_REQUIRED" in str(cause) for cause in errors):
        return _no_client_certificate(is_redis)
    if _is_refusal(errors):
        database = "database number" if is_redis else "virtual host"
        return f"{describe_error(error)} Check user, password, {database} and certificate."
    if address is None:
        return None
    if not address.is_tls and address.speaks_tls():
        secure = SCHEMES[is_redis][1]
        return f"this port requires TLS. Use {secure}:// in the URL, or the port without TLS."
    if address.is_tls and any(isinstance(cause, FileNotFoundError) for cause in errors):
        return f"{describe_error(error)} Check the path of the certificate in the URL."
    if address.is_tls and address.requires_certificate():
        return _no_client_certificate(is_redis)
    return None


def is_of_cluster(error: BaseException) -> bool:
    """Return whether an error comes from a node of a Redis Cluster."""
    errors = list(_causes_of(error))
    return _contains_any(CLUSTER_ERRORS, [type(one).__name__ for one in errors] + [str(one) for one in errors])


def is_of_server(error: BaseException) -> bool:
    """Return whether an error comes from a broker's server or its client, and not from the message."""
    if isinstance(error, (ConnectionClosed, ConnectionFailed, OSError)):
        return True
    return any(kind.__module__.partition(".")[0] in ("redis", "pika") for kind in type(error).__mro__)


def is_temporary(error: BaseException) -> bool:
    """Return whether an error is of a server that starts, fails over, is full or cannot write its snapshot."""
    return _contains_any(TEMPORARY_ERRORS, _names_and_texts([error]))


def queue_refusal(error: BaseException) -> str | None:
    """Return why RabbitMQ refuses a queue permanently, and the fix; None for another error."""
    for cause in _causes_of(error):
        text = str(cause)
        if (match := _QUEUE.search(text)) is None or not _contains_any(REFUSAL_TEXTS, [text]):
            continue
        queue, reply = match[1], _server_reply(text)
        if "PRECONDITION_FAILED" in text:
            return (
                f"queue {queue!r}: it exists with other arguments than dexpy declares ({reply}). "
                f"Delete it when it is empty (rabbitmqctl delete_queue {queue}), or use another queue name"
                f"{_TYPE_ADVICE if 'x-queue-type' in reply else ''}."
            )
        return f"queue {queue!r}: the server refuses it ({reply}). Grant this user access, or use another queue name."
    return None


_TYPE_ADVICE = " or virtual host, or set queue_type in the URL of the broker to the type of the queue"
_QUEUE = re.compile(r"queue '([^']*)'")


def _server_reply(text: str) -> str:
    """Return the server's reply from the client's error."""
    start = min(text.find(code) for code in REFUSAL_TEXTS if code in text)
    return text[start:].rstrip("\"')")


def describe_error(error: BaseException) -> str:
    """Return the class and the text of an error on one line."""
    return f"{type(error).__name__}: {one_line(error)}."


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")


def _no_tls(is_redis: bool) -> str:
    plain, secure = SCHEMES[is_redis]
    return (
        f"this port does not support TLS, which {secure}:// requires. Use {plain}:// in the URL, or the port with TLS."
    )


def _no_client_certificate(is_redis: bool) -> str:
    return f"it requires a client certificate. Set its files in the URL: {CLIENT[is_redis]}."


def _is_refusal(errors: list[BaseException]) -> bool:
    if _contains_any(TEMPORARY_ERRORS, _names_and_texts(errors)):
        return False
    names = [kind.__name__ for error in errors for kind in type(error).__mro__]
    return _contains_any(REFUSAL_CLASSES, names) or _contains_any(REFUSAL_TEXTS, [str(error) for error in errors])


def _names_and_texts(errors: list[BaseException]) -> list[str]:
    return [kind.__name__ for error in errors for kind in type(error).__mro__] + [str(error) for error in errors]


def _contains_any(fragments: tuple[str, ...], texts: list[str]) -> bool:
    return any(fragment in text for text in texts for fragment in fragments)


def _causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    current: Any = error
    while isinstance(current, BaseException):
        yield current
        # Dramatiq wraps Pika's error without setting it as the cause.
        wrapped = getattr(current, "message", None)
        if isinstance(wrapped, BaseException):
            yield wrapped
        current = current.__cause__ or current.__context__
