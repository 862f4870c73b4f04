"""`task_of`: the recurring task of an entry of the configuration file, checked against its operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from dexpy.configuration.values import RecurringEntry
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.declaration.props import parse_props
from dexpy.declaration.recurring import Recurring, why_not_recurring
from dexpy.foundation.errors import ConfigurationError, PropsError, UnknownOperation


def task_of(entry: RecurringEntry) -> tuple[Contract, Recurring]:
    """Return the task of an entry of the file, with its props as values of Python.

    Args:
        entry: The entry.

    Returns:
        The contract of its operation, and the task.

    Raises:
        UnknownOperation: This process does not declare the operation.
        ConfigurationError: Props are invalid, the operation cannot recur, or a class has a task with the key.
    """
    cls: Any = registry.find(entry.class_name)
    contract: Contract = cls.contract
    where = f"{entry.origin}: recurring.{entry.key}"
    if (reason := why_not_recurring(contract.record)) is not None:
        raise ConfigurationError(f"{where}: {contract.name} cannot recur: {reason}.")
    for other in registry.scheduled_classes():
        if any(task.key == entry.key for task in other.contract.recurring):
            raise ConfigurationError(
                f"{where}: {other.contract.name} declares a task with this key. Choose another key, or remove the "
                "schedule of the class."
            )
    args: Mapping[str, Any] = entry.task.props or {}
    try:
        values = parse_props(cls.__qualname__, contract.props, args)
    except PropsError as error:
        problems = "; ".join(str(problem) for problem in error.problems)
        raise ConfigurationError(f"{where}: invalid args of {contract.name}: {problems}.") from None
    return contract, attrs.evolve(entry.task, props={name: values[name] for name in args})


def why_unknown(error: UnknownOperation, entry: RecurringEntry) -> str:
    """Return the message for an entry whose operation this process does not declare."""
    return f"{entry.origin}: recurring.{entry.key}: {error}"
