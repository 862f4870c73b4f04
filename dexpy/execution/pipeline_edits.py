"""Steps of the pipeline, and how a class puts in one of its own or takes one out."""

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
"""The innermost name of a pipeline; it is no step, and no step can be inserted after it."""

REQUIRED: Mapping[str, str] = {
    "trace": "a run would not know itself: no self.session, no run_id, no nested runs",
    "once": "a key would be declared and not held. Write once = Once.never()",
    "lock": "a lock would be declared and not taken. Write lock = None",
    "record": "a worker's row would stay running. Write record = False",
    "transaction": "effects would stay without their record, and never be committed. Write transaction = False",
    "refs": "a Ref would be a key where perform expects a row. Declare the key itself as a prop",
    INNERMOST: "nothing would run",
}
"""Steps that cannot be removed, with what would break."""


@attrs.frozen
class Step:
    """One word of the arrow line.

    Attributes:
        name: The word.
        run: Gets the call and what comes after; returns the outcome.
        needed: Says whether a class needs it; one that is not needed is left out.
        explain: Says what it would do with a call, for `Operation.explain`; it changes nothing.
        rehearsed: Whether `Operation.callable` and `Operation.explain` go through it too, because guards need what it
            does; it must change nothing that outlives a rollback.

    Example:
        >>> def run(call, proceed):
        ...     print("in", call.contract.name)
        ...     return proceed(call)
        >>> Step("loud", run).name
        'loud'
    """

    name: str
    run: Callable[[Call, Proceed], Outcome]
    needed: Callable[[Contract], bool] = lambda _contract: True
    explain: Callable[[Call], Mapping[str, Any]] | None = None
    rehearsed: bool = False


@attrs.frozen
class Insert:
    """In `steps`: puts a step right outside of another one, or right inside of it.

    Attributes:
        step: The step.
        before: The name of the step that it is put around.
        after: The name of the step that is put around it.

    Example:
        >>> def run(call, proceed):
        ...     return proceed(call)
        >>> Insert(Step("metrics", run), after="trace").after
        'trace'
    """

    step: Step
    before: str | None = attrs.field(default=None, kw_only=True)
    after: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Remove:
    """In `steps`: takes a step out.

    Attributes:
        name: Of the step.
    """

    name: str


@attrs.frozen
class Pipeline:
    """The steps of one class.

    Attributes:
        steps: All of them, outermost first, those that were taken out too.
        removed: The names of those.
        own: The names of those that dexpy did not bring.
    """

    steps: tuple[Step, ...]
    removed: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()

    @property
    def in_force(self) -> tuple[Step, ...]:
        """The steps that are not removed."""
        return tuple(step for step in self.steps if step.name not in self.removed)

    def index_of(self, name: str, where: str) -> int:
        """Return the index of a step, counted from the outermost.

        Raises:
            DeclarationError: There is no such step.
        """
        names = [step.name for step in self.steps]
        if name not in names:
            raise DeclarationError(
                f"{where} names the step {name!r}, and there is none. "
                f"The steps are {' > '.join([*names, INNERMOST])}.{did_you_mean(name, [*names, INNERMOST])}"
            )
        return names.index(name)

    def insert(self, insert: Insert, where: str) -> Pipeline:
        """Return this pipeline with one more step."""
        step = insert.step
        if (insert.before is None) == (insert.after is None):
            raise DeclarationError(
                f"{where}: Insert({step.name!r}) wants one place. Write before= or after= with the name of a step."
            )
        if step.name in self.removed:
            removed_index = self.index_of(step.name, where)
            without_removed = Pipeline(
                self.steps[:removed_index] + self.steps[removed_index + 1 :], self.removed - {step.name}, self.own
            )
            return without_removed.insert(insert, where)
        if step.name == INNERMOST or step.name in [one.name for one in self.steps]:
            raise DeclarationError(
                f"{where}: there is a step {step.name!r} already. Take it out first, Remove({step.name!r}), or choose "
                "another name."
            )
        if insert.after == INNERMOST:
            raise DeclarationError(
                f"{where}: Insert(after={INNERMOST!r}) cannot be: {INNERMOST} is innermost. Write before={INNERMOST!r}."
            )
        if insert.before == INNERMOST:
            index = len(self.steps)
        elif insert.before is not None:
            index = self.index_of(insert.before, where)
        else:
            index = self.index_of(cast("str", insert.after), where) + 1
        return attrs.evolve(self, steps=(*self.steps[:index], step, *self.steps[index:]), own=self.own | {step.name})

    def remove(self, name: str, where: str) -> Pipeline:
        """Return this pipeline without one step."""
        if name in REQUIRED:
            raise DeclarationError(f"{where}: Remove({name!r}) cannot be: {REQUIRED[name]}.")
        self.index_of(name, where)
        return attrs.evolve(self, removed=self.removed | {name})


def apply_edits(steps: Sequence[Step], contract: Contract) -> Pipeline:
    """Return the pipeline of a class: the default steps with its edits.

    Raises:
        DeclarationError: An edit is invalid.
    """
    where = f"{contract.cls.__qualname__}.steps"
    pipeline = Pipeline(tuple(steps))
    for placement in contract.placements:
        if isinstance(placement, Insert) and isinstance(placement.step, Step):
            pipeline = pipeline.insert(placement, where)
        elif isinstance(placement, Remove):
            pipeline = pipeline.remove(placement.name, where)
        else:
            raise DeclarationError(
                f"{where}: {placement!r} does not belong there. "
                f"It takes {listed(['Insert(Step(...), after=...)', 'Remove(...)', 'Reset()'])}."
            )
    return pipeline


def validated(step: Step, *, is_outside: bool) -> Callable[[Call, Proceed], Outcome]:
    """Return the function of an application's step with checks of its behaviour.

    An `Error` that it raises becomes an `Err`; its own outcomes are checked against what the class declares.

    Args:
        step: The step.
        is_outside: Whether the transaction has ended when it gets the outcome.
    """

    def run(call: Call, proceed: Proceed) -> Outcome:
        outcomes: list[Outcome] = []
        is_called = False

        def proceed_once(call: Call) -> Outcome:
            nonlocal is_called
            if is_called:
                raise DeclarationError(
                    f"The step {step.name!r} called proceed twice. Call it once; retry_on runs all of it again."
                )
            is_called = True
            leave_if_forked(call.pid)
            outcomes.append(proceed(call))
            return outcomes[0]

        outcome: object
        try:
            outcome = run_contained(call.pid, step.run, call, proceed_once)
        except (Error, BaseExceptionGroup) as error:
            outcome = to_err(call.contract, business_error(error))
        if not isinstance(outcome, (Ok, Err)):
            raise DeclarationError(
                f"The step {step.name!r} returned {type(outcome).__name__}, and no outcome. "
                "Return what proceed(call) returned, or an Ok or Err of your own."
            )
        if outcomes and outcome is outcomes[0]:
            return outcome
        if isinstance(outcome, Ok):
            return Ok(check_result(call.contract, outcome.value))
        if is_outside and outcomes and isinstance(outcomes[0], Ok):
            raise DeclarationError(
                f"The step {step.name!r} made an Err of an Ok whose effects are committed. "
                "Put it inside of the transaction: Insert(step, after='transaction')."
            )
        return to_err(call.contract, Error(outcome.code, outcome.message, details=outcome.details))

    return run
