"""Every exception of dexpy, as a tree. `dexpy.errors` is their public module.

::

    DexpyError
    ├─ DeclarationError (TypeError)        an invalid class, policy or annotation
    ├─ PropsError (TypeError, ValueError)  invalid props of one operation, all problems at once
    ├─ OptionsError (TypeError, ValueError)  invalid options of a call: async_(...), Retry(...), wait(...)
    ├─ NotSerializable (TypeError)         a value without a JSON form
    ├─ Undecodable (ValueError)            stored JSON that does not match the operation any more
    ├─ ConfigurationError                  invalid settings, unusable servers or modules
    │  ├─ MissingExtra (ImportError)       a package of an extra is not installed
    │  └─ EncryptorMissing                 an encryptor is not configured
    ├─ DatabaseUnavailable                 the database is unreachable, locked or unreadable
    │  ├─ DatabaseBusy                     another transaction holds SQLite's write lock
    │  └─ SchemaMissing                    tables of dexpy are missing, or of another version
    ├─ BrokerUnavailable                   the broker is unreachable, and the settings require it
    ├─ Error                               a business error: code, message, details
    ├─ UndeclaredError                     a business error whose code the operation does not declare
    ├─ ResultTypeError (TypeError)         the result does not match the return annotation of perform
    ├─ RefNotFound (LookupError)           the row of a Ref does not exist
    ├─ SensitiveInTransit                  a sensitive prop would be sent unencrypted
    ├─ DecryptionFailed                    the decryption of stored data failed
    ├─ FrozenOperation (AttributeError)    an attribute of an operation was set or deleted
    ├─ NotRunning                          something that works inside a run only
    ├─ StepError                           self.step or self.each in an invalid place or order
    ├─ SessionOnLoop                       self.session on the event loop
    ├─ TransactionOwned                    commit, rollback or close inside perform
    ├─ UnknownOperation (LookupError)      no operation of this name is declared in this process
    ├─ RecordNotFound (LookupError)        no record has this id
    ├─ RecurringTaskNotFound (LookupError) no recurring task has this key
    ├─ BatchNotFound (LookupError)         no batch has this id
    ├─ BatchEnded                          a run was added to a batch that has ended or is cancelled
    ├─ InvalidTransition                   the status of the record does not allow the transition
    ├─ KeyBusy (TimeoutError)              another run still holds the idempotency key after the wait
    ├─ QueueFull                           the queue has a limit and is full
    ├─ OnceConflict                        the idempotency key was used with other params
    ├─ KeyTaken                            retry() of a record whose key another run holds
    ├─ NotUnique                           another run holds the unique key, with on_conflict="raise"
    ├─ LockLost                            the run lost its lock before its commit
    ├─ WorkerLost                          the worker of a run died; for rules and records, never raised
    ├─ TimedOut (TimeoutError)             the run exceeded the timeout of its class
    └─ TicketError
       ├─ NotRecorded                      the run has no record
       ├─ NotCommitted                     the caller's transaction is still open
       ├─ RolledBack                       the caller's transaction was rolled back
       ├─ ResultNotStored                  the result has no JSON form
       ├─ OperationFailed                  the run failed, other than by a business error
       └─ WaitTimeout (TimeoutError)       the run did not end within the timeout

    BaseException
    ├─ LostClaim                           another worker has claimed the run
    ├─ Cancelled                           the run was cancelled while it ran
    └─ Interrupted                         the worker is stopping: the run was interrupted between two steps

Messages state what is wrong, what was expected, and how to fix it; the facts are also attributes.
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
    """The base class of every exception of dexpy except `LostClaim`, `Cancelled` and `Interrupted`."""

    def __init__(self, *args: Any) -> None:
        # Text from outside may contain lone surrogates, which no stream can encode.
        super().__init__(*(printable(arg) if isinstance(arg, str) else arg for arg in args))


def printable(text: str) -> str:
    """Return a text that every stream can print, with lone surrogates as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class DeclarationError(DexpyError, TypeError):
    """An invalid class statement, policy or annotation."""


