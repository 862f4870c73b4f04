"""The contract: the declarations of an operation class, read once and immutable.

Declarations are validated at the class statement; types are resolved at first use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Never, NoReturn, Self

import attrs

from dexpy.codec.codecs import Codec, codec_at
from dexpy.codec.generics import arguments_of, substituted
from dexpy.codec.hints import resolve_annotation
from dexpy.declaration.hooks import Callback, Guard
from dexpy.declaration.props import Prop, resolve
from dexpy.declaration.recurring import Recurring
from dexpy.declaration.refs import Reference
from dexpy.declaration.registry import why_not_importable
from dexpy.declaration.schema_export import Section, params_dict, section_schema
from dexpy.foundation.errors import DeclarationError, Error
from dexpy.policies.concurrency import Concurrency
from dexpy.policies.error_rules import ErrorRule, choose_rule
from dexpy.policies.fair import Fair
from dexpy.policies.lock import Lock
from dexpy.policies.once import OnceOptions
from dexpy.policies.options import AsyncOptions, Recording
from dexpy.policies.rate import Rate
from dexpy.policies.retry import Retry
from dexpy.policies.unique import Unique

NO_OBSERVER = "__dexpy_no_observer__"
"""Marks the `on_error` of `Operation`, which is not called."""


@attrs.frozen(slots=False, eq=False)
class Contract:
    """The declarations of an operation class, read once.

    Attributes:
        cls: The class.
        name: Its stable name.
        aliases: Earlier names.
        description: The first line of its docstring.
        options: The default options of its background runs.
        record: What its record stores; None when it is not recorded.
        transactional: Whether `perform` runs in a transaction.
        rules: `retry_on` and `discard_on`.
        rescues: `rescue_from`.
        declared_errors: The codes in `errors`, with their descriptions.
        loss_limit: The number of lost workers that ends a run.
        timeout_s: The maximum duration of a background run, in seconds; None for no limit.
        once: Its idempotency key; None without one.
        unique: The key with at most one background run at a time; None without one.
        lock: The lock that its runs take; None without one.
        concurrency: The limit of concurrent background runs for each key; None without one.
        rate: The limit of starts of background runs for each key and window; None without one.
        fair: The key by which its background runs start in turn; None without one.
        encryptor: The name of the encryptor of all its params and results; None without one.
        guards: Its guards, in order.
        callbacks: Its callbacks, in order.
        is_async: Whether `perform` is an ``async def``.
        pipeline_edits: Its edits of the pipeline, those of the farthest base first.
        recurring: Its recurring tasks, each with its key.
    """

    cls: type[Any]
    name: str
    aliases: tuple[str, ...]
    description: str | None
    options: AsyncOptions
    record: Recording | None
    transactional: bool
    rules: tuple[ErrorRule, ...]
    rescues: tuple[ErrorRule, ...]
    declared_errors: Mapping[str, str | None]
    loss_limit: int
    timeout_s: float | None
    once: OnceOptions | None
    unique: Unique | None
    lock: Lock | None
    concurrency: Concurrency | None
    rate: Rate | None
    fair: Fair | None
    encryptor: str | None
    guards: tuple[Guard, ...]
    callbacks: tuple[Callback, ...]
    is_async: bool
    pipeline_edits: tuple[object, ...]
    recurring: tuple[Recurring, ...]

    @cached_property
    def props(self) -> tuple[Prop, ...]:
        """Its props, with their types resolved."""
        props = resolve(self.cls)
        if self.encryptor is None:
            return props
        # Encrypted props must not appear in logs either.
        return tuple(attrs.evolve(prop, options=attrs.evolve(prop.options, sensitive=True)) for prop in props)

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """The references among its props."""
        return tuple(prop.reference for prop in self.props if prop.reference is not None)

    @cached_property
    def mutable_props(self) -> tuple[Prop, ...]:
        """The props with mutable values, which are copied for each run."""
        return tuple(prop for prop in self.props if prop.codec.mutable and prop.reference is None)

    @cached_property
    def sensitive_props(self) -> tuple[str, ...]:
        """The names of the sensitive props."""
        return tuple(prop.name for prop in self.props if prop.options.sensitive)

    @cached_property
    def encrypted_props(self) -> Mapping[str, str]:
        """The names of the encrypted props, each with the name of its encryptor."""
        encryptors = {prop.name: prop.options.encrypted or self.encryptor for prop in self.props}
        return {name: encryptor for name, encryptor in encryptors.items() if encryptor is not None}

    @cached_property
    def has_background_key_functions(self) -> bool:
        """Whether a function of the class computes a key of background runs."""
        policies = (self.unique, self.concurrency, self.rate, self.fair)
        return any(policy is not None and policy.rule and policy.rule.function is not None for policy in policies)

    @cached_property
    def success(self) -> Codec | None:
        """The codec of the result of `perform`; None without a return annotation."""
        perform = self.cls.perform
        annotations: dict[str, Any] = getattr(perform, "__annotations__", None) or {}
        annotation = annotations.get("return", inspect.Parameter.empty)
        if annotation is inspect.Parameter.empty:
            return None
        definer = next(base for base in self.cls.__mro__ if "perform" in vars(base))
        where = f"{definer.__qualname__}.perform"
        resolved = resolve_annotation(annotation, definer, where, perform)
        if resolved is Never or resolved is NoReturn:
            resolved = None  # it never returns
        codec = codec_at(substituted(resolved, {Self: self.cls, **arguments_of(self.cls, definer)}), where)
        if codec.sensitive:
            raise DeclarationError(
                f"{where}: prop(sensitive=True) is not supported in the return type {codec.label}. "
                "Write record = Recording(result=False), or encrypt = True."
            )
        return codec

    @cached_property
    def errors(self) -> Mapping[str, str | None]:
        """The error codes of runs, with their descriptions; empty if any code is allowed."""
        if not self.declared_errors:
            return {}
        codes: dict[str, str | None] = {guard.code: guard.message or None for guard in self.guards}
        codes |= {rule.answer: None for rule in self.rescues if isinstance(rule.answer, str)}
        return codes | dict(self.declared_errors)

    @cached_property
    def observers(self) -> bool:
        """Whether the class defines `on_error`."""
        return not hasattr(self.cls.on_error, NO_OBSERVER)

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        """Its names in keys, the earliest first, so that keys do not change when the class is renamed."""
        return tuple(dict.fromkeys((*self.aliases, self.name)))

    @cached_property
    def unreachable(self) -> str | None:
        """The reason why workers cannot find the class, or None."""
        return why_not_importable(self.cls)

    def to_dict(self) -> dict[str, Any]:
        """Return the name, params, success, errors and guards as plain JSON, for people and tools."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "description": self.description,
            "params": params_dict(self.props),
            "success": None if self.success is None else self.success.label,
            "errors": dict(self.errors),
            "guards": [
                {"code": guard.code, "message": guard.message or guard.code, "requires": list(guard.requires)}
                for guard in self.guards
            ],
        }

    def to_json_schema(self, section: Section = "params") -> dict[str, Any]:
        """Return a section as JSON Schema, draft 2020-12.

        Args:
            section: ``"params"`` for the input of `parse`, ``"success"`` for stored results, ``"errors"`` for
                business errors, or ``"full"`` for all three.

        Raises:
            OptionsError: The section is unknown.

        Example:
            >>> from dexpy import Operation, prop
            >>> class Add(Operation):
            ...     a: int = prop(ge=0)
            ...     def perform(self) -> int:
            ...         return self.a + 1
            >>> Add.contract.to_json_schema()["properties"]
            {'a': {'type': 'integer', 'minimum': 0}}
        """
        return section_schema(section, self.name, self.description, self.props, self.success, self.errors)

    def methods(self, moment: str) -> tuple[str, ...]:
        """Return the names of its callbacks of a kind: before, after or around."""
        return tuple(callback.method for callback in self.callbacks if callback.moment == moment)

    def rule_for(self, error: BaseException) -> ErrorRule | None:
        """Return the rule for an error that ends an attempt; its answer is a `Retry`, or None for discard."""
        return choose_rule(self.rules, error, error.code if isinstance(error, Error) else None)

    @cached_property
    def _counters(self) -> Mapping[int, str]:
        rules = list({id(rule.answer): rule.answer for rule in self.rules if isinstance(rule.answer, Retry)}.values())
        counters: dict[int, str] = {}
        for retry in rules:
            # Two exception classes may have the same name, for example if a function creates them.
            same_key = [other for other in rules if other.key == retry.key and other.causes != retry.causes]
            number = sum(id(other) in counters for other in same_key)
            counters[id(retry)] = f"{retry.key}#{number + 1}" if number else retry.key
        return counters

    def counter_of(self, retry: Retry) -> str:
        """Return the name of the attempt counter of a rule in a record."""
        return self._counters.get(id(retry)) or f"built-in:{retry.key}"

    def earlier_counter_of(self, retry: Retry) -> str | None:
        """Return the name of the counter in rows of earlier releases; None if another rule has that name."""
        return None if retry.earlier_key in self._counters.values() else retry.earlier_key

    def rescue_for(self, error: BaseException) -> ErrorRule | None:
        """Return the rule of `rescue_from` for an exception."""
        return choose_rule(self.rescues, error)


Handler = Callable[[Any, Exception], Any]
"""A function in `rescue_from` of the operation and the exception; it returns a result, or raises."""
