"""`Operation`: the base class of all operations.

It is the whole interface of an operation for an application, and most of the file is its documentation.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    ParamSpec,
    TypeVar,
    dataclass_transform,
    overload,
)

import attrs

from dexpy.calls import Safe, run, run_async, value_of
from dexpy.codec.constraints import prop
from dexpy.database.current_transaction import current_transaction
from dexpy.declaration import registry
from dexpy.declaration.class_changes import contract_of, fix_annotations
from dexpy.declaration.class_definition import define, why_no_contract
from dexpy.declaration.contract import NO_OBSERVER, Contract
from dexpy.declaration.contract_builder import compile_contract
from dexpy.declaration.declared_attributes import DECLARED, Declared
from dexpy.declaration.key_digests import once_contract, once_keys_by
from dexpy.declaration.misused_attributes import check_constructor
from dexpy.declaration.props import Prop, construct, parse_props
from dexpy.declaration.recurring import Recurring
from dexpy.declaration.signature import SignatureDescriptor, frozen_error, takes_props
from dexpy.enqueue.api import Async
from dexpy.enqueue.current_dispatcher import Performs, PerformsAsync
from dexpy.execution import dry_run, ticks
from dexpy.execution.call import call_of
from dexpy.execution.durable import progress, steps
from dexpy.execution.explain import Explanation
from dexpy.execution.pipeline import pipeline_of, redactor_for
from dexpy.execution.pipeline_edits import Insert, Remove
from dexpy.foundation.errors import DeclarationError, NotRunning, OptionsError, PropsError
from dexpy.foundation.ids import new_id
from dexpy.foundation.outcome import Err, Ok
from dexpy.foundation.trace import current_frame
from dexpy.policies.concurrency import Concurrency
from dexpy.policies.fair import Fair
from dexpy.policies.lock import Lock
from dexpy.policies.once import KEY_ATTRIBUTE, Once
from dexpy.policies.options import DEFAULT_MAX_LOST, MYPY, Delay, Recording, Reset, policy
from dexpy.policies.rate import Rate
from dexpy.policies.retry import Causes, Exceptions, Retry
from dexpy.policies.unique import Unique
from dexpy.runtime import current_runtime
from dexpy.schedules.schedule import Schedule

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from datetime import datetime
    from typing import Self

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    # With a metaclass they would not check the class keywords.
    OperationType = type
else:
    from dexpy.declaration.class_changes import OperationType

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")


class _NoContract(DeclarationError, AttributeError):
    """The error of `Operation.contract`; also an AttributeError, so that `help` skips the attribute."""


class ContractOf:
    """The descriptor behind ``Op.contract``."""

    def __get__(self, obj: Any, owner: type[Any]) -> Contract:
        declared: Declared | None = vars(owner).get(DECLARED)
        contract = None if declared is None or declared.plain_bases else declared.contract
        if contract is None and (contract := contract_of(owner)) is None:
            raise _NoContract(why_no_contract(owner, Operation))
        if obj is None or KEY_ATTRIBUTE not in obj.__dict__:
            return contract
        return once_contract(obj, contract)


@attrs.frozen
class Transaction:
    """The descriptor behind ``transaction``: a declaration on the class, a context manager in a run."""

    declared: bool

    @overload
    def __get__(self, obj: None, owner: Any) -> Self: ...
    @overload
    def __get__(self, obj: object, owner: Any) -> Callable[[], AbstractContextManager[Session]]: ...
    def __get__(self, obj: Any, owner: Any) -> Any:
        if obj is None:
            return self
        return call_of(obj, "transaction()").unit_of_work.block


_STORED_OTHERWISE = frozenset(
    {"transaction", "retry_on", "discard_on", "rescue_from", "errors", "pipeline", "schedule"}
)


def _immutable_value(name: str, value: Any) -> Any:
    """Return a declared value as the class stores it: a mutable one would change without notice."""
    if name == "transaction":
        return Transaction(value) if isinstance(value, bool) else value
    if name not in _STORED_OTHERWISE:
        return value
    kinds: list[tuple[type, Callable[[Any], Any]]] = [(list, tuple), (set, frozenset), (dict, _read_only)]
    return next((kind(value) for changing, kind in kinds if isinstance(value, changing)), value)


def _read_only(value: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(dict(value))


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(prop,))
class Operation(metaclass=OperationType):
    """The base class of operations: typed props, a `perform` method, and a result or a declared error.

    Subclass it, annotate the props, and write `perform`.
    The class keywords are ``name=``, the stable name in records and messages, and ``aliases=``, its earlier names.

    Attributes:
        async_: The options of background runs; ``op.async_(...).call()`` enqueues one.
        retry_on: `Retry` rules for background runs; those of a subclass extend and override those of the base.
        discard_on: Exceptions, or codes, that end a background run as discarded.
        rescue_from: Exception class, or a tuple of them, to error code, exception class, or function of operation and
            exception.
        errors: Declared error codes, with descriptions if it is a mapping; empty allows any.
        max_lost: How many times a run is retried after its worker was lost; one more loss and it fails as ``lost``.
            0: a lost run is never run again.
        timeout: The maximum duration of a background run, in seconds or as a timedelta; None for no limit. A longer run
            gets a `TimedOut`.
        pipeline: Edits of the pipeline, `Insert` and `Remove`; those of a subclass extend those of the base.
        once: The idempotency key, whose result is replayed; ``op.once("key")`` sets the key of one call.
        unique: The key with at most one background run at a time.
        lock: The lock that allows one run at a time for each key; see `Lock`.
        concurrency: The maximum number of concurrent background runs for each key; see `Concurrency`.
        rate: The maximum number of starts of background runs for each key and window; see `Rate`.
        fair: The key by which the background runs of a queue start in turn; see `Fair`.
        schedule: When workers enqueue it again and again: `Every`, `Cron` or `Recurring`, or several `Recurring`;
            subclasses do not inherit it.
        record: Whether runs are recorded, and what their records store.
        encrypt: Whether params and results are stored and sent encrypted; the name of an encryptor for another one
            than the default.
        transaction: Whether the whole run is one transaction; ``False`` leaves it to ``with self.transaction():``.
        contract: These declarations, read once.

    Example:
        >>> class Add(Operation):
        ...     a: int
        ...     b: int = 1
        ...     def perform(self) -> int:
        ...         return self.a + self.b
        >>> Add(a=2).call()
        3
    """

    async_: ClassVar[Async] = Async()
    safe: ClassVar[Safe] = Safe()
    contract: ClassVar[ContractOf] = ContractOf()
    if MYPY:
        # mypy holds a subclass to ClassVar, or to none, as the base declares an attribute; of a method's result it does
        # not. pyright takes this for unreachable, and keeps to ClassVar.
        if os.name == "mypy":

            @policy
            def retry_on(self) -> tuple[Retry | Reset, ...]: ...  # noqa: D102
            @policy
            def discard_on(self) -> tuple[Causes | Reset, ...]: ...  # noqa: D102
            @policy
            def rescue_from(self) -> Mapping[Exceptions, str | type[Exception] | Callable[[Any, Any], Any]]: ...  # noqa: D102
            @policy
            def errors(self) -> Set[str] | tuple[str, ...] | list[str] | Mapping[str, str]: ...  # noqa: D102
            @policy
            def max_lost(self) -> int: ...  # noqa: D102
            @policy
            def timeout(self) -> Delay | None: ...  # noqa: D102
            @policy
            def pipeline(self) -> tuple[Insert | Remove | Reset, ...]: ...  # noqa: D102
            @policy
            def once(self) -> Once: ...  # noqa: D102
            @policy
            def unique(self) -> Unique: ...  # noqa: D102
            @policy
            def lock(self) -> Lock | None: ...  # noqa: D102
            @policy
            def concurrency(self) -> Concurrency | None: ...  # noqa: D102
            @policy
            def fair(self) -> Fair | None: ...  # noqa: D102
            @policy
            def schedule(self) -> Schedule | Recurring | Sequence[Recurring] | None: ...  # noqa: D102
            @policy
            def record(self) -> bool | Recording: ...  # noqa: D102
            @policy
            def encrypt(self) -> bool | str: ...  # noqa: D102
    else:
        retry_on: ClassVar[tuple[Retry | Reset, ...]] = ()
        discard_on: ClassVar[tuple[Causes | Reset, ...]] = ()
        rescue_from: ClassVar[Mapping[Exceptions, str | type[Exception] | Callable[[Any, Any], Any]]] = (
            MappingProxyType({})
        )
        errors: ClassVar[Set[str] | tuple[str, ...] | list[str] | Mapping[str, str]] = frozenset()
        max_lost: ClassVar[int] = DEFAULT_MAX_LOST
        timeout: ClassVar[Delay | None] = None
        pipeline: ClassVar[tuple[Insert | Remove | Reset, ...]] = ()
        once: ClassVar[Once] = Once.never()
        unique: ClassVar[Unique] = Unique.never()
        lock: ClassVar[Lock | None] = None
        concurrency: ClassVar[Concurrency | None] = None
        fair: ClassVar[Fair | None] = None
        schedule: ClassVar[Schedule | Recurring | Sequence[Recurring] | None] = None
        record: ClassVar[bool | Recording] = True
        encrypt: ClassVar[bool | str] = False
    transaction: ClassVar[Any] = Transaction(declared=True)
    if not TYPE_CHECKING:
        # Type checkers would refuse a prop of this name, such as an exchange rate.
        rate: ClassVar[Rate | None] = None

    if TYPE_CHECKING:

        def __init_subclass__(cls, *, name: str | None = None, aliases: Sequence[str] = ()) -> None: ...

    else:

        def __init_subclass__(cls, *, name: str | None = None, aliases: Sequence[str] = (), **keywords: Any) -> None:
            super().__init_subclass__(**keywords)
            for policy in _STORED_OTHERWISE & vars(cls).keys():
                setattr(cls, policy, _immutable_value(policy, vars(cls)[policy]))
            define(cls)

            def read() -> Contract:
                contract = compile_contract(cls, name, aliases)
                pipeline_of(contract)
                return contract

            declared, contract = Declared(read, _immutable_value), read()
            fix_annotations(cls)
            setattr(cls, DECLARED, declared)
            declared.keep(cls, contract)
            registry.register(cls, (contract.name, *contract.aliases), contract.recurring)

        def __new__(cls, /, *_: Any, **__: Any) -> Self:  # noqa: D102
            if cls.__init__ is not _CONSTRUCTOR:
                check_constructor(cls)
            return object.__new__(cls)

        def __init__(self, /, *positional: Any, **props: Any) -> None:
            """Create an operation from its props, which are checked together."""
            cls = type(self)
            if cls is Operation:
                raise DeclarationError("Operation is a base class. Declare a subclass with a perform method.")
            contract = cls.contract
            if positional:
                raise PropsError(cls.__qualname__, (), advice=_keyword_advice(contract))
            vars(self).update(construct(cls.__qualname__, contract.props, props))

        def __setattr__(self, name: str, value: object) -> None:
            raise frozen_error(type(self), name)

        def __delattr__(self, name: str) -> None:
            raise frozen_error(type(self), name)

        def __deepcopy__(self, memo: dict[int, Any]) -> Operation:
            """Return a copy with new containers, as at construction, and the same rows behind references."""
            duplicate = copy.copy(self)
            memo[id(self)] = duplicate
            values = vars(duplicate)
            values.update({prop.name: copy.deepcopy(values[prop.name], memo) for prop in _values_of(type(self))})
            return duplicate

        __signature__ = SignatureDescriptor()

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Create an operation from external JSON.

        Dates and times are ISO text, a Decimal is text or an int, and references are ids.

        Args:
            data: The props as a JSON object; unknown keys are refused.

        Raises:
            PropsError: Props are invalid; lists all problems.

        Example:
            >>> from datetime import date
            >>> class Report(Operation):
            ...     day: date
            ...     def perform(self) -> int:
            ...         return self.day.year
            >>> Report.parse({"day": "2026-11-21"}).call()
            2026
        """
        contract = cls.contract
        return cls(**parse_props(cls.__qualname__, contract.props, data))

    @takes_props
    def callable(cls, **props: Any) -> Ok[None] | Err:
        """Return whether the guards would allow a call now; nothing runs, and no change is kept.

        Args:
            props: As for the operation itself.

        Returns:
            ``Ok(None)``, or an `Err` with the first refusal, and all refusals in its details.

        Raises:
            PropsError: Props are invalid.
            RefNotFound: The row of a reference does not exist.

        Example:
            >>> from dexpy import guard
            >>> class Withdraw(Operation):
            ...     amount: int
            ...     @guard("The amount must be positive")
            ...     def not_positive(self) -> bool:
            ...         return self.amount <= 0
            ...     def perform(self) -> int:
            ...         return self.amount
            >>> Withdraw.callable(amount=0).message
            'The amount must be positive'
            >>> Withdraw.is_callable(amount=1)
            True
        """
        operation = cls(**props)
        contract = cls.contract
        runtime = current_runtime()
        run_id = new_id("op")
        return dry_run.dry_run(
            operation,
            contract,
            id=run_id,
            frame=current_frame().child(run_id, contract.name),
            redactor=redactor_for(operation, contract, runtime.redactor),
            store=runtime.open_store,
            outer=current_transaction(),
        )

    @takes_props
    def is_callable(cls, **props: Any) -> bool:
        """Return whether all guards would allow a call now; see `callable`."""
        return isinstance(cls.callable(**props), Ok)

    @takes_props
    def explain(cls, **props: Any) -> Explanation:
        """Describe a call without running it: its props, guards, keys and policies; no change is kept.

        Rows of references are read without locks, in a transaction that is rolled back.

        Args:
            props: As for the operation itself. If they are invalid, the report contains the error and the other facts.

        Raises:
            RefNotFound: The row of a reference does not exist.

        Example:
            >>> from dexpy import guard
            >>> class Withdraw(Operation):
            ...     amount: int
            ...     @guard("The amount must be positive")
            ...     def not_positive(self) -> bool:
            ...         return self.amount <= 0
            ...     def perform(self) -> int:
            ...         return self.amount
            >>> Withdraw.explain(amount=0).guards
            {'not_positive': {'status': 'refused', 'message': 'The amount must be positive'}}
            >>> Withdraw.explain(amount=1).callable
            True
        """
        contract = cls.contract
        runtime = current_runtime()
        run_id = new_id("op")
        report = dry_run.explain(
            contract,
            props,
            id=run_id,
            frame=current_frame().child(run_id, contract.name),
            redactor=runtime.redactor,
            store=runtime.open_store,
            outer=current_transaction(),
        )
        return report if runtime.is_recording else report.without_records()

    @classmethod
    def clear_once(cls, key: str | None = None, /, **props: Any) -> bool:
        """Release the idempotency key of a run that has ended, so that the next call with it runs again.

        Args:
            key: The text that was passed to ``op.once(...)``.
            props: Or the props of the key of the class.

        Returns:
            Whether an ended run had the key.

        Raises:
            OptionsError: Both or neither are passed, or a prop of the key is missing.

        Example:
            >>> from dexpy.testing import isolated
            >>> class Charge(Operation):
            ...     order: int
            ...     once = Once("order")
            ...     def perform(self) -> int:
            ...         return self.order
            >>> with isolated():
            ...     Charge(order=7).call(), Charge.clear_once(order=7), Charge.clear_once(order=7)
            (7, True, False)
        """
        digests = once_keys_by(cls.contract, key, props)
        store = current_runtime().open_store()
        return sum(store.clear_once(digest, current_transaction()) for digest in digests) > 0

    def replace(self, **props: Any) -> Self:
        """Return a copy with other props and the same key of ``op.once(...)``.

        Args:
            props: The props to change.

        Raises:
            PropsError: Props are invalid.

        Example:
            >>> class Add(Operation):
            ...     a: int
            ...     b: int = 1
            ...     def perform(self) -> int:
            ...         return self.a + self.b
            >>> Add(a=2).replace(b=40)
            Add(a=2, b=40)
        """
        cls = type(self)
        contract: Contract = cls.contract
        values = {prop.name: vars(self)[prop.name] for prop in contract.props}
        duplicate = object.__new__(cls)
        vars(duplicate).update({**vars(self), **construct(cls.__qualname__, contract.props, {**values, **props})})
        for name in list(vars(duplicate)):
            if name not in values and name != KEY_ATTRIBUTE:
                # Values of cached properties belong to the old props.
                del vars(duplicate)[name]
        return duplicate

    __replace__ = replace

    def to_dict(self) -> dict[str, Any]:
        """Return the props as plain JSON for people and tools, with references as keys and secrets redacted.

        Example:
            >>> from datetime import date
            >>> class Report(Operation):
            ...     day: date
            ...     def perform(self) -> None: ...
            >>> Report(day=date(2026, 11, 21)).to_dict()
            {'day': '2026-11-21'}
        """
        contract: Contract = type(self).contract
        return {prop.name: prop.to_redacted_json(vars(self)[prop.name]) for prop in contract.props}

    def __repr__(self) -> str:
        contract: Contract = type(self).contract
        props = ", ".join(f"{prop.name}={prop.display(vars(self)[prop.name])}" for prop in contract.props)
        return f"{type(self).__qualname__}({props})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._comparison_values() == other._comparison_values()

    def __hash__(self) -> int:
        for compared_prop in _values_of(type(self)):
            # A list has no hash, so that an operation that contains one has none either.
            hash(vars(self)[compared_prop.name])
        return hash((type(self), self._comparison_values()))

    def _comparison_values(self) -> tuple[Any, ...]:
        """Return the props for comparison, encoded as in keys, so that equal operations have equal keys."""
        contract: Contract = type(self).contract
        return tuple(prop.comparison_value(vars(self)[prop.name]) for prop in contract.props)

    def perform(self) -> Any:
        """Do the work; every operation implements this method."""
        raise DeclarationError(
            f"{type(self).__qualname__} has no perform. Write `def perform(self) -> ...:` in the class."
        )

    def on_error(self, error: Exception) -> None:
        """Handle an exception that ends an attempt; it does not change the outcome."""

    setattr(on_error, NO_OBSERVER, True)

    @overload
    def call(self: PerformsAsync[R]) -> R: ...
    @overload
    def call(self: Performs[R]) -> R: ...
    def call(self) -> Any:
        """Run the operation in this thread.

        Returns:
            The result of `perform`.

        Raises:
            Error: The run ended with a business error, or a guard refused it.
            RefNotFound: The row of a reference does not exist.
        """
        outcome = run(self)
        return outcome.value if isinstance(outcome, Ok) else value_of(self, outcome)

    @overload
    async def acall(self: PerformsAsync[R]) -> R: ...
    @overload
    async def acall(self: Performs[R]) -> R: ...
    async def acall(self) -> Any:
        """Run the operation from asyncio: an ``async def perform`` on this loop, blocking work in a thread."""
        return value_of(self, await run_async(self))

    @property
    def session(self) -> Session:
        """The SQLAlchemy session of the run, in its transaction, which begins at the first use.

        Raises:
            NotRunning: The operation is not running.
            SessionOnLoop: It is used on the event loop; write ``await self.in_session(...)``.
        """
        return call_of(self, "session").unit_of_work.session()

    @property
    def run_id(self) -> str:
        """The id of the run and its record, the same in all attempts: an idempotency key for external calls."""
        return call_of(self, "run_id").id

    @property
    def scheduled_for(self) -> datetime | None:
        """The tick for which the run of a recurring task was enqueued, in the time zone of the task.

        The same in all attempts; None in any other run, and after `dexpy.recurring.run_now`.
        """
        return ticks.scheduled_for(call_of(self, "scheduled_for"))

    @property
    def previous_scheduled_for(self) -> datetime | None:
        """The tick before `scheduled_for` that had a run; None for the first one.

        Missed and skipped ticks had none, so that the runs cover all of the time between the two.
        """
        return ticks.previous_scheduled_for(call_of(self, "previous_scheduled_for"))

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the run was cancelled with `Ticket.cancel`; for long work without a session.

        Raises:
            Cancelled: The run was cancelled; do not catch the exception.
        """
        stop = call_of(self, "check_cancelled()").cancel_token
        if stop is not None:
            stop.check()

    def step(self, method: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> T:
        """Run a method of the operation as a durable step of `perform`, once in all attempts of the run.

        In the background, its effects through ``self.session`` and its checkpoint are one transaction, committed when
        it returns. The next attempt skips a finished step and gets its stored result.
        A call in place is a single transaction without checkpoints.

        Args:
            method: A plain method of this operation; its name is that of the step; its result has a JSON form.
            arguments: Arguments of the method, like `named`.

        Returns:
            The result of the method, in this attempt or an earlier one.

        Raises:
            StepError: The step is in an invalid place, or in another order than in an earlier attempt.
            LostClaim: Another worker has claimed the run; do not catch it.
            Interrupted: The worker is stopping; do not catch it.

        Example:
            >>> class Ship(Operation):
            ...     order: int
            ...     def perform(self) -> str:
            ...         label = self.step(self.print_label)
            ...         self.step(self.book, label)
            ...         return label
            ...     def print_label(self) -> str:
            ...         return f"label {self.order}"
            ...     def book(self, label: str) -> None: ...
            >>> Ship(order=7).call()
            'label 7'
        """
        return steps.step(call_of(self, "step()"), method, arguments, named)

    if TYPE_CHECKING:
        # Before 2.1, the type of SQLAlchemy's select of one model is a select of a tuple.
        @overload
        def each(self, name: str, source: Select[tuple[T]], *, batch: int = 1) -> Iterator[T]: ...
        @overload
        def each(self, name: str, source: Select[T], *, batch: int = 1) -> Iterator[T]: ...
        @overload
        def each(self, name: str, source: list[T] | tuple[T, ...], *, batch: int = 1) -> Iterator[T]: ...
        @overload
        def each(self, name: str, source: range, *, batch: int = 1) -> Iterator[int]: ...
        @overload
        def each(
            self, name: str, source: Callable[[Any], Iterable[tuple[Any, T]]], *, batch: int = 1
        ) -> Iterator[T]: ...

    def each(self, name: str, source: Any, *, batch: int = 1) -> Iterator[Any]:
        """Iterate over items as a durable step of `perform`; each item is processed once in all attempts of the run.

        In the background, the effects of an item and the cursor after it are one transaction, committed before the
        next item. The next attempt continues after the last committed item.

        Args:
            name: The name of the step.
            source: A select of one model, read in the order of its primary key; a list, tuple or range that is the same
                in all attempts; or a function that takes the last cursor, or None, and returns the ``(cursor, item)``
                pairs after it.
            batch: The number of items in one transaction.

        Raises:
            OptionsError: Another attempt could not continue in the middle of such a source.
            StepError: The step is in an invalid place, or in another order than in an earlier attempt.
            LostClaim: Another worker has claimed the run; do not catch it.
            Interrupted: The worker is stopping; do not catch it.

        Example:
            >>> class Square(Operation):
            ...     numbers: list[int]
            ...     def perform(self) -> int:
            ...         total = 0
            ...         for number in self.each("numbers", self.numbers):
            ...             total += number * number
            ...         return total
            >>> Square(numbers=[1, 2, 3]).call()
            14
        """
        return steps.each(call_of(self, "each()"), name, source, batch)

    def report_progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Report the progress of the run for `Ticket.progress`; it never blocks for long or fails the run.

        The latest report is written about once a second, and before a step or the run ends. A call in place has no
        record yet, so that its reports are dropped.

        Args:
            done: The completed amount, in any unit.
            total: The total amount, if known.
            note: A text for people; it is redacted.

        Raises:
            OptionsError: An amount is not a number, or the note is not text.
        """
        progress.report(call_of(self, "report_progress()"), done, total, note)

    def after_commit(self, action: Callable[[], Any]) -> None:
        """Call a function after the outermost transaction has committed, but not if it is rolled back.

        Args:
            action: A function without arguments; exceptions that it raises are logged.

        Raises:
            OptionsError: The action is not a function, or is a coroutine function.
        """
        unit_of_work = call_of(self, "after_commit()").unit_of_work
        if not callable(action) or inspect.iscoroutinefunction(action):
            raise OptionsError(
                f"{type(self).__qualname__}.after_commit({action!r}): expected a plain function without arguments. "
                "Write self.after_commit(lambda: ...)."
            )
        unit_of_work.after_commit(action)

    async def in_session(self, function: Callable[[Session], T]) -> T:
        """Call a function with the session of the run, in the thread of the run, from an ``async def perform``.

        With ``transaction = False``, each call is a separate transaction.

        Args:
            function: A function of the session; `in_session` returns its result.

        Raises:
            NotRunning: The run has ended, or its `perform` is not an ``async def``.
        """
        call = call_of(self, "in_session()")
        if call.bridge is None:
            raise NotRunning(
                f"{type(self).__qualname__}.in_session: only for an async def perform. Use self.session directly."
            )
        return await call.bridge.submit(lambda: call.unit_of_work.with_session(function))


_CONSTRUCTOR = Operation.__init__
setattr(Operation, DECLARED, Declared(None, _immutable_value))


def _values_of(cls: type[Operation]) -> Iterator[Prop]:
    contract: Contract = cls.contract
    return (prop for prop in contract.props if prop.reference is None)


def _keyword_advice(contract: Contract) -> str:
    class_name = contract.cls.__qualname__
    if not contract.props:
        return f"expected no arguments, because it has no props. Write {class_name}()."
    example = ", ".join(f"{prop.name}=..." for prop in contract.props[:2])
    return f"expected keyword arguments only. Write {class_name}({example})."
