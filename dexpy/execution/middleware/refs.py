"""refs: loads the rows of the references.

In: loads all of them first in the run's transaction; those with ``lock=True`` FOR UPDATE, ordered by table and key.
A missing row raises `RefNotFound`. Out: nothing.
Before guard, so that guards see current rows under the lock. Left out for a class without references.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, cast

import attrs

from dexpy.declaration.contract import Contract
from dexpy.declaration.model_loaders import loader_of
from dexpy.declaration.refs import Keyed, Reference
from dexpy.execution.call import Call
from dexpy.foundation.errors import Problem, PropsError, RefNotFound
from dexpy.foundation.forks import run_contained
from dexpy.foundation.outcome import Outcome
from dexpy.transactions.sessions import dialects


def needed(contract: Contract) -> bool:
    """Whether the class has references."""
    return bool(contract.references)


def run(call: Call, proceed: Callable[[Call], Outcome]) -> Outcome:
    """Load the referenced rows, and run the rest."""
    if call.contract.transactional:
        load(call, call.unit_of_work.session)
    else:
        with call.unit_of_work.block() as session:
            load(call, lambda: session)
        call.unit_of_work.add_rows(_rows(call))
    return proceed(call)


def load(call: Call, session: Callable[[], Any]) -> None:
    """Load the rows into the run's copy of the operation; without locks in a dry run."""
    locking = not call.is_dry_run
    values: dict[str, Any] = call.operation.__dict__
    keys_by_group: dict[_Group, dict[Any, None]] = {}
    for reference in call.contract.references:
        for item in _as_list(values[reference.prop]):
            key = _key_to_load(call, reference, item, session, locking=locking)
            if key is not None:
                keys_by_group.setdefault(_Group.of(reference, locking=locking), {})[key] = None
    if any(group.lock for group in keys_by_group):
        connection = session().connection()
        dialects()(connection).acquire_write_lock(connection)
    rows_by_group: dict[_Group, Mapping[Any, Any]] = {}
    # Locked rows first and always in the same order, so that two runs never deadlock.
    for group in sorted(keys_by_group, key=lambda group: (not group.lock, _table_of(group.model))):
        loader = loader_of(group.model)
        rows_by_group[group] = run_contained(
            call.pid, loader.load, session, list(keys_by_group[group]), group.lock, dict(group.options)
        )
    for reference in call.contract.references:
        value, group = values[reference.prop], _Group.of(reference, locking=locking)
        keys, rows = keys_by_group.get(group, {}), rows_by_group.get(group, {})
        loaded = [_loaded(call, reference, item, keys, rows) for item in _as_list(value)]
        values[reference.prop] = loaded if reference.many else (loaded[0] if loaded else None)


@attrs.frozen
class _Group:
    """References whose rows are loaded together.

    Attributes:
        model: Of all of them.
        lock: Whether their rows are locked.
        options: Execution options, as sorted pairs.
    """

    model: type
    lock: bool
    options: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, reference: Reference, *, locking: bool) -> _Group:
        """The group of a reference."""
        return cls(reference.model, reference.lock and locking, reference.options)


def _as_list(value: object) -> list[Any]:
    if isinstance(value, list):
        return cast("list[object]", value)
    return [] if value is None else [value]


def _table_of(model: type) -> str:
    return str(getattr(model, "__tablename__", model.__qualname__))


def _key_to_load(call: Call, reference: Reference, item: Any, session: Callable[[], Any], *, locking: bool) -> Any:
    if isinstance(item, Keyed):
        return item.key
    key = reference.loader.key_of(item)
    if key is None:
        problem = Problem(
            "." + reference.prop,
            reason=f"this {reference.model.__name__} has no primary key yet. Call session.flush() before passing it.",
        )
        raise PropsError(call.contract.cls.__qualname__, [problem])
    if not (reference.lock and locking) and reference.loader.is_usable(session, item):
        return None
    return key


def _loaded(call: Call, reference: Reference, item: Any, keys: Container[Any], rows: Mapping[Any, Any]) -> Any:
    key = reference.key_of(item)
    if key not in keys:
        return item
    if key not in rows:
        raise RefNotFound(call.contract.cls.__qualname__, reference.prop, reference.model.__name__, key)
    return rows[key]


def _rows(call: Call) -> Iterator[Any]:
    for reference in call.contract.references:
        yield from _as_list(call.operation.__dict__[reference.prop])
