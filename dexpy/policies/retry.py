"""`Retry`: the policy that retries failed attempts."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal, TypeAlias, cast

import attrs

from dexpy.foundation.errors import DeclarationError, OptionsError, did_you_mean, listed
from dexpy.foundation.exception_groups import leaves_of
from dexpy.policies.options import Delay, delay_seconds

Wait: TypeAlias = (
    timedelta
    | float
    | int
    | Literal["polynomially_longer", "exponentially_longer"]
    | Callable[[int], Delay]
    | Callable[[int, Any], Delay]
)
LONGEST_WAIT_S = 10.0**9
"""The longest wait before the next attempt, in seconds."""
WAITS: dict[str, Callable[[int], float]] = {
    "polynomially_longer": lambda attempt: attempt**4 + 2.0,
    "exponentially_longer": lambda attempt: 2.0**attempt,
}


Cause: TypeAlias = type[BaseException] | str
Causes: TypeAlias = type[Exception] | str | tuple[type[Exception] | str, ...]
"""An exception class or a code, or a tuple of them as in ``except (A, B)``; nested tuples are accepted too."""
Exceptions: TypeAlias = type[Exception] | tuple[type[Exception], ...]
"""An exception class, or a tuple of them."""


def causes_in(causes: object) -> Iterator[object]:
    """Flatten exception classes and codes, in tuples as in ``except (A, B)``, however nested."""
    if isinstance(causes, tuple) and causes:
        for cause in cast("tuple[object, ...]", causes):
            yield from causes_in(cause)
    else:
        yield causes


def _check_causes(causes: tuple[Any, ...], where: str) -> None:
    if not causes:
        raise DeclarationError(f"{where}: expected exception classes or error codes, got none.")
    for cause in causes:
        if isinstance(cause, str) and cause:
            continue
        if not (isinstance(cause, type) and issubclass(cause, Exception)):
            raise DeclarationError(
                f"{where}: expected subclasses of Exception or codes of business errors, got {cause!r}."
            )


@attrs.frozen(init=False)
class Retry:
    """Retry after one of these exceptions, or business errors with these codes, ends an attempt.

    Args:
        causes: Exception classes, or codes of business errors, or tuples of them.
        attempts: The maximum number of attempts, including the first, counted for this rule only; None for no limit.
        wait: Seconds, a timedelta, ``"polynomially_longer"`` (n^4 + 2 s), ``"exponentially_longer"`` (2^n s),
            or a function of the number of attempts so far, which may take the exception as its second parameter.
        jitter: The share of the wait, from 0 to 1, up to which a random time is added.

    Raises:
        DeclarationError: An argument is invalid.

    Example:
        >>> Retry(ConnectionError, attempts=5, wait="polynomially_longer").wait_s(2, jitter_of=lambda: 0.0)
        18.0
        >>> after = Retry(TimeoutError, wait=lambda attempt, error: error.args[0], jitter=0)
        >>> after.wait_s(1, error=TimeoutError(500))
        500.0
    """

    causes: tuple[Cause, ...]
    attempts: int | None
    wait: Wait
    jitter: float

    def __init__(
        self,
        *causes: Cause | tuple[Cause, ...],
        attempts: int | None = 5,
        wait: Wait = 3.0,
        jitter: float = 0.15,
    ) -> None:
        flat_causes = tuple(cause for group in causes for cause in causes_in(group))
        _check_causes(flat_causes, "Retry(...)")
        if attempts is not None and (type(attempts) is not int or attempts < 1):
            raise DeclarationError(
                f"Retry(attempts={attempts!r}): expected an int of at least 1, or None for no limit."
            )
        if isinstance(wait, str):
            if wait not in WAITS:
                raise DeclarationError(
                    f"Retry(wait={wait!r}): expected seconds, a timedelta, a function, or one of {listed(WAITS)}."
                    f"{did_you_mean(wait, WAITS)}"
                )
        elif callable(wait):
            _takes_error(wait)
        else:
            _declared_seconds(wait)
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter <= 1:
            raise DeclarationError(f"Retry(jitter={jitter!r}): expected a number from 0 to 1.")
        instance: Any = self
        instance.__attrs_init__(flat_causes, attempts, wait, float(jitter))

    def wait_s(
        self, attempt: int, jitter_of: Callable[[], float] = random.random, *, error: BaseException | None = None
    ) -> float:
        """Return the seconds to wait after this many attempts, at most `LONGEST_WAIT_S`.

        Args:
            attempt: Attempts so far that ended by this rule, at least 1.
            jitter_of: Returns a number between 0 and 1.
            error: The exception that ended the attempt. For a group, the longest wait of its matching members applies.

        Raises:
            OptionsError: The rule's function returned neither a number of 0 or more nor such a timedelta.
            Exception: Whatever the rule's function raises.
        """
        if isinstance(self.wait, str):
            seconds = WAITS[self.wait](min(attempt, 100))
        elif not callable(self.wait):
            seconds = delay_seconds(self.wait, "wait", "Retry")
        elif _takes_error(self.wait):
            seconds = max(self._call_wait(attempt, cause) for cause in self._relevant_errors(error))
        else:
            seconds = self._call_wait(attempt)
        return min(seconds * (1 + self.jitter * jitter_of()), LONGEST_WAIT_S)

    def _relevant_errors(self, error: BaseException | None) -> list[BaseException | None]:
        if error is None or isinstance(error, tuple(cause for cause in self.causes if isinstance(cause, type))):
            return [error]
        return [*leaves_of(error)]

    def _call_wait(self, *arguments: Any) -> float:
        wait: Any = self.wait
        try:
            returned: Any = wait(*arguments)
        except OverflowError:
            # The result exceeds the range of a float or a timedelta.
            return LONGEST_WAIT_S
        seconds = returned.total_seconds() if isinstance(returned, timedelta) else returned
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
            got = str(seconds)[:20] if type(seconds) in (int, float) else type(returned).__name__
            raise OptionsError(f"Retry(wait=...): expected 0 or more seconds, or a timedelta, got {got}")
        return float(min(seconds, LONGEST_WAIT_S))

    @property
    def key(self) -> str:
        """The name of the rule in a record's counters: classes with their module, codes in quotes."""
        return "|".join(_quoted(cause) if isinstance(cause, str) else _path(cause) for cause in self.causes)

    @property
    def earlier_key(self) -> str:
        """The name of the rule in earlier releases, in rows between two attempts."""
        return "|".join(cause if isinstance(cause, str) else cause.__qualname__ for cause in self.causes)


