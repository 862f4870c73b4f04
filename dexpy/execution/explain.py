"""`Operation.explain`: reports what a call would do; each middleware and policy returns its section of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.contract_builder import ENDLESS
from dexpy.declaration.key_digests import concurrency_key, fair_key, rate_key, unique_keys
from dexpy.declaration.props import Prop
from dexpy.execution import pipeline
from dexpy.execution.call import Call
from dexpy.foundation.context import current_context
from dexpy.foundation.error_details import to_json
from dexpy.foundation.errors import SENSITIVE, NotSerializable, PropsError
from dexpy.foundation.outcome import Err, Ok, Outcome
from dexpy.foundation.redaction import class_path
from dexpy.policies.retry import Retry
from dexpy.recording.current_store import current_store
from dexpy.recording.encryption import explain_encryption

Section = Mapping[str, Any]

FIELD_OF = {"guard": "guards", "rescue": "rescue_from"}
"""The field names of middleware whose section has another name."""


@attrs.frozen(kw_only=True)
class Explanation:
    """The report of `Operation.explain`: what a call with these props would do, without side effects.

    A section is None if the class does not declare the policy. A section with ``"callable": False`` states why the
    call would not reach `perform`.

    Attributes:
        operation: The operation's stable name.
        callable: Whether the call would reach `perform`.
        description: The first line of its docstring.
        error: What is wrong with the props; the report is partial then.
        props: Every prop as JSON, defaults and ambient values included; a sensitive one is redacted.
        context: The source of each prop with ``context=``: explicit, ambient, default or missing.
        guards: For each guard ``status`` (passed, refused or skipped) and ``message``.
        once: The idempotency key, and the run that holds it.
        unique: The unique key, and the run that holds it.
        lock: The advisory lock's key.
        concurrency: The key, its limit, and the numbers of running and blocked runs.
        rate: The key, its limit and window, and the numbers of starts in the window and of waiting runs.
        fair: The key by which its runs start in turn.
        record: Which parts of a run are stored.
        encryption: The encrypted props and result, and their encryptors.
        transaction: Whether `perform` is one transaction.
        background: Queue, priority, time, rules and limits of a background run.
        rescue_from: The error code, exception or handler of each exception.
        callbacks: The number of callbacks of each kind.
        pipeline: The names in the pipeline, outermost first, and whether each is active for this class.
        extras: The sections of the application's own middleware, by its name.
    """

    operation: str
    callable: bool
    description: str | None = None
    error: str | None = None
    props: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    context: Mapping[str, str] = attrs.field(factory=dict[str, str])
    guards: Mapping[str, Mapping[str, str]] = attrs.field(factory=dict[str, Mapping[str, str]])
    once: Section | None = None
    unique: Section | None = None
    lock: Section | None = None
    concurrency: Section | None = None
    rate: Section | None = None
    fair: Section | None = None
    record: Section | None = None
    encryption: Section | None = None
    transaction: Section | None = None
    background: Section | None = None
    rescue_from: Section | None = None
    callbacks: Section | None = None
    pipeline: Mapping[str, bool] = attrs.field(factory=dict[str, bool])
    extras: Mapping[str, Section] = attrs.field(factory=dict[str, Section])

    def without_records(self) -> Explanation:
        """Return the report for a runtime that records nothing."""
        background = None if self.background is None else {**self.background, "job": "DirectJob"}
        return attrs.evolve(self, record={"enabled": False}, background=background)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        plain: dict[str, Any] = to_json(attrs.asdict(self, recurse=False), _unredacted)
        return plain

    def __str__(self) -> str:
        """Return the report as text, with a line for each fact."""
        return "\n".join(_lines(self))


def _unredacted(text: str) -> str:
    return text


def _lines(report: Explanation) -> Iterator[str]:
    decision = "callable" if report.callable else "not callable"
    yield f"{report.operation}: {decision}"
    if report.description:
        yield f"  {report.description}"
    facts = report.to_dict()
    for name in ("operation", "callable", "description"):
        del facts[name]
    if facts["error"]:
        yield from (f"  {text}" for text in str(facts["error"]).splitlines())
    del facts["error"]
    layers = cast("dict[str, bool]", facts.pop("pipeline"))
    extras = cast("dict[str, Any]", facts.pop("extras"))
    for name, section in {**facts, **extras}.items():
        if section and isinstance(section, dict):
            yield f"  {name}"
            yield from (f"    {key}: {_short(value)}" for key, value in cast("dict[str, Any]", section).items())
    yield "  pipeline"
    yield "    " + " > ".join(name if is_active else f"({name})" for name, is_active in layers.items())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in cast("dict[str, Any]", value).items())
    if isinstance(value, list):
        return ", ".join(_short(item) for item in cast("list[object]", value)) or "none"
    return {None: "none", True: "yes", False: "no"}[value] if value is None or type(value) is bool else str(value)


# -------------------------------------------------------------------- policies without middleware


def unique(call: Call) -> Section | None:
    """Return the unique key that a background run of this call would have, and the run that holds it now."""
    rule = call.contract.unique
    if rule is None:
        return None
    keys = unique_keys(call.operation, call.contract)
    section: dict[str, Any] = {"active": True, "key": keys[0][:12], "until": rule.until, "for": rule.for_s}
    section |= {"on_conflict": rule.on_conflict}
    holder = current_store.get().holder(call.contract.name, unique=keys)
    if holder is None or holder.is_expired:
        return section | {"status": "fresh"}
    return section | {"status": "held", "held_by": holder.row.id}


def concurrency(call: Call) -> Section | None:
    """Return the concurrency key, its limit, and the numbers of running and blocked runs."""
    limit = call.contract.concurrency
    if limit is None:
        return None
    key = concurrency_key(call.operation, call.contract)
    running, blocked = call.unit_of_work.store.concurrency_of(key)
    return {
        "key": key,
        "limit": limit.limit,
        "on_conflict": limit.on_conflict,
        "running": running,
        "blocked": blocked,
    }


def rate(call: Call) -> Section | None:
    """Return the key of the rate limit, its limit and window, and the numbers of starts and waiting runs."""
    limit = call.contract.rate
    if limit is None:
        return None
    key = rate_key(call.operation, call.contract)
    started, blocked = call.unit_of_work.store.rate_of(key, limit.per_s)
    return {
        "key": key,
        "limit": limit.limit,
        "per": limit.per_s,
        "on_conflict": limit.on_conflict,
        "started": started,
        "blocked": blocked,
    }


def fair(call: Call) -> Section | None:
    """Return the key by which the runs of the queue start in turn."""
    return None if call.contract.fair is None else {"key": fair_key(call.operation, call.contract)}


def background(call: Call) -> Section:
    """Return the options, rules and limits of a background run."""
    contract, options = call.contract, call.contract.options
    queue = options.queue(call.operation) if callable(options.queue) else options.queue
    section: dict[str, Any] = {
        "job": "RecordJob" if contract.record is not None and contract.record.params else "DirectJob",
        "queue": call.redactor(queue or "default"),
        "priority": options.priority or 0,
        "in": _seconds(options.in_),
        "at": None if options.at is None else options.at.isoformat(),
        "expires_in": _seconds(options.expires_in),
        "retry_on": [_retry_section(rule) for rule in dict.fromkeys(_answers(contract))],
        "discard_on": [_cause(rule.cause) for rule in contract.rules if rule.answer is None],
        "timeout": contract.timeout_s,
        "max_lost": None if contract.loss_limit == ENDLESS else contract.loss_limit - 1,
    }
    return {name: fact for name, fact in section.items() if fact is not None}


def _answers(contract: Contract) -> Iterator[Retry]:
    return (rule.answer for rule in contract.rules if rule.answer is not None)


def _retry_section(rule: Retry) -> Section:
    wait = f"{getattr(rule.wait, '__name__', 'function')}()" if callable(rule.wait) else rule.wait
    return {
        "causes": [_cause(cause) for cause in rule.causes],
        "attempts": rule.attempts,
        "wait": wait if isinstance(wait, str) else _seconds(wait),
    }


def _cause(cause: type[BaseException] | str) -> str:
    return cause if isinstance(cause, str) else class_path(cause)


def _seconds(delay: Any) -> float | None:
    return delay if delay is None or isinstance(delay, (int, float)) else delay.total_seconds()


POLICIES: tuple[tuple[str, Callable[[Call], Section | None]], ...] = (
    ("encryption", lambda call: explain_encryption(call.contract)),
    ("unique", unique),
    ("concurrency", concurrency),
    ("rate", rate),
    ("fair", fair),
    ("background", background),
)
"""Policies without middleware in the pipeline: the section's name, and its function; None leaves the section out."""

