"""Policies: frozen values that a class declares about itself, and the rules that come of them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

import attrs

from dexpy.foundation.errors import DeclarationError, Error, OptionsError, did_you_mean, listed

Delay: TypeAlias = timedelta | float | int
Wait: TypeAlias = (
    timedelta | float | int | Literal["polynomially_longer", "exponentially_longer"] | Callable[[int], Delay]
)
QueueChoice: TypeAlias = str | Callable[[Any], str]

QUEUE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]{0,63}")
WAITS: dict[str, Callable[[int], float]] = {
    "polynomially_longer": lambda attempt: attempt**4 + 2.0,
    "exponentially_longer": lambda attempt: 2.0**attempt,
}


def check_queue(queue: object, where: str) -> str:
    """A queue name that every broker takes.

    Raises:
        OptionsError: It is not a str, or has signs that brokers refuse.
    """
    if not isinstance(queue, str) or not QUEUE_NAME.fullmatch(queue):
        raise OptionsError(
            f"{where}: queue={queue!r} is no queue name. A name has 1 to 64 letters, digits, '.', '_' or '-' "
            "and begins with a letter or '_'. Write queue='mailers', for one."
        )
    if queue.endswith((".DQ", ".XQ")):
        raise OptionsError(
            f"{where}: queue={queue!r} ends in .DQ or .XQ, which Dramatiq keeps for delayed and dead messages. "
            "Choose another name."
        )
    return queue


def seconds_of(delay: object, name: str, where: str) -> float:
    """A delay in seconds.

    Raises:
        OptionsError: It is no number and no timedelta, or negative, or not finite.
    """
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise OptionsError(f"{where}: {name}={delay!r} wants seconds or a timedelta. Write {name}=60, for one.")
    if not 0 <= seconds < 10**10:
        raise OptionsError(f"{where}: {name}={delay!r} must not be negative or without end. Write {name}=0 for now.")
    return float(seconds)


@attrs.frozen
class AsyncOptions:
    """How an operation goes to the background; None is "not said here".

    Attributes:
        queue: A name, or a function of the operation that gives one.
        priority: Higher runs sooner; 0 when nobody says otherwise.
        in_: Seconds or a timedelta from the call on.
        at: An aware moment.
        expires_in: Seconds or a timedelta from the call on, after which it is no longer begun, but ``expired``.
    """

    queue: QueueChoice | None = None
    priority: int | None = None
    in_: Delay | None = None
    at: datetime | None = None
    expires_in: Delay | None = None

    def check(self, where: str, at: str = "at") -> None:
        """Refuse options that cannot be.

        Args:
            where: They were given.
            at: What the moment is called there.

        Raises:
            OptionsError: Names the option, its value and what it wants.
        """
        if self.queue is not None and not callable(self.queue):
            check_queue(self.queue, where)
        if self.priority is not None and (type(self.priority) is not int or not -(2**31) <= self.priority < 2**31):
            raise OptionsError(f"{where}: priority={self.priority!r} wants an int; higher runs sooner, 0 is usual.")
        if self.in_ is not None and self.at is not None:
            raise OptionsError(f"{where}: in_ and at were both given. Give one: in_ is a delay, at a moment.")
        if self.in_ is not None:
            seconds_of(self.in_, "in_", where)
        if self.expires_in is not None and not seconds_of(self.expires_in, "expires_in", where):
            raise OptionsError(f"{where}: expires_in={self.expires_in!r} wants more than 0 seconds.")
        if self.at is not None:
            if not isinstance(self.at, datetime):
                raise OptionsError(f"{where}: {at}={self.at!r} wants an aware datetime.")
            if self.at.tzinfo is None or self.at.utcoffset() is None:
                raise OptionsError(
                    f"{where}: {at}={self.at!r} is naive, so nobody knows which moment it is. "
                    "Say which zone: datetime(..., tzinfo=timezone.utc), or ZoneInfo('Europe/Berlin')."
                )

    def over(self, base: AsyncOptions) -> AsyncOptions:
        """These options, and those of *base* where nothing is said here; timing of either kind replaces both."""
        timed = self.in_ is not None or self.at is not None
        return AsyncOptions(
            base.queue if self.queue is None else self.queue,
            base.priority if self.priority is None else self.priority,
            self.in_ if timed else base.in_,
            self.at if timed else base.at,
            base.expires_in if self.expires_in is None else self.expires_in,
        )

    @classmethod
    def of(cls, where: str, given: dict[str, Any], extra: Sequence[str] = ()) -> AsyncOptions:
        """Options from the keywords of a call, checked.

        Raises:
            OptionsError: One of them is unknown, or cannot be.
        """
        known = [field.name for field in attrs.fields(cls)]
        for name in given:
            if name not in known:
                raise OptionsError(
                    f"{where}: {name!r} is no option. The options are {listed([*known, *extra])}."
                    f"{did_you_mean(name, [*known, *extra])}"
                )
        options = cls(**given)
        options.check(where)
        return options


Cause: TypeAlias = type[BaseException] | str


def _check_causes(causes: tuple[Any, ...], where: str) -> None:
    if not causes:
        raise DeclarationError(f"{where} names no exception. Write {where.split('(')[0]}(ConnectionError), for one.")
    for cause in causes:
        if isinstance(cause, str) and cause:
            continue
        if not (isinstance(cause, type) and issubclass(cause, Exception)):
            raise DeclarationError(
                f"{where}: {cause!r} is neither an exception class nor an error code. "
                "Name classes derived from Exception, or codes of business errors."
            )


@attrs.frozen(init=False)
class Retry:
    """Run again when one of these exceptions, or business errors with these codes, ends an attempt.

    Args:
        causes: Exception classes, or codes of business errors.
        attempts: How many runs in all, the first included, counted for this rule alone; None for no end.
        wait: Seconds, a timedelta, ``"polynomially_longer"`` (n^4 + 2 s), ``"exponentially_longer"`` (2^n s),
            or a function of the number of attempts so far.
        jitter: Up to this share of the wait is added at random.

    Raises:
        DeclarationError: An argument that cannot be.

    Example:
        >>> Retry(ConnectionError, attempts=5, wait="polynomially_longer").wait_s(2, jitter_of=lambda: 0.0)
        18.0
    """

    causes: tuple[Cause, ...]
    attempts: int | None
    wait: Wait
    jitter: float

    def __init__(self, *causes: Cause, attempts: int | None = 5, wait: Wait = 3.0, jitter: float = 0.15) -> None:
        _check_causes(causes, "Retry(...)")
        if attempts is not None and (type(attempts) is not int or attempts < 1):
            raise DeclarationError(f"Retry(attempts={attempts!r}) wants an int of at least 1, or None for no end.")
        if isinstance(wait, str):
            if wait not in WAITS:
                raise DeclarationError(
                    f"Retry(wait={wait!r}) is not known. It takes seconds, a timedelta, a function, or one of "
                    f"{listed(WAITS)}.{did_you_mean(wait, WAITS)}"
                )
        elif not callable(wait):
            _declared_seconds(wait)
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
            raise DeclarationError(f"Retry(jitter={jitter!r}) wants a share between 0 and 1.")
        made: Any = self
        made.__attrs_init__(causes, attempts, wait, float(jitter))

    def wait_s(self, attempt: int, jitter_of: Callable[[], float] = random.random) -> float:
        """Seconds to wait after this many attempts.

        Args:
            attempt: Attempts so far that ended by this rule, at least 1.
            jitter_of: Gives a number between 0 and 1.
        """
        if isinstance(self.wait, str):
            seconds = WAITS[self.wait](min(attempt, 100))
        elif callable(self.wait):
            seconds = seconds_of(self.wait(attempt), "wait", "Retry")
        else:
            seconds = seconds_of(self.wait, "wait", "Retry")
        return min(seconds * (1 + self.jitter * jitter_of()), 10.0**9)

    @property
    def key(self) -> str:
        """Names the rule in a record's counters."""
        return "|".join(cause if isinstance(cause, str) else cause.__qualname__ for cause in self.causes)