def _quoted(code: str) -> str:
    escaped = code.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _path(kind: type[BaseException]) -> str:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    for sign in ("\\", "|", "'"):
        name = name.replace(sign, "\\" + sign)
    return name


def _takes_error(wait: Callable[..., Any]) -> bool:
    """Return whether a wait function takes the exception: as a second parameter, without a default or with None.

    Raises:
        DeclarationError: It can be called neither with a number nor with a number and an exception.
    """
    if inspect.iscoroutinefunction(wait) or inspect.iscoroutinefunction(getattr(wait, "__call__", None)):  # noqa: B004
        raise DeclarationError("Retry(wait=...): expected a plain function, got an async def. Write a def or a lambda.")
    try:
        parameters = list(inspect.signature(wait).parameters.values())
    except (TypeError, ValueError):
        # A builtin without a signature.
        return False
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    required_keywords = [
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    ]
    takes_one = bool(positional) or any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    if required_keywords or not takes_one or len(required) > 2:
        raise DeclarationError(
            "Retry(wait=...): expected a function of the number of attempts, or of that number and the exception, got "
            f"one that takes {_signature(wait)}. Write wait=lambda attempt: 60 or wait=lambda attempt, error: 60."
        )
    return len(required) == 2 or (len(positional) > 1 and positional[1].default is None)


def _signature(function: Callable[..., Any]) -> str:
    return str(inspect.signature(function))[:100]


def _declared_seconds(wait: object) -> None:
    try:
        delay_seconds(wait, "wait", "Retry")
    except OptionsError as error:
        raise DeclarationError(str(error)) from None
