"""What a configuration consists of: values with their origins, worker groups and recurring tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from dexpy.configuration.table import RECURRING, SETTINGS, WORKERS, default_of, settings_of
from dexpy.declaration.recurring import Recurring
from dexpy.policies.queue_selection import QueueSelection

DEFAULT = "default"
"""The origin of a default, and the name of the environment of the top level."""


@attrs.frozen
class Value:
    """The value of a setting and where it comes from.

    Attributes:
        value: The value; None for "not set", or a meaning of the kind.
        origin: ``default``, ``FILE:LINE``, a variable, a flag or ``dexpy.configure()``.
    """

    value: Any = attrs.field(repr=False)
    origin: str = DEFAULT


@attrs.frozen
class WorkerGroup:
    """The options of the worker processes of one group.

    Attributes:
        name: Its name, or else its position in the file, from 1; "" if the file has no groups.
        queues: The queues to serve, the most urgent first; None for all.
        threads: How many runs at a time in each process.
        processes: The number of processes.
        polling_interval_s: The longest pause between two polls of an idle queue, in seconds.
        shutdown_timeout_s: How long running operations may continue after a stop signal, in seconds.
        max_runs: The runs after which a process is replaced; None for no limit.
        max_memory: The resident memory at which a process is replaced, in bytes; None for no limit.
        origins: The origin of each value, by key of the table of settings.
    """

    name: str
    queues: QueueSelection | None
    threads: int
    processes: int
    polling_interval_s: float
    shutdown_timeout_s: float
    max_runs: int | None = None
    max_memory: int | None = None
    origins: Mapping[str, str] = attrs.field(factory=dict[str, str], eq=False, repr=False)

    @classmethod
    def of(cls, name: str, values: Mapping[str, Value]) -> WorkerGroup:
        """Return the group with these values, and defaults for the others.

        Args:
            name: The name.
            values: Values by key of the table of settings.
        """
        by_key = {key: values.get(key, Value(default_of(key))) for key in GROUP_KEYS}
        queues, threads, processes, polling_interval, shutdown_timeout, max_runs, max_memory = (
            value.value for value in by_key.values()
        )
        return cls(
            name,
            queues,
            threads,
            processes,
            polling_interval,
            shutdown_timeout,
            max_runs,
            max_memory,
            origins={key: value.origin for key, value in by_key.items()},
        )

    def values(self) -> dict[str, Value]:
        """Return the values by key of the table of settings."""
        numbers = (
            self.queues,
            self.threads,
            self.processes,
            self.polling_interval_s,
            self.shutdown_timeout_s,
            self.max_runs,
            self.max_memory,
        )
        return {key: Value(value, self.origins[key]) for key, value in zip(GROUP_KEYS, numbers, strict=True)}


GROUP_KEYS = tuple(setting.key for name, setting in settings_of(WORKERS).items() if name != "name")
"""The keys of a worker group that variables and flags set too, in the order of `WorkerGroup`."""


@attrs.frozen
class RetentionSettings:
    """The settings of the deletion of old records.

    Attributes:
        keep_s: How long records are kept, in seconds, by final status; None is for ever.
        interval_s: The pause between two rounds of deletion, in seconds.
        batch_size: The number of records in one transaction.
        prunes: Whether workers and relays delete old records.
    """

    keep_s: Mapping[str, float | None]
    interval_s: float
    batch_size: int
    prunes: bool


@attrs.frozen
class RecurringEntry:
    """A recurring task of the file, checked as far as that is possible without its class.

    Attributes:
        key: The key of the task.
        class_name: The name of the operation.
        task: The task; its props are as the file has them, and not checked.
        origin: The file and the line.
        values: The values of the file and the defaults, by key of the table of settings.
    """

    key: str
    class_name: str
    task: Recurring = attrs.field(repr=False)
    origin: str = attrs.field(eq=False)
    values: Mapping[str, Value] = attrs.field(eq=False, repr=False)

    @classmethod
    def of(cls, key: str, values: Mapping[str, Value], origin: str) -> RecurringEntry:
        """Return the entry with these values, and defaults for the others.

        Args:
            key: The key of the task.
            values: Values by key of the table of settings.
            origin: The file and the line.

        Raises:
            DeclarationError: The key or an option is invalid.
        """
        by_key = {s.key: values.get(s.key, Value(s.default)) for s in settings_of(RECURRING).values()}
        options = {SETTINGS[name].name: value.value for name, value in by_key.items()}
        task = Recurring(
            options["schedule"].with_zone(options["zone"]),
            key=key,
            props=options["args"],
            queue=options["queue"],
            priority=options["priority"],
            grace=options["grace"],
            missed=options["missed"],
            max_waiting=options["max_waiting"],
            overlap=options["overlap"],
            jitter=options["jitter"] or None,
            run_at_start=options["run_at_start"],
        )
        task.check(f"{RECURRING}.{key}")
        return cls(key, options["class"], task, origin, by_key)
