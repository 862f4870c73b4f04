"""Every exception of dexpy, as a tree. `dexpy.errors` is their public module.

::

    DexpyError
    ├─ DeclarationError (TypeError)        a class statement that cannot work
    ├─ PropsError (TypeError, ValueError)  bad input to one operation, all problems at once
    ├─ OptionsError (TypeError, ValueError)  bad options of a call: async_(...), Retry(...), wait(...)
    ├─ NotSerializable (TypeError)         a value that cannot travel through JSON
    ├─ Undecodable (ValueError)            stored JSON that no longer fits its operation
    ├─ ConfigurationError                  settings, servers, modules
    │  ├─ MissingExtra (ImportError)       a package that an extra installs
    │  └─ EncryptorMissing                 an encryptor that no configuration names
    ├─ DatabaseUnavailable                 the database cannot be opened
    │  ├─ DatabaseBusy                     SQLite's one write lock was not to be had
    │  └─ SchemaMissing                    without the tables of dexpy, or with those of another version
    ├─ BrokerUnavailable                   the broker does not answer, and the settings insist on it
    ├─ Error                               a business error: code, message, details
    ├─ UndeclaredError                     a business error with a code that was never declared
    ├─ ResultTypeError (TypeError)         perform returned something else than it says
    ├─ RefNotFound (LookupError)           the row behind a Ref is gone
    ├─ SensitiveInTransit                  a sensitive prop in a message, in the clear
    ├─ DecryptionFailed                    what is stored does not decrypt
    ├─ FrozenOperation (AttributeError)    self.memo = ... in an operation, which is frozen
    ├─ NotRunning                          something that only works inside a run
    ├─ StepError                           self.step or self.each where it cannot be, or in another order
    ├─ SessionOnLoop                       self.session on the event loop
    ├─ TransactionOwned                    commit, rollback or close inside perform
    ├─ UnknownOperation (LookupError)      a name that the registry does not know
    ├─ RecordNotFound (LookupError)        an id that the records do not know
    ├─ InvalidTransition                   the record is in a state that does not allow this
    ├─ KeyBusy (TimeoutError)              another run with the idempotency key has not ended in time
    ├─ OnceConflict                        an idempotency key that was used with other params
    ├─ KeyTaken                            retry() of a record whose key another run holds
    ├─ NotUnique                           another run holds the unique key, and the class wants to be told
    ├─ LockLost                            the lock of a run was gone before its commit
    ├─ WorkerLost                          a run's worker died; named in rules, raised by nothing
    ├─ TimedOut (TimeoutError)             the run took longer than its class allows
    └─ TicketError
       ├─ NotRecorded                      the run has no record to ask
       ├─ NotCommitted                     the caller's transaction is still open
       ├─ RolledBack                       the caller's transaction was rolled back
       ├─ ResultNotStored                  the result has no JSON form
       ├─ OperationFailed                  the run failed, not by a business error
       └─ WaitTimeout (TimeoutError)       the run has not ended in time

    BaseException
    ├─ LostClaim                           the run's claim went to another worker
    ├─ Cancelled                           the run was called off while it ran
    └─ Interrupted                         the run was given back between two steps

Messages say what was done, why it cannot be, and what to do.
The facts are attributes too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import attrs

from dexpy.foundation.pickling import PicklableError
from dexpy.foundation.safe_text import class_name, shortened, text_of

SENSITIVE = "<sensitive>"
"""Replaces the value of a sensitive prop in every output."""


class DexpyError(PicklableError, Exception):
    """The base of all that dexpy raises, but for `LostClaim`, `Cancelled` and `Interrupted`."""

    def __init__(self, *args: Any) -> None:
        # Text from outside may have lone surrogates, which no stream prints.
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))


def printable(text: str) -> str:
    """Return a text that every stream can print: lone surrogates as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class DeclarationError(DexpyError, TypeError):
    """A class statement, policy or annotation that cannot work."""


@attrs.frozen
class Problem:
    """One thing wrong with one value.

    Attributes:
        path: Where, from the value's own root: ``""``, ``".sku"``, ``"[2].sku"``, ``"['k']"``.
        expected: What would have been right, as a noun phrase: ``"int"``, ``"a value >= 0"``.
        got: What was there, as text; empty where nothing was.
    """

    path: str
    expected: str
    got: str = ""

    def under(self, prefix: str) -> Problem:
        """Return the same problem, seen from one level further out."""
        return Problem(prefix + self.path, self.expected, self.got)

    def hidden(self) -> Problem:
        """Return the same problem without its value."""
        return attrs.evolve(self, got=SENSITIVE) if self.got else self

    def __str__(self) -> str:
        got = f", got {self.got}" if self.got else ""
        return f"{self.path.lstrip('.')}: wants {self.expected}{got}"


