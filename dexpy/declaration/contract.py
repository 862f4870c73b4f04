"""The contract: all that a class says about itself, read once and never changed.

What can be refused at the class statement is refused there; types are resolved at first use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from dexpy.declaration.forms import Form, Misfit, form_of
from dexpy.declaration.hints import resolve_annotation
from dexpy.declaration.hooks import Callback, Guard
from dexpy.declaration.policies import AsyncOptions, Record, Rule, choose
from dexpy.declaration.props import Prop, resolve
from dexpy.declaration.refs import Reference
from dexpy.declaration.registry import why_not_importable
from dexpy.declaration.schema_export import Section, contract_dict, contract_schema
from dexpy.foundation.errors import Error, ResultTypeError

if TYPE_CHECKING:
    from dexpy.declaration.concurrency import Concurrency
    from dexpy.declaration.lock import Lock
    from dexpy.declaration.once import OnceOptions
    from dexpy.declaration.unique import Unique

NO_OBSERVER = "__dexpy_no_observer__"
"""Marks the `on_error` of the base class, which need not be called."""


@attrs.frozen(slots=False, eq=False)
class Contract:
    """What an operation class says about itself.

    Attributes:
        cls: The class.
        name: Its stable name.
        aliases: Earlier names.
        description: The first line of its docstring.
        options: How it goes to the background, unless a call says otherwise.
        record: What its record keeps; None when it is not recorded.
        transactional: Whether `perform` runs inside a transaction.
        rules: `retry_on` and `discard_on`.
        rescues: `rescue_from`.
        declared_errors: The codes in `errors`, with their descriptions.
        loss_limit: So many workers may be lost with a run, in all.
        timeout_s: How long a background run may take, in seconds; None for no limit.
        once: Its idempotency key; None without one.
        unique: The key of which there is one background run at a time; None without one.
        lock: The lock that its runs take; None without one.
        concurrency: How many background runs of a key there may be at once; None for any number.
        encryptor: What encrypts all of its params and results, by name; None for nothing.
        guards: Its guards, in order.
        callbacks: Its callbacks, in order.
        is_async: Whether `perform` is an ``async def``.
        placements: What it changes about the steps of the pipeline, the farthest base's first.
    """

    cls: type[Any]
    name: str
    aliases: tuple[str, ...]
    description: str | None
    options: AsyncOptions
    record: Record | None
    transactional: bool
    rules: tuple[Rule, ...]
    rescues: tuple[Rule, ...]
    declared_errors: Mapping[str, str | None]
    loss_limit: int
    timeout_s: float | None
    once: OnceOptions | None
    unique: Unique | None
    lock: Lock | None
    concurrency: Concurrency | None
    encryptor: str | None
    guards: tuple[Guard, ...]
    callbacks: tuple[Callback, ...]
    is_async: bool
    placements: tuple[object, ...]

    @cached_property
    def props(self) -> tuple[Prop, ...]:
        """Its props, with their types resolved."""
        props = resolve(self.cls)
        if self.encryptor is None:
            return props
        # What is encrypted is not to be read in a log either.
        return tuple(attrs.evolve(one, options=attrs.evolve(one.options, sensitive=True)) for one in props)

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """Those of its props that refer to rows."""
        return tuple(one.reference for one in self.props if one.reference is not None)

    @cached_property
    def mutable_props(self) -> tuple[Prop, ...]:
        """Those whose values a run could change, so that each run gets its own."""
        return tuple(one for one in self.props if one.form.mutable and one.reference is None)

    @cached_property
    def sensitive_props(self) -> tuple[str, ...]:
        """The names of those that nobody may read."""
        return tuple(one.name for one in self.props if one.options.sensitive)

    @cached_property
    def sealed_props(self) -> Mapping[str, str]:
        """The names of those that are stored and sent encrypted, each with its encryptor's."""
        chosen = {one.name: one.options.encrypted or self.encryptor for one in self.props}
        return {name: encryptor for name, encryptor in chosen.items() if encryptor is not None}

    @cached_property
    def success(self) -> Form | None:
        """The form of what `perform` returns; None when it does not say."""
        perform = self.cls.perform
        annotation = getattr(perform, "__annotations__", {}).get("return", inspect.Parameter.empty)
        if annotation is inspect.Parameter.empty:
            return None
        owner = next(base for base in self.cls.__mro__ if "perform" in vars(base))
        return form_of(resolve_annotation(annotation, owner, f"{owner.__qualname__}.perform"))

    @cached_property
    def errors(self) -> Mapping[str, str | None]:
        """Every code that a run may end with, with its description; empty when any is allowed."""
        if not self.declared_errors:
            return {}
        codes: dict[str, str | None] = {guard.code: guard.message or None for guard in self.guards}
        codes |= {rule.answer: None for rule in self.rescues if isinstance(rule.answer, str)}
        return codes | dict(self.declared_errors)

    @cached_property
    def observers(self) -> bool:
        """Whether the class has an `on_error` of its own."""
        return not hasattr(self.cls.on_error, NO_OBSERVER)

    @property
    def unreachable(self) -> str | None:
        """Why no worker could find the class, or None."""
        return why_not_importable(self.cls)

    def to_dict(self) -> dict[str, Any]:
        """Name, params, success, errors and guards as plain JSON, for people and tools."""
        return contract_dict(self)

    def to_json_schema(self, section: Section = "params") -> dict[str, Any]:
        """A section as JSON Schema, draft 2020-12.

        Args:
            section: ``"params"`` for what `parse` takes, ``"success"`` for results as they are stored, ``"errors"`` for
                business errors, or ``"full"`` for all three.

        Raises:
            OptionsError: There is no such section.

        Example:
            >>> from dexpy import Operation, prop
            >>> class Add(Operation):
            ...     a: int = prop(ge=0)
            ...     def perform(self) -> int:
            ...         return self.a + 1
            >>> Add.contract.to_json_schema()["properties"]
            {'a': {'type': 'integer', 'minimum': 0}}
        """
        return contract_schema(self, section)

    def methods(self, moment: str) -> tuple[str, ...]:
        """The names of its callbacks of one moment: before, after, around."""
        return tuple(callback.method for callback in self.callbacks if callback.moment == moment)

    def rule_for(self, error: BaseException) -> Rule | None:
        """What to do when this ends an attempt: the rule's answer is a `Retry`, or None to discard."""
        return choose(self.rules, error, error.code if isinstance(error, Error) else None)

    def rescue_for(self, error: BaseException) -> Rule | None:
        """What `rescue_from` says to an exception."""
        return choose(self.rescues, error)

    def check_result(self, value: Any) -> Any:
        """A result as the contract has it.

        Raises:
            ResultTypeError: `perform` returned something else than it says.
        """
        if self.success is None:
            return value
        try:
            return self.success.check(value)
        except Misfit as misfit:
            wrong = "; ".join(f"{('result' + problem.path)} wants {problem.wanted}" for problem in misfit.problems)
            raise ResultTypeError(
                f"{self.cls.__qualname__}.perform returned {type(value).__name__}, and says it returns "
                f"{self.success.label}: {wrong}. Change the return value or the annotation."
            ) from None


Handler = Callable[[Any, Exception], Any]
"""A function in `rescue_from`: gets the operation and the exception; returns a result, or raises."""
