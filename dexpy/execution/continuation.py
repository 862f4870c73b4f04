"""Continuations: a run as a chain of transactions, each exactly once, whose next attempt goes on after the last one.

A step's effects, what is kept of it and the check of the claim are one transaction. A call in place has nothing to go
on from: there a step is a part of the call's one transaction, and nothing is kept of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dexpy.declaration.forms import Form, Misfit, form_of
from dexpy.declaration.hints import resolve_annotation
from dexpy.execution import progress
from dexpy.execution.call import Call, current
from dexpy.execution.parts import Parts
from dexpy.execution.steps import refs
from dexpy.execution.walks import Walk, walk_over
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import NotSerializable, OptionsError, ResultTypeError, StepError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from dexpy.recording.recorder import ClaimRecorder
    from dexpy.recording.steps import KeptStep, Milestone

T = TypeVar("T")


def step(call: Call, method: Callable[..., T], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> T:
    """Run a method as a step; see `Operation.step`."""
    name, form = _method(call, method)
    return cast("T", _chain(call, name).step(name, form, lambda: method(*arguments, **named)))


def each(call: Call, name: str, source: Any, batch: int) -> Iterator[Any]:
    """Walk over items as a step; see `Operation.each`."""
    owner = call.contract.cls.__qualname__
    if not isinstance(name, str) or not 0 < len(name) <= 255:
        raise OptionsError(f"{owner}.each({name!r}, ...) wants a name of 1 to 255 characters first.")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise OptionsError(f"{owner}.each({name!r}, batch={batch!r}) wants a whole number, 1 or more.")
    return _chain(call, name).walk(name, walk_over(source, owner, name), batch)


class Chain:
    """The steps of one attempt.

    Args:
        call: The run.
        claim: Writes what the run has behind it; None for a call in place, of which nothing is kept.
    """

    def __init__(self, call: Call, claim: ClaimRecorder | None) -> None:
        self._call = call
        self._claim = claim
        self._scope = call.scope
        self._parts = Parts(call.scope)
        self._owner = call.contract.cls.__qualname__
        self._commits = claim is not None or not call.contract.transactional
        self._asked: list[str] = []
        self._inside: str | None = None
        self._unfinished: str | None = None
        self._kept: list[KeptStep] = []
        if claim is not None:
            from dexpy.recording.steps import kept_of

            self._kept = kept_of(claim.store, call.id)

    # ---------------------------------------------------------------------------------------- the two kinds

    def step(self, name: str, form: Form, method: Callable[[], Any]) -> Any:
        """Run a method once, however many attempts there are, and give what it returned."""
        position, kept = self._enter(name)
        if kept is not None:
            if not kept.finished:
                raise self._refused(name, "was a loop in an earlier attempt, of self.each. Let it be one still.")
            return self._decoded(name, form, kept)
        # In the one transaction of a call in place a step can be undone alone, too.
        with self._under_way(name), self._parts.part() if self._commits else self._parts.savepoint():
            self._lock_again()
            value = method()
            encoded = self._encoded(name, form, value)
            self._commit(name, position, kept, finished=True, value=encoded)
        return value

    def walk(self, name: str, walk: Walk, batch: int) -> Iterator[Any]:
        """Walk over what is not behind the run yet; the items of a page are one transaction."""
        position, kept = self._enter(name)
        if kept is not None and kept.finished:
            return
        cursor = None if kept is None else self._opened(kept.cursor)
        pages = walk.pages(cursor, self._scope.session, batch)
        with self._under_way(name):
            is_last = False
            while not is_last:
                with self._parts.part() if self._commits else nullcontext():
                    self._lock_again()
                    page = next(pages)
                    for item in page.items:
                        self._check_cancelled()
                        yield item
                    is_last = page.is_last
                    kept = self._commit(name, position, kept, finished=is_last, cursor=page.cursor)
                if not is_last:
                    self._check_interrupted()

    # --------------------------------------------------------------------------------------- what is refused

    def _enter(self, name: str) -> tuple[int, KeptStep | None]:
        """The position of a step, and what is kept of it."""
        scope, call = self._scope, self._call
        if self._inside is not None:
            raise self._refused(
                name,
                f"is inside the step {self._inside!r}, and steps follow one another: its commit would be a part of "
                "that one's. Call the method itself.",
            )
        if current.get() is not call:
            raise self._refused(name, "was asked for inside another operation's run, whose transaction goes on.")
        if not scope.performing:
            raise self._refused(name, "was asked for outside of perform: guards and callbacks run in each attempt.")
        if name in self._asked:
            raise self._refused(name, "was asked for twice in one attempt. Give each its own name.")
        if self._unfinished is not None:
            raise self._refused(
                name,
                f"comes after {self._unfinished!r}, which did not come to its end in this attempt. Let what a step "
                "raises pass, or catch it inside the step; have a loop end by itself.",
            )
        self._check_place(name)
        position = len(self._asked)
        self._asked.append(name)
        kept = self._kept[position] if position < len(self._kept) else None
        if kept is not None and kept.name != name:
            raise self._refused(
                name,
                f"comes where an earlier attempt had {kept.name!r}. Steps come in the same order in every attempt: "
                "put conditions into the steps, add new ones behind the others, "
                "or begin anew with ticket.retry(from_start=True).",
            )
        if kept is None or not kept.finished:
            self._check_cancelled()
            self._check_interrupted()
        return position, kept

    def _check_place(self, name: str) -> None:
        scope = self._scope
        if not self._commits:
            return
        if not self._call.contract.transactional:
            if scope.is_open:
                raise self._refused(
                    name, "is inside `with self.transaction():`, and is a transaction of its own. Move it out of that."
                )
            return
        if scope.is_nested:
            raise self._refused(
                name, "is inside `with self.session.begin_nested():`, and commits more than that. Move it out of that."
            )
        if scope.has_written():
            raise self._refused(
                name,
                "comes after something was written outside of a step, or left for after the commit, "
                "which each attempt would do again. Do it in a step.",
            )

    def _refused(self, name: str, why: str) -> StepError:
        return StepError(self._owner, name, why)

    def _check_cancelled(self) -> None:
        if self._call.stop is not None:
            self._call.stop.check()

    def _check_interrupted(self) -> None:
        if self._claim is not None and self._call.stop is not None:
            self._call.stop.check_interrupted()

    # ------------------------------------------------------------------------------------ its transaction

    @contextmanager
    def _under_way(self, name: str) -> Generator[None, None, None]:
        self._inside = self._unfinished = name
        try:
            yield
            self._unfinished = None
        finally:
            self._inside = None

    def _lock_again(self) -> None:
        """A row that the class wants locked is so in each transaction of the chain."""
        contract = self._call.contract
        if self._commits and contract.transactional and any(one.lock for one in contract.references):
            refs.load(self._call, self._scope.session)

    def _commit(
        self,
        name: str,
        position: int,
        kept: KeptStep | None,
        *,
        finished: bool,
        cursor: Any = None,
        value: Any = None,
    ) -> Any:
        if not self._commits:
            return kept
        claim = self._claim
        if claim is None:
            self._parts.commit(_nothing)
            return kept
        from dexpy.recording.steps import Milestone

        milestone = Milestone(
            name, position, kept is None, finished, cursor=self._sealed(cursor), value=self._sealed(value)
        )
        stop = self._call.stop
        with nullcontext() if stop is None else stop.outside():
            progress.keep_last(self._scope)
            self._parts.commit(lambda connection: self._settle(claim, connection, milestone))
        checkpoint("after_step_commit")
        return milestone

    def _settle(self, claim: ClaimRecorder, connection: Connection | None, milestone: Milestone) -> None:
        claim.keep(connection, milestone)
        if connection is not None:
            progress.settle(self._scope, connection)

    # ----------------------------------------------------------------------------------- what is kept of it

    def _encoded(self, name: str, form: Form, value: Any) -> Any:
        try:
            return form.encode(form.check(value))
        except Misfit as misfit:
            wrong = "; ".join(f"{('its result' + problem.path)} wants {problem.wanted}" for problem in misfit.problems)
            raise ResultTypeError(
                f"{self._owner}.{name} returned {type(value).__name__}, and says it returns {form.label}: {wrong}. "
                "Change the return value or the annotation."
            ) from None
        except NotSerializable as error:
            raise self._refused(
                name,
                f"returned what cannot be kept for the next attempt: {error}. Return plain JSON, annotate what it "
                "returns, or return None.",
            ) from None

    def _decoded(self, name: str, form: Form, kept: KeptStep) -> Any:
        try:
            return form.decode(self._opened(kept.value))
        except Misfit:
            raise self._refused(
                name,
                f"has kept a result in an earlier attempt that is no {form.label} now. Give the method the annotation "
                "that it had, or begin anew with ticket.retry(from_start=True).",
            ) from None

    def _sealed(self, value: Any) -> Any:
        if value is None:
            return None
        from dexpy.recording.sealing import sealed_result

        return sealed_result(self._call.contract, {"value": value})

    def _opened(self, envelope: Any) -> Any:
        if envelope is None:
            return None
        from dexpy.recording.sealing import opened

        return opened(self._call.contract.name, envelope)["value"]


def _nothing(_connection: object) -> None:
    return None


def _chain(call: Call, name: str) -> Chain:
    """The steps of a run, which begin with the first that it asks for."""
    scope, owner = call.scope, call.contract.cls.__qualname__
    if not scope.is_own_thread:
        raise StepError(
            owner,
            name,
            "was asked for on the event loop, where nothing may wait for a commit. "
            "Write: await self.in_session(lambda session: self.step(self.method)).",
        )
    if scope.chain is None:
        record, claim = call.contract.record, progress.claim_of(call)
        if record is None or not record.params:
            said = "record = False" if record is None else "Record(params=False)"
            raise StepError(owner, name, f"needs a record to be kept with, and the class says {said}. Leave that out.")
        if claim is None and call.stop is not None and call.outer is None:
            raise StepError(
                owner,
                name,
                "needs a record to be kept with, and this worker has no database: name one in its settings.",
            )
        scope.chain = Chain(call, claim)
    return scope.chain


def _method(call: Call, method: Any) -> tuple[str, Form]:
    """The name of a step, and the form of what it returns.

    Raises:
        OptionsError: It is no plain method of the operation itself.
    """
    owner = call.contract.cls.__qualname__
    name: str | None = getattr(method, "__name__", None)
    if not inspect.ismethod(method) or method.__self__ is not call.operation or name is None:
        raise OptionsError(
            f"{owner}.step({method!r}) wants a method of the operation itself, whose name the next attempt knows it "
            "by. Write: self.step(self.method)."
        )
    if inspect.iscoroutinefunction(method):
        raise OptionsError(f"{owner}.step(self.{name}) wants a plain method; {name} is an async def. Write a def.")
    annotation = method.__func__.__annotations__.get("return", Any)
    base: type = next(base for base in call.contract.cls.__mro__ if name in vars(base))
    return name, form_of(resolve_annotation(annotation, base, f"{base.__qualname__}.{name}"))