class PropsError(DexpyError, TypeError, ValueError):
    """Bad input to one operation: every problem at once, the first `MAX_PROBLEMS` in full.

    Attributes:
        operation: Name of the operation class.
        problems: One `Problem` for each thing that is wrong; its path begins with the prop.
            None when what was given is no set of props at all; the message says so then.
        left_out: How many more there are.
    """

    MAX_PROBLEMS = 100
    MAX_CHARACTERS = 8000

    def __init__(self, operation: str, problems: Sequence[Problem], *, advice: str = "") -> None:
        self.operation = operation
        self.problems = tuple(problems[: self.MAX_PROBLEMS])
        self.left_out = len(problems) - len(self.problems)
        if not self.problems:
            super().__init__(f"{operation} cannot be made: {advice}")
            return
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"{operation} cannot be made, its props have {count}:"]
        length = listed_here = 0
        for problem in self.problems:
            text = str(problem)
            lines.append(f"  {text}" if len(text) <= 1000 else f"  {text[:999]}…")
            listed_here += 1
            length += len(lines[-1])
            if length > self.MAX_CHARACTERS:
                break
        if len(problems) > listed_here:
            lines.append(f"  and {len(problems) - listed_here} more")
        if advice:
            lines.append(advice)
        super().__init__("\n".join(lines))


class OptionsError(DexpyError, TypeError, ValueError):
    """Options of a call that cannot be: unknown, contradictory or out of range."""


class NotSerializable(DexpyError, TypeError):
    """A value that cannot go through JSON and come back exactly.

    The value itself is never part of the message.

    Attributes:
        path: Where it is, from the prop on: ``items[3].file``.
        reason: Why it cannot travel.
        owner: The operation, once it is known.
    """

    def __init__(self, reason: str, *, path: str = "", owner: str = "") -> None:
        self.path = path
        self.reason = reason
        self.owner = owner
        where = path.lstrip(".") or "the value"
        prefix = f"{owner} cannot go to the background: " if owner else ""
        super().__init__(f"{prefix}{where} {reason}")

    def under(self, prefix: str) -> NotSerializable:
        """Return the same refusal, seen from one level further out."""
        return NotSerializable(self.reason, path=prefix + self.path, owner=self.owner)

    def of(self, owner: str) -> NotSerializable:
        """Return the same refusal, with the operation named."""
        return NotSerializable(self.reason, path=self.path, owner=owner)

    def about(self, subject: str, *, is_result: bool = False) -> NotSerializable:
        """Return the same refusal, with advice about something else than a prop; what was named first stays.

        Args:
            subject: What has to be given another type, or another value.
            is_result: It is returned, and not passed.
        """
        reason = self.reason.replace("give the prop a type", f"give {subject} a type")
        if is_result:
            reason = reason.replace("pass an id", "return an id")
        return NotSerializable(reason, path=self.path, owner=self.owner)


class Undecodable(DexpyError, ValueError):
    """Stored JSON that no longer fits its operation.

    Attributes:
        operation: Name of the operation class.
        problems: What does not fit; values are left out.
    """

    def __init__(self, operation: str, problems: Sequence[Problem]) -> None:
        self.operation = operation
        self.problems = tuple(problem.hidden() for problem in problems)
        listed = "; ".join(str(problem) for problem in self.problems)
        super().__init__(f"{operation}: the stored params no longer fit: {listed}")


class ConfigurationError(DexpyError):
    """Settings, modules or servers that cannot be used as they are."""