@attrs.frozen
class Problem:
    """One problem of one value.

    Attributes:
        path: The path from the root of the value: ``""``, ``".sku"``, ``"[2].sku"``, ``"['k']"``.
        expected: A noun phrase for valid values: ``"int"``, ``"a value >= 0"``; empty if `reason` is enough.
        got: The invalid value as text; empty if there is none.
        reason: What is wrong, if `expected` does not imply it: ``"missing"``, ``"unknown prop"``. Never contains a
            value.
    """

    path: str
    expected: str = ""
    got: str = ""
    reason: str = ""

    def under(self, prefix: str) -> Problem:
        """Return the same problem with a prefix added to its path."""
        return Problem(prefix + self.path, self.expected, self.got, self.reason)

    def hidden(self) -> Problem:
        """Return the same problem with its value redacted."""
        return attrs.evolve(self, got=SENSITIVE) if self.got else self

    def without_value(self) -> Problem:
        """Return the same problem without its value."""
        return attrs.evolve(self, got="")

    def __str__(self) -> str:
        parts = [self.reason] if self.reason else []
        if self.expected:
            parts.append(f"expected {self.expected}")
        text = "; ".join(parts)
        if self.got:
            text += f", got {self.got}" if self.expected else f": {self.got}"
        return f"{self.path.lstrip('.')}: {text}"


class PropsError(DexpyError, TypeError, ValueError):
    """Invalid props of one operation, with all problems at once; the first `MAX_PROBLEMS` are listed.

    Attributes:
        operation: Name of the operation class.
        problems: The problems; each path begins with the name of the prop. Empty if the input is not a set of props.
        left_out: The number of problems that are not in `problems`.
    """

    MAX_PROBLEMS = 100
    MAX_CHARACTERS = 8000

    def __init__(self, operation: str, problems: Sequence[Problem], *, advice: str = "") -> None:
        self.operation = operation
        self.problems = tuple(problems[: self.MAX_PROBLEMS])
        self.left_out = len(problems) - len(self.problems)
        if not self.problems:
            super().__init__(f"{operation}: {advice}")
            return
        count = "1 invalid prop" if len(problems) == 1 else f"{len(problems)} invalid props"
        lines = [f"{operation}: {count}"]
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
    """Invalid options of a call: unknown, contradictory or out of range."""


class NotSerializable(DexpyError, TypeError):
    """A value that JSON cannot store and restore exactly.

    The message never contains the value.

    Attributes:
        path: The path to the value, beginning with the prop: ``items[3].file``.
        reason: Why the value has no JSON form.
        owner: Name of the operation class; empty if unknown.
    """

    def __init__(self, reason: str, *, path: str = "", owner: str = "") -> None:
        self.path = path
        self.reason = reason
        self.owner = owner
        where = path.lstrip(".") or "the value"
        prefix = f"{owner}: " if owner else ""
        super().__init__(f"{prefix}{where} {reason}")

    def under(self, prefix: str) -> NotSerializable:
        """Return the same error with a prefix added to its path."""
        return NotSerializable(self.reason, path=prefix + self.path, owner=self.owner)

    def of(self, owner: str) -> NotSerializable:
        """Return the same error with the name of the operation."""
        return NotSerializable(self.reason, path=self.path, owner=owner)

    def about(self, subject: str, *, is_result: bool = False) -> NotSerializable:
        """Return the same error with advice about something else than a prop; a subject that was set earlier stays.

        Args:
            subject: What needs another type or value.
            is_result: Whether the value is returned rather than passed.
        """
        reason = self.reason.replace("give the prop a type", f"give {subject} a type")
        if is_result:
            reason = reason.replace("pass an id", "return an id")
        return NotSerializable(reason, path=self.path, owner=self.owner)


class Undecodable(DexpyError, ValueError):
    """Stored JSON that does not match the current props of its operation.

    Attributes:
        operation: Name of the operation class.
        problems: The problems, without values.
    """

    def __init__(self, operation: str, problems: Sequence[Problem]) -> None:
        self.operation = operation
        self.problems = tuple(problem.hidden() for problem in problems)
        listed = "; ".join(str(problem) for problem in self.problems)
        super().__init__(f"{operation}: the stored params do not match its props any more: {listed}")


class ConfigurationError(DexpyError):
    """Invalid settings, or unusable modules or servers."""