# -------------------------------------------------------------------- the report


def explain_fully(call: Call, passed_props: Mapping[str, Any]) -> Explanation:
    """Return the report of a call; it is partial if a reference is invalid.

    Args:
        call: A call of a dry run, in a transaction that is rolled back.
        passed_props: The props that were passed, to distinguish them from ambient values and defaults.

    Raises:
        RefNotFound: The row of a reference does not exist.
        Exception: Whatever a guard, or a function of a policy, raises.
    """
    props = {prop.name: _shown_value(prop, call) for prop in call.contract.props}
    is_reached = False

    def report(call: Call) -> Outcome:
        nonlocal is_reached
        is_reached = True
        return Ok(_report(call, props, passed_props))

    try:
        # Without guard: the report calls the guards itself.
        outcome = pipeline.dry_run_pipeline(call, report, without="guard")
    except PropsError as error:
        if is_reached:
            raise
        return explain_partly(call, passed_props, str(error))
    if isinstance(outcome, Err):
        return explain_partly(call, passed_props, outcome.message)
    return cast("Explanation", outcome.value)


def explain_partly(call: Call, passed_props: Mapping[str, Any], error: str) -> Explanation:
    """Return a partial report of a call with invalid props.

    Args:
        call: A call of an operation that has only the valid props.
        passed_props: The props that were passed.
        error: The error.
    """
    values: dict[str, Any] = call.operation.__dict__
    props = {prop.name: _shown_value(prop, call) for prop in call.contract.props if prop.name in values}
    return _report(call, props, passed_props, error)


