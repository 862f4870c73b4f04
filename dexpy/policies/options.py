"""The options of background runs and records: frozen values that a class declares."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, TypeAlias, TypeVar

import attrs

from dexpy.foundation.errors import OptionsError, did_you_mean, listed
from dexpy.foundation.safe_text import shortened
from dexpy.policies.keep import Keep

Delay: TypeAlias = timedelta | float | int
T = TypeVar("T")
QueueChoice: TypeAlias = str | Callable[[Any], str]

DEFAULT_MAX_LOST = 3
"""How many times a run is retried after a lost worker, unless its class declares another number."""

MYPY: bool = False
"""True for mypy only."""

QUEUE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]{0,63}")


def check_queue(queue: object, where: str) -> str:
    """Check that every broker accepts a queue name.

    Raises:
        OptionsError: It is not a str, or has characters that brokers refuse.
    """
    if not isinstance(queue, str) or not QUEUE_NAME.fullmatch(queue):
        raise OptionsError(
            f"{where}: invalid queue name {shortened(queue)}; use 1 to 64 letters, digits, '.', '_' or '-', beginning "
            "with a letter or '_'."
        )
    if queue.endswith((".DQ", ".XQ")):
        raise OptionsError(
            f"{where}: invalid queue name {queue!r}; Dramatiq reserves .DQ and .XQ for delayed and dead messages. "
            "Choose another name."
        )
    return queue


def check_in_utc(moment: datetime, where: str) -> None:
    """Check that a datetime is within the years 1 to 9999 in UTC.

    Raises:
        OptionsError: It is outside of them.
    """
    try:
        moment.astimezone(timezone.utc)
    except (OverflowError, ValueError):
        raise OptionsError(f"{where}={moment!r}: expected a datetime within the years 1 to 9999 in UTC.") from None


def delay_seconds(delay: object, name: str, where: str) -> float:
    """Return a delay in seconds.

    Raises:
        OptionsError: It is neither a number nor a timedelta, or negative, or not finite.
    """
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise OptionsError(
            f"{where}: {name}={shortened(delay)}: expected seconds or a timedelta. Write {name}=60 for a minute."
        )
    if not 0 <= seconds < 10**10:
        raise OptionsError(f"{where}: {name}={shortened(delay)}: expected a finite delay of 0 or more seconds.")
    return float(seconds)


@attrs.frozen
class AsyncOptions:
    """The options of a background run; None means "not set".

    Attributes:
        queue: A name, or a function of the operation that returns one.
        priority: Higher runs sooner; 0 by default.
        in_: Seconds or a timedelta after the call.
        at: An aware datetime.
        expires_in: Seconds or a timedelta after the call, after which a pending run is ``expired``.
    """

    queue: QueueChoice | None = None
    priority: int | None = None
    in_: Delay | None = None
    at: datetime | None = None
    expires_in: Delay | None = None

    def check(self, where: str) -> None:
        """Refuse invalid options.

        Args:
            where: The call, for the message.

        Raises:
            OptionsError: An option is invalid.
        """
        if self.queue is not None and not callable(self.queue):
            check_queue(self.queue, where)
        if self.priority is not None and (type(self.priority) is not int or not -(2**31) <= self.priority < 2**31):
            raise OptionsError(
                f"{where}: priority={shortened(self.priority)}: expected an int of 32 bits; higher runs sooner."
            )
        if self.in_ is not None and self.at is not None:
            raise OptionsError(f"{where}: expected in_ (a delay) or at (a datetime), got both.")
        if self.in_ is not None:
            delay_seconds(self.in_, "in_", where)
        if self.expires_in is not None and not delay_seconds(self.expires_in, "expires_in", where):
            raise OptionsError(f"{where}: expires_in={shortened(self.expires_in)}: expected more than 0 seconds.")
        if self.at is not None:
            if not isinstance(self.at, datetime):
                raise OptionsError(f"{where}: at={shortened(self.at)}: expected an aware datetime.")
            if self.at.tzinfo is None or self.at.utcoffset() is None:
                raise OptionsError(
                    f"{where}: at={self.at!r}: expected an aware datetime, got a naive one. "
                    "Pass a time zone: datetime(..., tzinfo=timezone.utc) or ZoneInfo('Europe/Berlin')."
                )
            check_in_utc(self.at, f"{where}: at")

    def merged_over(self, base: AsyncOptions) -> AsyncOptions:
        """Return these options, with those of *base* for what is not set; `in_` or `at` replaces both."""
        has_time = self.in_ is not None or self.at is not None
        return AsyncOptions(
            base.queue if self.queue is None else self.queue,
            base.priority if self.priority is None else self.priority,
            self.in_ if has_time else base.in_,
            self.at if has_time else base.at,
            base.expires_in if self.expires_in is None else self.expires_in,
        )

    @classmethod
    def of(cls, where: str, keywords: dict[str, Any], extra: Sequence[str] = ()) -> AsyncOptions:
        """Return checked options from the keywords of a call.

        Raises:
            OptionsError: One of them is unknown or invalid.
        """
        if not keywords:
            return cls()
        known = [field.name for field in attrs.fields(cls)]
        for name in keywords:
            if name not in known:
                raise OptionsError(
                    f"{where}: unknown option {shortened(name)}; expected one of {listed([*known, *extra])}."
                    f"{did_you_mean(name, [*known, *extra])}"
                )
        options = cls(**keywords)
        options.check(where)
        return options


@attrs.frozen
class Reset:
    """Discards the entries of the base classes; the first entry of `retry_on`, `discard_on` or `pipeline`."""


@attrs.frozen
class Recording:
    """What the record of a run stores, and for how long.

    Attributes:
        params: Whether to store the props; otherwise only the message of a background run has them.
        result: Whether to store the result of `perform`.
        keep: How long workers and relays keep the record after the run has ended: a timedelta, text such as ``"30d"``
            or ``"forever"``, or a mapping from final statuses to them. A status without a time has that of the
            settings.

    Example:
        >>> from dexpy import Operation, Recording
        >>> class Charge(Operation):
        ...     record = Recording(keep={"done": "7d", "failed": "90d"})
        ...     def perform(self) -> None: ...
    """

    params: bool = True
    result: bool = True
    keep: Keep | None = None


def policy(method: Callable[[Any], T]) -> T:
    """For mypy: declares an attribute of a class that subclasses may annotate with and without ClassVar."""
    raise NotImplementedError(method)
