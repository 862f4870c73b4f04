"""Why a broker's server does not let us in, and what to do about it; or that it is only away."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

from dexpy.background.brokers.tongue import Address

REFUSALS = ("Auth", "Access", "Permission", "ResponseError", "SSL", "Certificate")
"""Parts of the names of errors by which a server, or its certificate, says that waiting will not help."""
REFUSED = ("ACCESS_REFUSED", "NOT_ALLOWED", "PRECONDITION_FAILED", "[SSL")
"""The same in the texts of errors."""
MAY_PASS = (
    "BusyLoading", "ReadOnly", "MasterDown", "ClusterDown", "TryAgain", "OutOfMemory",
    "SSLEOF", "SSLZeroReturn", "UNEXPECTED_EOF", "is down",
)  # fmt: skip
"""Of all these what a server has for a while: it starts, fails over, is full, or hangs up."""

SCHEMES = {True: ("redis", "rediss"), False: ("amqp", "amqps")}
"""In plain text and with TLS, of Redis and of RabbitMQ."""
AUTHORITY = {True: "?ssl_ca_certs=/path/ca.pem", False: "?ssl_options={'cafile': '/path/ca.pem'}"}
CLIENT = {
    True: "?ssl_certfile=/path/client.pem&ssl_keyfile=/path/client.key",
    False: "?ssl_options={'cafile': '/path/ca.pem', 'certfile': '/path/client.pem', 'keyfile': '/path/client.key'}",
}


def lacks_tls(address: Address | None, is_redis: bool) -> str | None:
    """That a server of Redis speaks plain text where TLS is asked for, before a client waits for its handshake."""
    if address is None or not (is_redis and address.is_tls) or address.speaks_tls() or not address.speaks_redis():
        return None
    return _no_tls(is_redis)


def refusal(error: BaseException, address: Address | None, is_redis: bool) -> str | None:
    """Why waiting would not help, and what to do; None if it may.

    Args:
        error: Of the client.
        address: Of the server; None where it cannot be seen.
        is_redis: And not RabbitMQ.
    """
    told = list(_chain(error))
    for one in told:
        if isinstance(one, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted: {one.verify_message.rstrip('.')}. Use the host's name that stands in "
                f"it, and name the file of who has signed it in SSL_CERT_FILE, or in the URL: {AUTHORITY[is_redis]}."
            )
    if any("WRONG_VERSION_NUMBER" in str(one) for one in told):
        return _no_tls(is_redis)
    if any("CERTIFICATE_REQUIRED" in str(one) for one in told):
        return _no_client_certificate(is_redis)
    if _says_no(told):
        return f"{said(error)} Are user, password, virtual host and certificate right?"
    if address is None:
        return None
    if not address.is_tls and address.speaks_tls():
        secure = SCHEMES[is_redis][1]
        return f"it speaks only TLS there. Write {secure}:// in the URL, or give its port without TLS."
    if address.is_tls and any(isinstance(one, FileNotFoundError) for one in told):
        return f"{said(error)} Is the path of the certificate in the URL right?"
    if address.is_tls and address.wants_certificate():
        return _no_client_certificate(is_redis)
    return None


def said(error: BaseException) -> str:
    """An error in one line: its class and its text."""
    return f"{type(error).__name__}: {in_one_line(error)}."


def in_one_line(error: BaseException) -> str:
    """The text of an error, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")


def _no_tls(is_redis: bool) -> str:
    plain, secure = SCHEMES[is_redis]
    return (
        f"it does not speak TLS there, and {secure}:// asks for it. "
        f"Write {plain}:// in the URL, or give its port with TLS."
    )


def _no_client_certificate(is_redis: bool) -> str:
    return f"it wants a certificate of this client. Name its files in the URL: {CLIENT[is_redis]}."


def _says_no(told: list[BaseException]) -> bool:
    names = [kind.__name__ for one in told for kind in type(one).__mro__]
    texts = [str(one) for one in told]
    if _any_in(MAY_PASS, [*names, *texts]):
        return False
    return _any_in(REFUSALS, names) or _any_in(REFUSED, texts)


def _any_in(parts: tuple[str, ...], told: list[str]) -> bool:
    return any(part in one for one in told for part in parts)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that it was made from."""
    found: Any = error
    while isinstance(found, BaseException):
        yield found
        # Dramatiq wraps what Pika says, and drops it as the cause.
        wrapped = getattr(found, "message", None)
        if isinstance(wrapped, BaseException):
            yield wrapped
        found = found.__cause__ or found.__context__