def _report(
    call: Call, props: Mapping[str, Any], passed_props: Mapping[str, Any], error: str | None = None
) -> Explanation:
    contract = call.contract
    sections: dict[str, Any] = {}
    extras: dict[str, Section] = {}
    for name, explain_section, is_own in _explainers(contract):
        section = _explain_section(call, explain_section, name, is_own=is_own, is_partial=error is not None)
        if section is None:
            continue
        if is_own:
            sections[FIELD_OF.get(name, name)] = section
        else:
            extras[name] = to_json(section, call.redactor)
    guards = sections.get("guards", {})
    refused = any(answer["status"] == "refused" for answer in guards.values())
    stopped = any(section.get("callable") is False for section in (*sections.values(), *extras.values()))
    return Explanation(
        operation=contract.name,
        callable=error is None and not refused and not stopped,
        description=contract.description,
        error=None if error is None else call.redactor(error),
        props=props,
        context=_sources(contract, passed_props),
        pipeline=pipeline.middleware_of(contract),
        extras=extras,
        **sections,
    )


def _explainers(contract: Contract) -> Iterator[tuple[str, Callable[[Call], Section | None], bool]]:
    """Yield the name and function of each section, and whether it belongs to dexpy."""
    edited = pipeline.pipeline_of(contract)
    for middleware in edited.active:
        if middleware.explain is not None and middleware.needed(contract):
            yield middleware.name, middleware.explain, middleware.name not in edited.custom
    yield from ((name, explain_section, True) for name, explain_section in POLICIES)


def _explain_section(
    call: Call, explain_section: Callable[[Call], Section | None], name: str, *, is_own: bool, is_partial: bool
) -> Section | None:
    if is_partial and (name == "guard" or not is_own):
        # Guards and custom middleware read the operation, which is incomplete.
        return None
    try:
        return explain_section(call)
    except Exception as failed:
        if is_partial:
            return {"unknown": "it depends on the props"}
        if is_own:
            raise
        return {"failed": f"{class_path(failed)}: {call.redactor.of(failed)}"}


def _shown_value(prop: Prop, call: Call) -> Any:
    value = call.operation.__dict__[prop.name]
    if prop.options.sensitive:
        return SENSITIVE
    try:
        return prop.codec.encode(value)
    except NotSerializable:
        return prop.display(value)


def _sources(contract: Contract, passed_props: Mapping[str, Any]) -> dict[str, str]:
    context_props = [prop for prop in contract.props if prop.options.context is not None]
    return {prop.name: _source(prop, passed_props) for prop in context_props}


def _source(prop: Prop, passed_props: Mapping[str, Any]) -> str:
    if prop.name in passed_props:
        return "explicit"
    if prop.options.context in current_context():
        return "ambient"
    return "missing" if prop.required else "default"