class MissingExtra(ConfigurationError, ImportError):
    """A package that one of dexpy's extras installs is not there.

    Attributes:
        extra: The extra's name, as in ``pip install "dexpy-operations[postgres]"``.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        self.extra = extra
        self.package = package
        super().__init__(
            f"{what} needs the package {package!r}, which is not installed. "
            f'Run: pip install "dexpy-operations[{extra}]"'
        )


class EncryptorMissing(ConfigurationError):
    """A class is encrypted, or a row of it was, by an encryptor that this process does not have.

    Attributes:
        operation: The operation's stable name.
        encryptor: The encryptor's name.
    """

    def __init__(self, operation: str, encryptor: str, hint: str = "") -> None:
        self.operation = operation
        self.encryptor = encryptor
        keys = ", or give keys: DEXPY_ENCRYPTION_KEYS" if encryptor == "default" else ""
        super().__init__(
            f"{operation} is encrypted by {encryptor!r}, and this process has no encryptor of that name.{hint} "
            f"Write dexpy.configure(encryptors={{{encryptor!r}: ...}}){keys}."
        )


class DatabaseUnavailable(DexpyError):
    """The database of the records cannot be opened or read."""


class DatabaseBusy(DatabaseUnavailable):
    """Another transaction has held SQLite's one write lock for all of the time that a writer waits, or is the one
    around the write, which would wait for itself; nothing was written.

    Attributes:
        may_end: Whether the same write may succeed later; not in the transaction that holds the lock.
    """

    def __init__(self, message: str, *, may_end: bool = True) -> None:
        super().__init__(message)
        self.may_end = may_end


class BrokerUnavailable(DexpyError):
    """The broker does not answer, and ``configure(on_broker_error="raise")`` wants to be told of it at the enqueue."""


class SchemaMissing(DatabaseUnavailable):
    """The database has no tables of dexpy, or those of another version.

    Attributes:
        problems: What is missing.
    """

    def __init__(self, database: str, problems: Sequence[str], advice: str = "Run: dexpy db init") -> None:
        self.problems = tuple(problems)
        super().__init__(f"The database {database} is not ready for dexpy: {'; '.join(self.problems)}. {advice}")


class Error(DexpyError):
    """A business error: an outcome that the operation foresees, with a code.

    Raised in `perform` it ends the run as an `Err`; raised by `call()` it says that a run ended so.

    Args:
        code: The error's code, one of the operation's declared `errors`.
        message: For people; the code's description, or the code itself, when left out.
        details: A JSON object with facts.

    Example:
        >>> raise Error("no_balance", "Nothing to send", details={"balance": "0"})
        Traceback (most recent call last):
        ...
        dexpy.errors.Error: no_balance: Nothing to send
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        operation: str | None = None,
    ) -> None:
        if not isinstance(code, str) or not code:
            raise TypeError(f"Error(code, ...) wants a non-empty str as its code, got {code!r}.")
        # Plain text: a subclass of str may raise in any method, where the error is to be written.
        self.code = text_of(code)
        self.message = self.code if message is None else text_of(message)
        self.has_message = message is not None
        self.details: dict[str, Any] = {} if details is None else _entries(details)
        self.operation = operation
        super().__init__(self.code if message is None else f"{self.code}: {self.message}")


def _entries(details: Mapping[str, Any]) -> dict[str, Any]:
    try:
        # The base's own entries: a subclass may override every method that returns them.
        if isinstance(details, dict):
            return dict(cast("Any", dict).items(details))
        return dict(details)
    except Exception:
        if not isinstance(details, Mapping):
            raise
        return {"details": f"<{class_name(details)}>"}


class UndeclaredError(DexpyError):
    """A business error whose code the operation never declared: a mistake in the program.

    Attributes:
        operation: Name of the operation class.
        code: The code that was raised.
    """

    def __init__(self, operation: str, code: str, declared: Iterable[str]) -> None:
        self.operation = operation
        self.code = code
        self.declared = tuple(sorted(declared))
        super().__init__(
            f"{operation} raised Error({code!r}), a code that it does not declare. "
            f"Its codes are {listed(self.declared)}.{did_you_mean(code, self.declared)} "
            f"Add {code!r} to the class's errors."
        )


class ResultTypeError(DexpyError, TypeError):
    """`perform` returned something else than its annotation says."""


class RefNotFound(DexpyError, LookupError):
    """The row that a `Ref` names is not in the database.

    Attributes:
        operation: Name of the operation class.
        prop: The prop that holds the reference.
        model: Name of the model.
        key: The key that was not found.
    """

    def __init__(self, operation: str, prop: str, model: str, key: object) -> None:
        self.operation = operation
        self.prop = prop
        self.model = model
        self.key = key
        super().__init__(f"{operation}: {prop} refers to {model} {shortened(key)}, and there is no such row.")