def _declared_seconds(wait: object) -> None:
    try:
        seconds_of(wait, "wait", "Retry")
    except OptionsError as error:
        raise DeclarationError(str(error)) from None


@attrs.frozen
class Reset:
    """First in `retry_on`, `discard_on` or `steps`: forget what the base classes declared."""


@attrs.frozen
class Record:
    """What the record of a run keeps.

    Attributes:
        params: The props. Without them a background run carries them in its message instead.
        result: What `perform` returned.
    """

    params: bool = True
    result: bool = True


@attrs.frozen
class Rule:
    """One entry of `retry_on`, `discard_on` or `rescue_from`, with its place.

    Attributes:
        cause: What it is for.
        answer: A `Retry`; None to discard; a code, exception class or function to rescue.
        distance: How far up the class that declared it is: 0 is the operation itself.
        order: Its place in that declaration.
    """

    cause: Cause
    answer: Any
    distance: int
    order: int


def choose(rules: Sequence[Rule], error: BaseException, code: str | None = None) -> Rule | None:
    """The rule for an exception: the most specific class, then the nearest declaration, then the later one.

    Args:
        rules: All that there are.
        error: What ended the attempt.
        code: Its code, for a business error: a rule for the code is the most specific of all.
    """
    kinds = type(error).__mro__
    best: tuple[tuple[int, int, int], Rule] | None = None
    for rule in rules:
        if isinstance(rule.cause, str):
            if rule.cause != code:
                continue
            depth = -1
        elif rule.cause in kinds and (code is None or issubclass(rule.cause, Error)):
            # A rule for Exception is not meant for business errors: those are named.
            depth = kinds.index(rule.cause)
        else:
            continue
        rank = (depth, rule.distance, -rule.order)
        if best is None or rank < best[0]:
            best = rank, rule
    return best[1] if best else None
