"""Build the `Contract` of a class: read every declaration, merge it with those of the bases, and validate it.

The module is long because it has one function for each declaration.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import attrs

from dexpy.declaration.class_definition import RATE, RESERVED, forbid_secret_propagation, reserved_name
from dexpy.declaration.class_hooks import check_guards, hooks_of
from dexpy.declaration.contract import Contract
from dexpy.declaration.declared_attributes import declared_of
from dexpy.declaration.hooks import Callback, Guard
from dexpy.declaration.recurring import Recurring, check_props, recurring_of
from dexpy.declaration.registry import stable_name
from dexpy.foundation.encryption import encryptor_name
from dexpy.foundation.errors import DeclarationError, Error, OptionsError, WorkerLost, listed
from dexpy.policies.concurrency import Concurrency, why_not_limited
from dexpy.policies.error_rules import ErrorRule, choose_rule
from dexpy.policies.fair import Fair
from dexpy.policies.keep import keep_by_status
from dexpy.policies.keys import KeyRule
from dexpy.policies.lock import Lock
from dexpy.policies.once import Once, OnceOptions, why_not_replayable
from dexpy.policies.options import AsyncOptions, Recording, Reset, delay_seconds
from dexpy.policies.rate import Rate
from dexpy.policies.retry import Retry, causes_in
from dexpy.policies.unique import Unique, why_not_unique


def compile_contract(cls: type[Any], name: str | None, aliases: Sequence[str]) -> Contract:
    """Return the contract of a class.

    Raises:
        DeclarationError: A declaration is invalid.
    """
    where = cls.__qualname__
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= 255):
        raise DeclarationError(f"class {where}(name={name!r}): expected a str of 1 to 255 characters.")
    hooks = list(hooks_of(cls))
    for hook in hooks:
        kind, method = ("guard", hook.code) if isinstance(hook, Guard) else ("callback", hook.method)
        if method in RESERVED:
            raise DeclarationError(reserved_name(where, method, kind))
    guards = tuple(hook for hook in hooks if isinstance(hook, Guard))
    check_guards(where, guards)
    record = _record(cls, where)
    perform: Any = cls.perform
    _check_perform(cls, where)
    rules = _job_rules(cls, where)
    options = _options(cls, where)
    if record is None or not record.params:
        _check_needs_no_record(cls, where, record)
        # A base class may declare it for its subclasses that have a record.
        options = attrs.evolve(options, expires_in=None)
    encryptor = encryptor_name(cls.encrypt, f"{where}.encrypt")
    forbid_secret_propagation(cls, is_encrypted=encryptor is not None)
    return Contract(
        cls=cls,
        name=name or stable_name(cls),
        aliases=_aliases(aliases, where),
        description=next(iter((inspect.getdoc(cls) or "").splitlines()), None) if vars(cls).get("__doc__") else None,
        options=options,
        record=record,
        transactional=_transactional(cls, where),
        rules=rules,
        rescues=_rescues(cls, where),
        declared_errors=_errors(cls, where),
        loss_limit=_loss_limit(cls, where, rules),
        timeout_s=_timeout_s(cls, where),
        once=_once(cls, where, record),
        unique=_unique(cls, where, record),
        lock=_lock(cls, where),
        concurrency=_concurrency(cls, where, record),
        rate=_rate(cls, where, record),
        fair=_fair(cls, where, record),
        encryptor=encryptor,
        guards=guards,
        callbacks=tuple(hook for hook in hooks if isinstance(hook, Callback)),
        is_async=_is_async(perform),
        pipeline_edits=_pipeline_edits(cls, where),
        recurring=_recurring(cls, next(iter(_aliases(aliases, where)), name or stable_name(cls)), record),
    )


def _recurring(cls: type[Any], default_key: str, record: Recording | None) -> tuple[Recurring, ...]:
    tasks = recurring_of(cls, default_key, record)
    check_props(cls, tasks)
    return tasks


def _check_perform(cls: type[Any], where: str) -> None:
    static, perform = inspect.getattr_static(cls, "perform", None), cls.perform
    if isinstance(static, (staticmethod, classmethod)) or not callable(perform):
        raise DeclarationError(f"{where}.perform: expected a method. Write def perform(self) -> ...")
    is_generator = inspect.isgeneratorfunction(perform) or inspect.isasyncgenfunction(perform)
    if is_generator and _mock_in(perform) is None:
        raise DeclarationError(
            f"{where}.perform: expected a plain method, got a generator function. Return a list instead of using yield."
        )
    required = [
        parameter.name
        for parameter in list(inspect.signature(perform).parameters.values())[1:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        raise DeclarationError(
            f"{where}.perform: expected no parameters besides self, got {listed(required)}. Declare a prop for each "
            "and read it from self."
        )


def _mock_in(function: Any) -> object:
    """Return the mock behind a function: itself, or the one that ``autospec=True`` has wrapped."""
    mock = sys.modules.get("unittest.mock")
    if mock is None:
        return None
    candidates = (function, getattr(function, "__dict__", {}).get("mock"))
    return next((candidate for candidate in candidates if issubclass(type(candidate), mock.NonCallableMock)), None)


def _is_async(perform: Any) -> bool:
    # A mock of a function has every attribute, also those that mark a coroutine function.
    mocked = _mock_in(perform)
    return inspect.iscoroutinefunction(perform) if mocked is None else hasattr(type(mocked), "assert_awaited")


def _aliases(aliases: object, where: str) -> tuple[str, ...]:
    if isinstance(aliases, (tuple, list)):
        names = tuple(cast("Sequence[object]", aliases))
        if all(isinstance(name, str) and 0 < len(name) <= 255 for name in names):
            return cast("tuple[str, ...]", names)
    raise DeclarationError(
        f"class {where}(aliases={aliases!r}): expected a tuple of earlier names. Write aliases=({'old.Name'!r},)."
    )


def _declarations(cls: type, name: str) -> list[tuple[int, Any]]:
    """Return the declarations of a name in the class hierarchy with their distance, the farthest first."""
    declarations = [
        (distance, vars(base)[name])
        for distance, base in enumerate(cls.__mro__)
        if name in vars(base) and not ((declared := declared_of(base)) is not None and name in declared.methods)
    ]
    return declarations[::-1]


def _options(cls: type, where: str) -> AsyncOptions:
    merged = AsyncOptions()
    for _, declared in _declarations(cls, "async_"):
        if not isinstance(declared, AsyncOptions):
            raise DeclarationError(
                f"{where}.async_: expected an Async(...), got {declared!r}. "
                'Write async_ = Async(queue="mailers", priority=5).'
            )
        try:
            declared.check(f"{where}.async_")
        except OptionsError as error:
            raise DeclarationError(str(error)) from None
        merged = declared.merged_over(merged)
    return merged


def _record(cls: Any, where: str) -> Recording | None:
    declared = cls.record
    if declared is True:
        return Recording()
    if declared is False:
        return None
    if isinstance(declared, Recording) and {type(declared.params), type(declared.result)} == {bool}:
        try:
            keep_by_status(declared.keep, f"{where}.record: keep")
        except OptionsError as error:
            raise DeclarationError(str(error)) from None
        return declared
    raise DeclarationError(
        f"{where}.record: expected True, False or a Recording(...) of bools, got {declared!r}. "
        "Write record = Recording(params=True, result=False)."
    )


def _check_needs_no_record(cls: type, where: str, record: Recording | None) -> None:
    attributes = vars(cls)
    names = ["max_lost"] if "max_lost" in attributes else []
    if getattr(attributes.get("async_"), "expires_in", None) is not None:
        names.append("async_ with expires_in")
    if names:
        cause = "record = False" if record is None else "record = Recording(params=False)"
        raise DeclarationError(
            f"{where}: {' and '.join(names)} requires a record from the start of the run, which {cause} excludes. "
            "Remove one of them."
        )


def _transactional(cls: type, where: str) -> bool:
    # Empty if a mock has replaced the attribute of `Operation` itself.
    *_, (_, nearest) = (0, True), *_declarations(cls, "transaction")
    declared = getattr(nearest, "declared", nearest)
    if not isinstance(declared, bool):
        raise DeclarationError(f"{where}.transaction: expected True or False, got {declared!r}.")
    return declared


def _once(cls: Any, where: str, record: Recording | None) -> OnceOptions | None:
    *_, (_, declared) = (0, Once.never()), *_declarations(cls, "once")
    if not isinstance(declared, Once):
        raise DeclarationError(
            f'{where}.once: expected a Once(...), got {declared!r}. Write once = Once("order"), or Once.never().'
        )
    if not declared.declared:
        return None
    declared.rule.check(f"{where}.once", [field.name for field in attrs.fields(cls)])
    # Also if inherited: without its key the class would run twice what must run once.
    if (missing := why_not_replayable(record)) is not None:
        raise DeclarationError(f"{where}.once: {missing}. Remove that setting, or write once = Once.never().")
    return declared


def _unique(cls: Any, where: str, record: Recording | None) -> Unique | None:
    declared = cls.unique
    if not isinstance(declared, Unique):
        raise DeclarationError(
            f"{where}.unique: expected a Unique(...), got {declared!r}. "
            'Write unique = Unique("shop", until="started"), or Unique.never().'
        )
    if not declared.declared:
        return None
    declared.rule.check(f"{where}.unique", [field.name for field in attrs.fields(cls)])
    if (missing := why_not_unique(record)) is not None:
        raise DeclarationError(f"{where}.unique: {missing}. Remove that setting, or write unique = Unique.never().")
    return declared


def _lock(cls: Any, where: str) -> Lock | None:
    declared = cls.lock
    if declared is None:
        return None
    if not isinstance(declared, Lock):
        raise DeclarationError(
            f"{where}.lock: expected a Lock(...) or None, got {declared!r}. "
            'Write lock = Lock(template="account:{account}").'
        )
    declared.check(f"{where}.lock", [field.name for field in attrs.fields(cls)])
    return declared


def _concurrency(cls: Any, where: str, record: Recording | None) -> Concurrency | None:
    declared = cls.concurrency
    if declared is None:
        return None
    if not isinstance(declared, Concurrency):
        raise DeclarationError(
            f"{where}.concurrency: expected a Concurrency(...) or None, got {declared!r}. "
            'Write concurrency = Concurrency(2, "account").'
        )
    _check_limit(cls, f"{where}.concurrency", "a concurrency limit", declared.rule, record)
    return declared


def _rate(cls: Any, where: str, record: Recording | None) -> Rate | None:
    declared = getattr(cls, RATE, None)
    if declared is None or any(field.name == RATE for field in attrs.fields(cls)):
        return None
    if not isinstance(declared, Rate):
        if callable(declared) or hasattr(declared, "__get__"):
            # A method or property of the application.
            return None
        raise DeclarationError(
            f"{where}.rate: expected a Rate(...) or None, got {declared!r}. "
            'Write rate = Rate(100, "account", per=60), or annotate it if it is a prop.'
        )
    _check_limit(cls, f"{where}.rate", "a rate limit", declared.rule, record)
    return declared


def _fair(cls: Any, where: str, record: Recording | None) -> Fair | None:
    declared = cls.fair
    if declared is None:
        return None
    if not isinstance(declared, Fair):
        raise DeclarationError(
            f'{where}.fair: expected a Fair(...) or None, got {declared!r}. Write fair = Fair("tenant").'
        )
    _check_limit(cls, f"{where}.fair", "fairness", declared.rule, record)
    return declared


def _check_limit(cls: Any, where: str, what: str, rule: KeyRule | None, record: Recording | None) -> None:
    if rule is not None:
        rule.check(where, [field.name for field in attrs.fields(cls)])
    if (missing := why_not_limited(record, what)) is not None:
        name = where.rpartition(".")[2]
        raise DeclarationError(f"{where}: {missing}. Remove that setting, or write {name} = None.")


ENDLESS = 2**31 - 1
"""No limit, in a column of the record."""


def _loss_limit(cls: Any, where: str, rules: Sequence[ErrorRule]) -> int:
    if type(cls.max_lost) is not int or not 0 <= cls.max_lost < ENDLESS:
        raise DeclarationError(f"{where}.max_lost: expected an int of at least 0, got {cls.max_lost!r}.")
    # Only a rule for WorkerLost itself: a rule for Exception is about errors of the operation.
    rule = choose_rule([rule for rule in rules if rule.cause is WorkerLost], WorkerLost())
    if rule is None:
        max_lost: int = cls.max_lost
        return max_lost + 1
    if not isinstance(rule.answer, Retry):
        return 1
    return ENDLESS if rule.answer.attempts is None else rule.answer.attempts


def _timeout_s(cls: Any, where: str) -> float | None:
    if cls.timeout is None:
        return None
    try:
        seconds = delay_seconds(cls.timeout, "timeout", where)
    except OptionsError as error:
        raise DeclarationError(str(error)) from None
    if not seconds:
        raise DeclarationError(
            f"{where}.timeout: expected more than 0 seconds, or None for no limit, got {cls.timeout!r}."
        )
    return seconds


def _job_rules(cls: type, where: str) -> tuple[ErrorRule, ...]:
    rules: list[ErrorRule] = []
    for attribute, expected in (("retry_on", Retry), ("discard_on", None)):
        class_rules: list[ErrorRule] = []
        for distance, declared in _declarations(cls, attribute):
            if not isinstance(declared, (tuple, list)):
                raise DeclarationError(
                    f"{where}.{attribute}: expected a tuple, got {declared!r}. A tuple of one entry needs a comma: "
                    f"{attribute} = (...,)."
                )
            for order, entry in enumerate(cast("Sequence[Any]", declared)):
                if isinstance(entry, Reset):
                    class_rules.clear()
                elif expected is Retry and isinstance(entry, Retry):
                    class_rules += [ErrorRule(cause, entry, distance, order) for cause in entry.causes]
                elif expected is None and not isinstance(entry, Retry):
                    class_rules += [
                        ErrorRule(_checked_cause(cause, entry, where), None, distance, order)
                        for cause in causes_in(entry)
                    ]
                else:
                    takes = "Retry(...) and Reset()" if expected is Retry else "exception classes, codes and Reset()"
                    raise DeclarationError(f"{where}.{attribute}: expected {takes}, got {entry!r}.")
        rules += class_rules
    _check_contradictions(rules, where)
    return tuple(rules)


def _check_contradictions(rules: Sequence[ErrorRule], where: str) -> None:
    retried = {(rule.cause, rule.distance) for rule in rules if rule.answer is not None}
    for rule in rules:
        if rule.answer is None and (rule.cause, rule.distance) in retried:
            cause = rule.cause if isinstance(rule.cause, str) else rule.cause.__name__
            raise DeclarationError(f"{where}: {cause} is in both retry_on and discard_on. Remove it from one of them.")


def _pipeline_edits(cls: type, where: str) -> tuple[object, ...]:
    merged: list[object] = []
    for _, declared in _declarations(cls, "pipeline"):
        if not isinstance(declared, (tuple, list)):
            raise DeclarationError(
                f"{where}.pipeline: expected a tuple, got {declared!r}. A tuple of one entry needs a comma: "
                "pipeline = (...,)."
            )
        for entry in cast("Sequence[object]", declared):
            if isinstance(entry, Reset):
                merged.clear()
            else:
                merged.append(entry)
    return tuple(merged)


def _checked_cause(cause: object, entry: object, where: str) -> Any:
    if (isinstance(cause, str) and cause) or (isinstance(cause, type) and issubclass(cause, Exception)):
        return cause
    within = "" if cause is entry else f" in {entry!r}"
    raise DeclarationError(f"{where}.discard_on: expected exception classes, codes and Reset(), got {cause!r}{within}.")


def _rescues(cls: type, where: str) -> tuple[ErrorRule, ...]:
    rules: list[ErrorRule] = []
    for distance, declared in _declarations(cls, "rescue_from"):
        if not isinstance(declared, Mapping):
            raise DeclarationError(
                f"{where}.rescue_from: expected a mapping, got {declared!r}. "
                'Write rescue_from = {CardError: "card_declined"}.'
            )
        for order, (classes, rescue) in enumerate(cast("Mapping[object, Any]", declared).items()):
            causes = [_checked_rescued(cause, classes, where) for cause in causes_in(classes)]
            if not _is_rescue(rescue):
                raise DeclarationError(
                    f"{where}.rescue_from[{causes[0].__name__}]: expected an error code, an exception class or a "
                    f"function of the operation and the exception, got {rescue!r}."
                )
            rules += [ErrorRule(cause, rescue, distance, order) for cause in causes]
    return tuple(rules)


def _checked_rescued(cause: object, classes: object, where: str) -> type[Exception]:
    if not (isinstance(cause, type) and issubclass(cause, Exception)):
        within = "" if cause is classes else f" in {classes!r}"
        raise DeclarationError(f"{where}.rescue_from: expected exception classes, got {cause!r}{within}.")
    if issubclass(cause, Error):
        raise DeclarationError(
            f"{where}.rescue_from: {cause.__name__} is a business error, which is never rescued. Remove it."
        )
    return cause


def _is_rescue(rescue: Any) -> bool:
    if isinstance(rescue, str):
        return bool(rescue)
    if isinstance(rescue, type):
        return issubclass(rescue, Exception)
    return callable(rescue)


def _errors(cls: type, where: str) -> Mapping[str, str | None]:
    merged: dict[str, str | None] = {}
    for _, declared in _declarations(cls, "errors"):
        if isinstance(declared, str) or not isinstance(declared, (set, frozenset, list, tuple, Mapping)):
            raise DeclarationError(
                f'{where}.errors: expected a set of codes, got {declared!r}. Write errors = {{"no_balance"}}.'
            )
        if isinstance(declared, Mapping):
            described = cast("Mapping[object, Any]", declared)
        else:
            described = dict.fromkeys(cast("Collection[object]", declared))
        for code, description in described.items():
            if not isinstance(code, str) or not code or len(code) > 255:
                raise DeclarationError(f"{where}.errors: invalid code {code!r}; expected a str of 1 to 255 characters.")
            if description is not None and not isinstance(description, str):
                raise DeclarationError(f"{where}.errors[{code!r}]: expected a description, a str, got {description!r}.")
            merged[code] = description
    return merged
