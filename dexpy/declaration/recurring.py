"""`Recurring`: the schedule of an operation, with the options of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast

import attrs

from dexpy.codec.codecs import InvalidValue
from dexpy.declaration.props import Prop, resolve
from dexpy.foundation.errors import DeclarationError, OptionsError, did_you_mean, listed
from dexpy.foundation.safe_text import is_plain_text, shortened
from dexpy.policies.options import AsyncOptions, Delay, Recording, delay_seconds
from dexpy.schedules.schedule import Schedule

Missed: TypeAlias = Literal["skip", "latest"]
Overlap: TypeAlias = Literal["allow", "skip"]
MISSED = ("skip", "latest")
OVERLAPS = ("allow", "skip")
MAX_KEY = 255
LONGEST_GRACE = timedelta(minutes=5)
"""The default grace, unless the interval of the schedule is shorter."""
SHORTEST_GRACE_S = 1.0
"""The shortest grace: a tick runs within a second of its time, not exactly at it."""


def _read_only(props: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return MappingProxyType(dict(props)) if isinstance(props, Mapping) else props or MappingProxyType({})


@attrs.frozen
class Recurring:
    """A schedule with the options of its runs: ``schedule = Recurring(Every("day at 3am"), queue="reports")``.

    Args:
        schedule: `Every` or `Cron`.
        key: The name of the task, unique in the database; the stable name of the class when left out, the first of its
            aliases if it has any.
        props: The props of each run; a prop that is left out gets its default when the run is enqueued.
        queue: The queue of its runs, instead of that of the class.
        priority: Their priority, instead of that of the class; higher runs sooner.
        grace: Seconds or a timedelta. A tick that is enqueued later than this is missed, for example because no worker
            was running. Default: the interval of the schedule, at most five minutes.
        missed: ``"skip"``: missed ticks have no run; ``"latest"``: the newest of them has one.
        max_waiting: A tick is skipped while so many runs of the task are pending: 1, or None for no limit.
        overlap: ``"allow"``: a tick has a run although an earlier one is running; ``"skip"``: it is skipped.
        jitter: Seconds or a timedelta: each run is due up to this much after its tick, by a hash of key and tick.
        run_at_start: Whether the task also runs at once when it is registered for the first time.

    Example:
        >>> from dexpy import Cron, Every, Operation, Recurring
        >>> class SyncInventory(Operation):
        ...     shop: int = 1
        ...     schedule = (
        ...         Recurring(Every("15 minutes"), key="sync_inventory"),
        ...         Recurring(Cron("0 3 * * *", zone="Europe/Rome"), key="sync_rome", props={"shop": 2}),
        ...     )
        ...     def perform(self) -> None: ...
        >>> [entry.key for entry in SyncInventory.contract.recurring]
        ['sync_inventory', 'sync_rome']
    """

    schedule: Schedule
    key: str | None = attrs.field(default=None, kw_only=True)
    # Without a converter as a lambda: attrs reads the type of its parameter.
    props: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True, converter=_read_only, hash=False)
    queue: str | None = attrs.field(default=None, kw_only=True)
    priority: int | None = attrs.field(default=None, kw_only=True)
    grace: Delay | None = attrs.field(default=None, kw_only=True)
    missed: Missed = attrs.field(default="skip", kw_only=True)
    max_waiting: Literal[1] | None = attrs.field(default=1, kw_only=True)
    overlap: Overlap = attrs.field(default="allow", kw_only=True)
    jitter: Delay | None = attrs.field(default=None, kw_only=True)
    run_at_start: bool = attrs.field(default=False, kw_only=True)

    def check(self, where: str) -> None:
        """Refuse invalid options.

        Args:
            where: The place of the declaration, for messages.

        Raises:
            DeclarationError: An option is invalid.
        """
        if not isinstance(self.schedule, Schedule):
            raise DeclarationError(
                f"{where}: Recurring(...): expected a schedule, got {shortened(self.schedule)}. "
                'Write Recurring(Every("15 minutes")).'
            )
        if self.key is not None:
            check_key(self.key, where)
        if not isinstance(self.props, Mapping) or not all(isinstance(name, str) for name in self.props):
            raise DeclarationError(f"{where}: props={shortened(self.props)}: expected a mapping of props by name.")
        if self.queue is not None and not isinstance(self.queue, str):
            raise DeclarationError(f"{where}: queue={shortened(self.queue)}: expected the name of a queue.")
        if self.missed not in MISSED:
            raise DeclarationError(f"{where}: missed={shortened(self.missed)}: expected 'skip' or 'latest'.")
        if self.overlap not in OVERLAPS:
            raise DeclarationError(f"{where}: overlap={shortened(self.overlap)}: expected 'allow' or 'skip'.")
        if self.max_waiting is not None and (type(self.max_waiting) is not int or self.max_waiting != 1):
            raise DeclarationError(
                f"{where}: max_waiting={shortened(self.max_waiting)}: expected 1, or None for no limit."
            )
        if not isinstance(self.run_at_start, bool):
            raise DeclarationError(f"{where}: run_at_start={shortened(self.run_at_start)}: expected True or False.")
        try:
            AsyncOptions(queue=self.queue, priority=self.priority).check(where)
            grace_s = None if self.grace is None else delay_seconds(self.grace, "grace", where)
            if self.jitter is not None:
                delay_seconds(self.jitter, "jitter", where)
        except OptionsError as error:
            raise DeclarationError(str(error)) from None
        if grace_s is not None and grace_s < SHORTEST_GRACE_S:
            raise DeclarationError(
                f"{where}: grace={shortened(self.grace)}: expected at least {SHORTEST_GRACE_S:g} second, because a run "
                "is enqueued within a second after its tick."
            )

    @property
    def grace_s(self) -> float:
        """The grace in seconds, with its default."""
        if self.grace is not None:
            return delay_seconds(self.grace, "grace", "Recurring")
        return default_grace_s(self.schedule)

    @property
    def jitter_s(self) -> float:
        """The jitter in seconds; 0 without one."""
        return 0.0 if self.jitter is None else delay_seconds(self.jitter, "jitter", "Recurring")


def default_grace_s(schedule: Schedule) -> float:
    """Return the default grace of a schedule in seconds: its interval, within bounds."""
    return max(min(schedule.interval, LONGEST_GRACE).total_seconds(), SHORTEST_GRACE_S)


def check_key(key: object, where: str) -> str:
    """Return the key of a recurring task.

    Raises:
        DeclarationError: It is no text of 1 to 255 characters that every database stores.
    """
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY or not is_plain_text(key):
        raise DeclarationError(
            f"{where}: key={shortened(key)}: expected a str of 1 to {MAX_KEY} characters, without NUL."
        )
    return key


def recurring_of(cls: type[Any], default_key: str, record: Recording | None) -> tuple[Recurring, ...]:
    """Return the recurring tasks of a class, each with its key; a subclass does not inherit them.

    Args:
        cls: The class.
        default_key: Its earliest name, so that the task stays the same when the class is renamed.
        record: What its record stores.

    Raises:
        DeclarationError: Its `schedule` is invalid.
    """
    declared: object = vars(cls).get("schedule")
    if declared is None:
        return ()
    where = f"{cls.__qualname__}.schedule"
    entries = cast("Sequence[Any]", declared if isinstance(declared, (tuple, list)) else (declared,))
    tasks: list[Recurring] = []
    for entry in entries:
        task = Recurring(entry) if isinstance(entry, Schedule) else entry
        if not isinstance(task, Recurring):
            raise DeclarationError(
                f"{where}: expected Every(...), Cron(...), Recurring(...) or several of them, got {shortened(entry)}. "
                'Write schedule = Every("15 minutes").'
            )
        task.check(where)
        if task.key is None:
            if len(entries) > 1:
                raise DeclarationError(
                    f"{where}: {task.schedule!r} has no key, and there are several entries. "
                    f'Give each a key: Recurring({task.schedule!r}, key="...").'
                )
            task = attrs.evolve(task, key=default_key)
        tasks.append(task)
    keys = [str(task.key) for task in tasks]
    if duplicates := {key for key in keys if keys.count(key) > 1}:
        raise DeclarationError(f"{where}: {listed(duplicates)} is the key of several entries. Give each its own key.")
    if tasks and (missing := why_not_recurring(record)) is not None:
        raise DeclarationError(f"{where}: {missing}. Remove that setting, or the schedule.")
    return tuple(tasks)


def why_not_recurring(record: Recording | None) -> str | None:
    """Return why this record excludes a schedule; None if it does not."""
    if record is None:
        return "a recurring task requires a record, which record = False excludes"
    if not record.params:
        return "a recurring task requires a record from the start of a run, which Recording(params=False) excludes"
    return None


def check_props(cls: type[Any], tasks: Sequence[Recurring]) -> None:
    """Refuse tasks whose props cannot build the operation.

    Args:
        cls: The class, with its attrs fields.
        tasks: Its recurring tasks.

    Raises:
        DeclarationError: Props are unknown, missing or invalid.
    """
    if not tasks:
        return
    try:
        resolved = {prop.name: prop for prop in resolve(cls)}
    except DeclarationError:
        # An annotation may name what is declared below the class: workers check the values when they start.
        resolved = {}
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cls)
    is_required = {field.name: field.default is attrs.NOTHING for field in fields}
    is_required |= {name: prop.required for name, prop in resolved.items()}
    for task in tasks:
        where, props = f"{cls.__qualname__}.schedule ({task.key})", task.props or {}
        for name in props:
            if name not in is_required:
                raise DeclarationError(
                    f"{where}: unknown prop {shortened(name)}; expected one of {listed(is_required)}."
                    f"{did_you_mean(name, is_required)}"
                )
        if missing := [name for name, required in is_required.items() if required and name not in props]:
            raise DeclarationError(
                f"{where}: {listed(missing)} has no default. "
                f"Pass it: Recurring({task.schedule!r}, props={{{missing[0]!r}: ...}})."
            )
        for name, value in props.items():
            if name in resolved:
                _check_value(resolved[name], value, where, is_hidden=bool(cls.encrypt))


def _check_value(prop: Prop, value: Any, where: str, *, is_hidden: bool) -> None:
    try:
        prop.check(value)
    except InvalidValue as invalid:
        is_hidden = is_hidden or prop.options.sensitive
        problems = [problem.hidden() if is_hidden else problem for problem in invalid.problems]
        text = "; ".join(str(problem.under("." + prop.name)) for problem in problems)
        raise DeclarationError(f"{where}: invalid props: {text}.") from None