class MissingExtra(ConfigurationError, ImportError):
    """A package that belongs to an extra of dexpy is not installed.

    Attributes:
        extra: The extra's name, as in ``pip install "dexpy-operations[postgres]"``.
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        self.extra = extra
        self.package = package
        super().__init__(
            f'{what}: the package {package!r} is not installed. Run: pip install "dexpy-operations[{extra}]"'
        )


class EncryptorMissing(ConfigurationError):
    """A class or a stored row requires an encryptor that is not configured in this process.

    Attributes:
        operation: The operation's stable name.
        encryptor: The encryptor's name.
    """

    def __init__(self, operation: str, encryptor: str, hint: str = "") -> None:
        self.operation = operation
        self.encryptor = encryptor
        keys = ", or set DEXPY_ENCRYPTION_KEYS" if encryptor == "default" else ""
        super().__init__(
            f"{operation}: the encryptor {encryptor!r} is not configured in this process.{hint} "
            f"Write dexpy.configure(encryptors={{{encryptor!r}: ...}}){keys}."
        )


class DatabaseUnavailable(DexpyError):
    """The database of the records is unreachable, locked or unreadable."""


class DatabaseBusy(DatabaseUnavailable):
    """Another transaction holds SQLite's write lock for longer than a writer waits; nothing was written.

    It is also raised if the surrounding transaction holds the lock, so that the write would wait for itself.

    Attributes:
        may_end: Whether the same write may succeed later; False inside the transaction that holds the lock.
    """

    def __init__(self, message: str, *, may_end: bool = True) -> None:
        super().__init__(message)
        self.may_end = may_end


class BrokerUnavailable(DexpyError):
    """The broker accepts no message at an enqueue, without a database or with ``on_broker_error="raise"``."""


class SchemaMissing(DatabaseUnavailable):
    """The tables of dexpy are missing in the database, or belong to another version.

    Attributes:
        problems: What is missing.
    """

    def __init__(self, database: str, problems: Sequence[str], advice: str = "Run: dexpy db init") -> None:
        self.problems = tuple(problems)
        super().__init__(f"The database {database} is not ready for dexpy: {'; '.join(self.problems)}. {advice}")


class Error(DexpyError):
    """A business error: an expected outcome of an operation, with a code.

    Raise it in `perform` to end the run as an `Err`; `call()` raises it if the run ended with a business error.

    Args:
        code: The error's code, one of the operation's declared `errors`.
        message: A message for people. Default: the description of the code, or else the code.
        details: Facts as a JSON object.

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
            raise TypeError(f"Error(code, ...): expected a non-empty str, got {code!r}.")
        # Plain text: any method of a subclass of str may raise while the error is recorded.
        self.code = text_of(code)
        self.message = self.code if message is None else text_of(message)
        self.has_message = message is not None
        self.details: dict[str, Any] = {} if details is None else _entries(details)
        self.operation = operation
        super().__init__(self.code if message is None else f"{self.code}: {self.message}")


def _entries(details: Mapping[str, Any]) -> dict[str, Any]:
    try:
        # A subclass of dict may override every method that returns its entries.
        if isinstance(details, dict):
            return dict(cast("Any", dict).items(details))
        return dict(details)
    except Exception:
        if not isinstance(details, Mapping):
            raise
        return {"details": f"<{class_name(details)}>"}


class UndeclaredError(DexpyError):
    """A business error whose code the operation does not declare: a bug in the application.

    Attributes:
        operation: Name of the operation class.
        code: The code that was raised.
    """

    def __init__(self, operation: str, code: str, declared: Iterable[str]) -> None:
        self.operation = operation
        self.code = code
        self.declared = tuple(sorted(declared))
        super().__init__(
            f"{operation}: undeclared error code {code!r}; expected one of {listed(self.declared)}."
            f"{did_you_mean(code, self.declared)} Add {code!r} to the errors of the class, or raise a declared code."
        )


class ResultTypeError(DexpyError, TypeError):
    """The result of `perform` does not match its return annotation."""