class NotRunning(DexpyError):
    """Something was used outside of a run that only exists inside one."""


class FrozenOperation(DexpyError, attrs.exceptions.FrozenInstanceError):
    """An attribute of an operation was set or deleted: operations are frozen.

    Attributes:
        operation: Name of the operation class.
        attribute: Name of the attribute.
    """

    def __init__(self, operation: str, attribute: str, advice: str) -> None:
        AttributeError.__init__(
            self, f"{operation}.{attribute}: operations are frozen, so it cannot be set or deleted. {advice}"
        )
        self.operation = operation
        self.attribute = attribute


class StepError(DexpyError):
    """``self.step`` or ``self.each`` where it cannot be, or in another order than in an earlier attempt.

    Attributes:
        operation: Name of the operation class.
        step: Name of the step.
    """

    def __init__(self, operation: str, step: str, why: str) -> None:
        self.operation = operation
        self.step = step
        super().__init__(f"{operation}: the step {step!r} {why}")


class SessionOnLoop(DexpyError):
    """`self.session` was used on the event loop, where blocking work must not run."""


class TransactionOwned(DexpyError):
    """The transaction of a run belongs to the run: it commits and rolls back by itself."""


class UnknownOperation(DexpyError, LookupError):
    """No operation of this name is declared in this process."""


class RecordNotFound(DexpyError, LookupError):
    """No record has this id."""


class InvalidTransition(DexpyError):
    """The record is in a state that does not allow the transition; the row is unchanged.

    Attributes:
        id: The record's id.
        event: The transition: expire, fail, cancel, retry, reschedule.
        status: The state that the record is in.
    """

    def __init__(self, id: str, event: str, status: str, advice: str) -> None:
        self.id = id
        self.event = event
        self.status = status
        super().__init__(f"{event} of {id} is not possible: it is {status}. {advice}")


class KeyBusy(DexpyError, TimeoutError):
    """Another run with the same key has not ended in time, or its transaction is still open; nothing was run or stored.

    Attributes:
        operation: The operation's stable name.
        waited_s: How long was waited, in seconds.
        id: The record that has the key; None while its transaction is open, and its row not visible.
    """

    def __init__(self, operation: str, waited_s: float, id: str | None = None) -> None:
        self.operation = operation
        self.waited_s = waited_s
        self.id = id
        reason = f"the run {id} has it, and goes on" if id else "a transaction that is still open holds it"
        super().__init__(f"{operation}: its key was not free within {waited_s:g} s: {reason}. Try again later.")


class OnceConflict(DexpyError):
    """An idempotency key was used before with other params; nothing was run or stored.

    Attributes:
        operation: The operation's stable name.
        id: Of the record that has the key.
    """

    def __init__(self, operation: str, id: str) -> None:
        self.operation = operation
        self.id = id
        super().__init__(
            f"{operation}: the run {id} had the same idempotency key and other params. A key stands for one request: "
            'use another key, or declare Once(..., params="ignore") to be given the first one\'s result.'
        )


class KeyTaken(DexpyError):
    """A record cannot be run again, because another run holds its key; the row is unchanged.

    Attributes:
        id: The record's id.
        kind: Which key: once or unique.
        holder: Id of the record that has it.
    """

    def __init__(self, id: str, kind: str, holder: str) -> None:
        self.id = id
        self.kind = kind
        self.holder = holder
        super().__init__(f"retry of {id} is not possible: the run {holder} holds its {kind} key. Nothing was changed.")


class NotUnique(DexpyError):
    """Another run holds the unique key; nothing was stored.

    Attributes:
        operation: The operation's stable name.
        id: Of the record that has the key.
    """

    def __init__(self, operation: str, id: str) -> None:
        self.operation = operation
        self.id = id
        super().__init__(f"{operation}: the run {id} holds its unique key. Nothing was stored or sent.")


class TicketError(DexpyError):
    """The base of what a ticket raises."""


class NotRecorded(TicketError):
    """The run has no record, so there is nothing to ask."""


class NotCommitted(TicketError):
    """The transaction that holds the record is still open: no worker can see it yet."""


class RolledBack(TicketError):
    """The transaction that held the record was rolled back: there is no record, nothing will run."""


class ResultNotStored(TicketError):
    """The run is done, but its result has no JSON form and was not stored."""


