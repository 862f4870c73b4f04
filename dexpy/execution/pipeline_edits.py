"""The middleware of the pipeline, and how a class inserts its own or removes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import attrs

from dexpy.declaration.contract import Contract
from dexpy.execution.call import Call
from dexpy.execution.middleware.perform import business_error, check_result, to_err
from dexpy.foundation.errors import DeclarationError, Error, did_you_mean, listed
from dexpy.foundation.forks import leave_if_forked, run_contained
from dexpy.foundation.outcome import Err, Ok, Outcome

Proceed: TypeAlias = Callable[[Call], Outcome]

INNERMOST = "perform"
"""The innermost name of a pipeline. It is not a middleware, and nothing can be inserted after it."""

REQUIRED: Mapping[str, str] = {
    "trace": "self.session, run_id and nested runs depend on it",
    "once": "the declared key would not be claimed. Write once = Once.never() instead",
    "lock": "the declared lock would not be acquired. Write lock = None instead",
    "record": "the record of a background run would stay running. Write record = False instead",
    "transaction": "effects would never be committed. Write transaction = False instead",
    "refs": "perform would get a key instead of a row. Declare the key as a prop instead",
    INNERMOST: "the operation would do nothing",
}
"""Middleware that a pipeline requires, with the reason and the alternative."""


@attrs.frozen
class Middleware:
    """One layer of the pipeline around `perform`.

    Attributes:
        name: Its name in the pipeline.
        run: Takes the call and the next layer, ``proceed``; returns the outcome.
        needed: Returns whether a class needs it; a middleware that a class does not need is left out of its pipeline.
        explain: Returns what it would do with a call, for `Operation.explain`; it must change nothing.
        in_dry_run: Whether `Operation.callable` and `Operation.explain` run it too, because guards need its effect.
            Its effects must end with a rollback.

    Example:
        >>> def run(call, proceed):
        ...     print("started", call.contract.name)
        ...     return proceed(call)
        >>> Middleware("announce", run).name
        'announce'
    """

    name: str
    run: Callable[[Call, Proceed], Outcome]
    needed: Callable[[Contract], bool] = lambda _contract: True
    explain: Callable[[Call], Mapping[str, Any]] | None = None
    in_dry_run: bool = False


@attrs.frozen
class Insert:
    """An entry of `pipeline`: insert a middleware directly outside or directly inside another one.

    Attributes:
        middleware: The middleware to insert.
        before: The name of the middleware that it is placed around.
        after: The name of the middleware that is placed around it.

    Example:
        >>> def run(call, proceed):
        ...     return proceed(call)
        >>> Insert(Middleware("metrics", run), after="trace").after
        'trace'
    """

    middleware: Middleware
    before: str | None = attrs.field(default=None, kw_only=True)
    after: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Remove:
    """An entry of `pipeline`: remove a middleware.

    Attributes:
        name: The name of the middleware.

    Example:
        >>> Remove("callbacks").name
        'callbacks'
    """

    name: str


@attrs.frozen
class Pipeline:
    """The middleware of one class.

    Attributes:
        middleware: All of it, outermost first, including what the class removes.
        removed: The names of what the class removes.
        custom: The names of the application's own middleware.
    """

    middleware: tuple[Middleware, ...]
    removed: frozenset[str] = frozenset()
    custom: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """All names, outermost first, without `perform`."""
        return [middleware.name for middleware in self.middleware]

    @property
    def active(self) -> tuple[Middleware, ...]:
        """The middleware that is not removed."""
        return tuple(middleware for middleware in self.middleware if middleware.name not in self.removed)

    def index_of(self, name: str, where: str) -> int:
        """Return the index of a middleware, counted from the outermost.

        Raises:
            DeclarationError: There is none with this name.
        """
        if name not in self.names:
            known = [*self.names, INNERMOST]
            raise DeclarationError(
                f"{where}: unknown middleware {name!r}; expected one of {' > '.join(known)}.{did_you_mean(name, known)}"
            )
        return self.names.index(name)

    def insert(self, insert: Insert, where: str) -> Pipeline:
        """Return this pipeline with one more middleware."""
        added = insert.middleware
        if (insert.before is None) == (insert.after is None):
            raise DeclarationError(
                f"{where}: Insert({added.name!r}): expected before= or after= with the name of a middleware, "
                f"got {'neither' if insert.before is None else 'both'}."
            )
        if added.name in self.removed:
            index = self.index_of(added.name, where)
            without_removed = Pipeline(
                self.middleware[:index] + self.middleware[index + 1 :], self.removed - {added.name}, self.custom
            )
            return without_removed.insert(insert, where)
        if added.name == INNERMOST or added.name in self.names:
            raise DeclarationError(
                f"{where}: Insert({added.name!r}): the pipeline already has a middleware of this name. "
                f"Remove it first with Remove({added.name!r}), or choose another name."
            )
        if insert.after == INNERMOST:
            raise DeclarationError(
                f"{where}: Insert(after={INNERMOST!r}): {INNERMOST} is innermost. Write before={INNERMOST!r}."
            )
        if insert.before == INNERMOST:
            index = len(self.middleware)
        elif insert.before is not None:
            index = self.index_of(insert.before, where)
        else:
            index = self.index_of(cast("str", insert.after), where) + 1
        return attrs.evolve(
            self,
            middleware=(*self.middleware[:index], added, *self.middleware[index:]),
            custom=self.custom | {added.name},
        )

    def remove(self, name: str, where: str) -> Pipeline:
        """Return this pipeline without one middleware."""
        if name in REQUIRED:
            raise DeclarationError(f"{where}: Remove({name!r}): {name} is required: {REQUIRED[name]}.")
        self.index_of(name, where)
        return attrs.evolve(self, removed=self.removed | {name})


def apply_edits(default: Sequence[Middleware], contract: Contract) -> Pipeline:
    """Return the pipeline of a class: the default pipeline with its edits.

    Raises:
        DeclarationError: An edit is invalid.
    """
    where = f"{contract.cls.__qualname__}.pipeline"
    pipeline = Pipeline(tuple(default))
    for edit in contract.pipeline_edits:
        if isinstance(edit, Insert) and isinstance(edit.middleware, Middleware):
            pipeline = pipeline.insert(edit, where)
        elif isinstance(edit, Remove):
            pipeline = pipeline.remove(edit.name, where)
        else:
            raise DeclarationError(
                f"{where}: expected {listed(['Insert(Middleware(...), after=...)', 'Remove(...)', 'Reset()'])}, "
                f"got {edit!r}."
            )
    return pipeline


def validated(middleware: Middleware, *, is_outside: bool) -> Callable[[Call, Proceed], Outcome]:
    """Return the function of an application's middleware with checks of its behaviour.

    An `Error` that it raises becomes an `Err`; its own outcomes are checked against what the class declares.

    Args:
        middleware: The middleware.
        is_outside: Whether the transaction has ended when it gets the outcome.
    """

    def run(call: Call, proceed: Proceed) -> Outcome:
        outcomes: list[Outcome] = []
        is_called = False

        def proceed_once(call: Call) -> Outcome:
            nonlocal is_called
            if is_called:
                raise DeclarationError(
                    f"Middleware {middleware.name!r}: called proceed twice. "
                    "Call it once; to run the operation again, declare retry_on."
                )
            is_called = True
            leave_if_forked(call.pid)
            outcomes.append(proceed(call))
            return outcomes[0]

        outcome: object
        try:
            outcome = run_contained(call.pid, middleware.run, call, proceed_once)
        except (Error, BaseExceptionGroup) as error:
            outcome = to_err(call.contract, business_error(error))
        if not isinstance(outcome, (Ok, Err)):
            raise DeclarationError(
                f"Middleware {middleware.name!r}: expected an Ok or Err, got {type(outcome).__name__}. "
                "Return what proceed(call) returned, or an outcome of your own."
            )
        if outcomes and outcome is outcomes[0]:
            return outcome
        if isinstance(outcome, Ok):
            return Ok(check_result(call.contract, outcome.value))
        if is_outside and outcomes and isinstance(outcomes[0], Ok):
            raise DeclarationError(
                f"Middleware {middleware.name!r}: returned an Err for an Ok whose effects are already committed. "
                "Place it inside the transaction: Insert(middleware, after='transaction')."
            )
        return to_err(call.contract, Error(outcome.code, outcome.message, details=outcome.details))

    return run