class RefNotFound(DexpyError, LookupError):
    """The row of a `Ref` is not in the database.

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
        super().__init__(f"{operation}.{prop}: no {model} with the key {shortened(key)} exists.")


class NotRunning(DexpyError):
    """Something that works only inside a run was used outside of one."""


class FrozenOperation(DexpyError, attrs.exceptions.FrozenInstanceError):
    """An attribute of an operation was set or deleted: operations are frozen.

    Attributes:
        operation: Name of the operation class.
        attribute: Name of the attribute.
    """

    def __init__(self, operation: str, attribute: str, advice: str) -> None:
        AttributeError.__init__(
            self, f"{operation}.{attribute}: operations are frozen; attributes cannot change. {advice}"
        )
        self.operation = operation
        self.attribute = attribute


class StepError(DexpyError):
    """``self.step`` or ``self.each`` in an invalid place, or in another order than in an earlier attempt.

    Attributes:
        operation: Name of the operation class.
        step: Name of the step.
    """

    def __init__(self, operation: str, step: str, why: str) -> None:
        self.operation = operation
        self.step = step
        super().__init__(f"{operation}: the step {step!r} {why}")


class SessionOnLoop(DexpyError):
    """`self.session` was used on the event loop, which it would block."""


class TransactionOwned(DexpyError):
    """A commit, rollback or close inside `perform`: the run itself commits or rolls back its transaction."""


class UnknownOperation(DexpyError, LookupError):
    """No operation of this name is declared in this process."""


class RecordNotFound(DexpyError, LookupError):
    """No record has this id."""


class RecurringTaskNotFound(DexpyError, LookupError):
    """No recurring task has this key."""


class BatchNotFound(DexpyError, LookupError):
    """No batch has this id."""


class BatchEnded(DexpyError):
    """A run was added to a batch that has ended or is cancelled; nothing was stored.

    Attributes:
        id: The id of the batch.
        status: Its status: done, failed or cancelled.
    """

    def __init__(self, id: str, status: str) -> None:
        self.id = id
        self.status = status
        super().__init__(
            f"{id}: the batch is {status} and accepts no further runs. Add runs before its last run ends, from one of "
            "its runs, or open another batch."
        )


class InvalidTransition(DexpyError):
    """The status of the record does not allow the transition; the row is unchanged.

    Attributes:
        id: The record's id.
        event: The transition: expire, fail, cancel, retry, reschedule.
        status: The current status of the record.
    """

    def __init__(self, id: str, event: str, status: str, advice: str) -> None:
        self.id = id
        self.event = event
        self.status = status
        super().__init__(f"{id}: cannot {event} a run that is {status}. {advice}")


class KeyBusy(DexpyError, TimeoutError):
    """Another run or open transaction still holds the idempotency key after the wait; nothing was run or stored.

    Attributes:
        operation: The operation's stable name.
        waited_s: The duration of the wait, in seconds.
        id: Id of the record that holds the key; None if an open transaction holds it, whose row is not visible.
    """

    def __init__(self, operation: str, waited_s: float, id: str | None = None) -> None:
        self.operation = operation
        self.waited_s = waited_s
        self.id = id
        holder = f"the run {id}" if id else "an open transaction"
        super().__init__(f"{operation}: {holder} still holds the idempotency key after {waited_s:g} s. Retry later.")


class QueueFull(DexpyError):
    """A queue with a limit is full; nothing was stored or sent.

    Attributes:
        queue: The name of the queue.
        max_pending: Its limit.
        num_pending: The number of pending runs that were counted.
        number: The number of runs to enqueue.
        waited_s: How long the enqueue waited for room, in seconds.
    """

    def __init__(self, queue: str, max_pending: int, num_pending: int, number: int, waited_s: float = 0.0) -> None:
        self.queue = queue
        self.max_pending = max_pending
        self.num_pending = num_pending
        self.number = number
        self.waited_s = waited_s
        runs = "a run" if number == 1 else f"{number} runs"
        after = f" after {waited_s:.3g} s" if waited_s else ""
        super().__init__(
            f"The queue {queue!r} is full{after}: {num_pending} of {max_pending} runs are pending, expected room for "
            f"{runs}. Nothing was stored. Retry later, start more workers, or raise max_pending."
        )


class OnceConflict(DexpyError):
    """An idempotency key was used with other params before; nothing was run or stored.

    Attributes:
        operation: The operation's stable name.
        id: Id of the record that holds the key.
    """

    def __init__(self, operation: str, id: str) -> None:
        self.operation = operation
        self.id = id
        super().__init__(
            f"{operation}: the run {id} used the same idempotency key with other params. "
            'Use another key, or declare Once(..., params="ignore") to get the result of the first run.'
        )


class KeyTaken(DexpyError):
    """Another run holds the key of a record, so that a retry is refused; the row is unchanged.

    Attributes:
        id: The record's id.
        kind: The kind of the key: once or unique.
        holder: Id of the record that holds the key.
    """

    def __init__(self, id: str, kind: str, holder: str) -> None:
        self.id = id
        self.kind = kind
        self.holder = holder
        super().__init__(f"{id}: cannot retry, because the run {holder} holds its {kind} key. Nothing was changed.")


class NotUnique(DexpyError):
    """Another run holds the unique key; nothing was stored.

    Attributes:
        operation: The operation's stable name.
        id: Id of the record that holds the key.
    """

    def __init__(self, operation: str, id: str) -> None:
        self.operation = operation
        self.id = id
        super().__init__(f"{operation}: the run {id} holds its unique key. Nothing was stored or sent.")


class TicketError(DexpyError):
    """The base class of the exceptions of tickets."""


class NotRecorded(TicketError):
    """The run has no record, so that its state is unknown."""


class NotCommitted(TicketError):
    """The transaction of the record is still open, so that no worker can see it yet."""


class RolledBack(TicketError):
    """The transaction of the record was rolled back, so that nothing will run."""


class ResultNotStored(TicketError):
    """The run is done, but its result was not stored, because it has no JSON form."""


class OperationFailed(TicketError):
    """The run failed, other than by a business error.

    Attributes:
        id: The record's id.
        operation: The operation's stable name.
        failure: crash, lost, timeout, discarded, cancelled, expired, unknown or undecodable.
        exception_class: Class path of the exception; None without one.
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
    """The run did not end within the timeout; it continues.

    Attributes:
        id: The record's id.
        operation: The operation's stable name.
        timeout_s: The timeout, in seconds.
    """

    def __init__(self, id: str, operation: str, timeout_s: float, status: str) -> None:
        self.id = id
        self.operation = operation
        self.timeout_s = timeout_s
        super().__init__(f"{operation} {id}: not ended after {timeout_s:g} s; it is {status}, and continues.")