class OperationFailed(TicketError):
    """The run ended, neither done nor by a business error.

    Attributes:
        id: The record's id.
        operation: The operation's stable name.
        failure: crash, lost, timeout, discarded, cancelled, expired, unknown or undecodable.
        exception_class: Class path of the exception, where there was one.
        exception_message: Its redacted message.
    """

    def __init__(
        self,
        id: str,
        operation: str,
        failure: str,
        exception_class: str | None,
        exception_message: str | None,
    ) -> None:
        self.id = id
        self.operation = operation
        self.failure = failure
        self.exception_class = exception_class
        self.exception_message = exception_message
        description = ": ".join(part for part in (exception_class, exception_message) if part)
        super().__init__(f"{operation} {id} failed ({failure}){': ' + description if description else ''}")


class WaitTimeout(TicketError, TimeoutError):
    """The run has not ended in the time given; it goes on.

    Attributes:
        id: The record's id.
        operation: The operation's stable name.
        timeout_s: How long was waited, in seconds.
    """

    def __init__(self, id: str, operation: str, timeout_s: float, status: str) -> None:
        self.id = id
        self.operation = operation
        self.timeout_s = timeout_s
        super().__init__(f"{operation} {id} has not ended after {timeout_s:g} s; it is {status} and goes on.")


class LostClaim(PicklableError, BaseException):
    """The claim of this run went to another worker; nothing of it may be committed.

    A `BaseException`, so that no rule, rescue or ``except Exception`` takes it for a crash.
    """


class Cancelled(PicklableError, BaseException):
    """The run was called off while it ran: it is rolled back, and not run again.

    A `BaseException`, so that no rule, rescue or ``except Exception`` takes it for a crash.
    """


class Interrupted(PicklableError, BaseException):
    """The worker is about to end: the run was given back between two steps, and goes on after the last one.

    A `BaseException`, so that no rule, rescue or ``except Exception`` takes it for a crash.
    """


class LockLost(DexpyError):
    """The lock of a run was gone before its commit: rolled back, for another run may have had it meanwhile."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"{operation}: its lock was lost while it ran, with the connection that held it for one. "
            "What it did was rolled back; call it again."
        )
        self.operation = operation


class WorkerLost(DexpyError):
    """The worker of a run died or froze. Nothing raises it: ``retry_on`` names it, and records store it.

    Example:
        >>> from dexpy import Retry, WorkerLost
        >>> Retry(WorkerLost, attempts=5, wait=60).attempts
        5
    """


class TimedOut(DexpyError, TimeoutError):
    """The run took longer than its class allows; raised inside `perform`, which may tidy up and let it pass."""

    def __init__(self, message: str = "The run took longer than its class allows.") -> None:
        super().__init__(message)


class DecryptionFailed(DexpyError):
    """What is stored does not decrypt: its key is not there any more, or it is not what was stored there.

    Attributes:
        operation: The operation's stable name.
        encryptor: The encryptor's name.
    """

    def __init__(
        self,
        operation: str,
        encryptor: str,
        why: str,
        advice: str = "Give it the key that encrypted it, behind the present one, and retry.",
    ) -> None:
        self.operation = operation
        self.encryptor = encryptor
        super().__init__(f"What is stored of {operation} does not decrypt by {encryptor!r} ({why}). {advice}")


class SensitiveInTransit(DexpyError):
    """A sensitive prop would lie in a broker message for anybody to read."""


# The public module: users import it, and records store it in an exception's class path.
for _error in [value for value in vars().values() if isinstance(value, type) and issubclass(value, BaseException)]:
    _error.__module__ = "dexpy.errors"


MAX_WORD_LENGTH = 100
"""Characters of a name that is compared with others, which takes the product of both lengths."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a suggestion as a sentence with a leading space, or "" for an unknown or very long word."""
    if not isinstance(word, str) or len(word) > MAX_WORD_LENGTH:  # pyright: ignore[reportUnnecessaryIsInstance]
        return ""
    close = difflib.get_close_matches(word, [name for name in known if len(name) <= MAX_WORD_LENGTH], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without users and passwords of URLs; its class if it has none."""
    lines = text_of(error).strip().splitlines()
    return re.sub(r"://[^\s/]*@", "://", lines[0]) if lines else type(error).__name__


def listed(words: Iterable[str]) -> str:
    """Return words for a message: sorted, quoted, with commas; "none" when there are none."""
    return ", ".join(repr(word) for word in sorted(words)) or "none"