class LostClaim(PicklableError, BaseException):
    """Another worker has claimed the run; this worker must not commit anything of it.

    A `BaseException`, so that no rule, rescue or ``except Exception`` takes it for a crash.
    """


class Cancelled(PicklableError, BaseException):
    """The run was cancelled while it ran: it is rolled back, and not retried.

    A `BaseException`, so that no rule, rescue or ``except Exception`` takes it for a crash.
    """


class Interrupted(PicklableError, BaseException):
    """The worker is stopping: the run was interrupted between two steps, and resumes after the last completed one.

    A `BaseException`, so that no rule, rescue or ``except Exception`` takes it for a crash.
    """


class LockLost(DexpyError):
    """The run lost its lock before its commit and was rolled back, because another run may have held the lock."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"{operation}: the lock was lost during the run, for example because its connection was closed. "
            "The run was rolled back. Call the operation again."
        )
        self.operation = operation


class WorkerLost(DexpyError):
    """The worker of a run died or froze; used in ``retry_on`` and stored in records, but never raised.

    Example:
        >>> from dexpy import Retry, WorkerLost
        >>> Retry(WorkerLost, attempts=5, wait=60).attempts
        5
    """


class TimedOut(DexpyError, TimeoutError):
    """The run exceeded the timeout of its class; raised inside `perform`, which may clean up and re-raise it."""

    def __init__(self, message: str = "The run exceeded the timeout of its class.") -> None:
        super().__init__(message)


class DecryptionFailed(DexpyError):
    """The decryption of stored data failed: its key is missing, or the data was changed.

    Attributes:
        operation: The operation's stable name.
        encryptor: The encryptor's name.
    """

    def __init__(
        self,
        operation: str,
        encryptor: str,
        why: str,
        advice: str = "Append the key that encrypted it to the list of keys, and retry.",
    ) -> None:
        self.operation = operation
        self.encryptor = encryptor
        super().__init__(f"{operation}: the encryptor {encryptor!r} cannot decrypt the stored data ({why}). {advice}")


class SensitiveInTransit(DexpyError):
    """A sensitive prop would be sent unencrypted in a broker message."""


# Users import the exceptions from the public module, and records store that class path.
for _error in [value for value in vars().values() if isinstance(value, type) and issubclass(value, BaseException)]:
    _error.__module__ = "dexpy.errors"


MAX_WORD_LENGTH = 100
"""Longer names are not compared: the comparison takes the product of both lengths."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a suggestion as a sentence with a leading space; "" if no known word is close or the word is very long."""
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
