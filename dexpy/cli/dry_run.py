"""``dexpy worker --dry-run``: checks what a worker needs, and prints what it would run, without starting one."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dexpy.cli.check import Finding, findings, until_exit
from dexpy.configuration.table import SETTINGS
from dexpy.foundation.durations import format_duration

if TYPE_CHECKING:
    from dexpy.configuration.values import WorkerGroup
    from dexpy.runtime import Runtime

ALL_QUEUES = "all queues"


def exit_after_dry_run(modules: tuple[str, ...], only_groups: tuple[str, ...], *, verbose: bool) -> NoReturn:
    """Print the findings of ``dexpy check`` and what would run, and exit: see `status_of`.

    Args:
        modules: The arguments ``MODULE...``.
        only_groups: The names of the groups that would start; all if empty.
        verbose: Whether to print tracebacks.
    """
    status = 0
    for finding in until_exit(findings(modules, only_groups)):
        status = max(status, status_of(finding))
        click.echo(str(finding))
        if verbose and finding.error is not None:
            traceback.print_exception(finding.error)
    if status == 2:
        click.echo("A worker would not start.")
        sys.exit(status)
    from dexpy.runtime import current_runtime

    runtime = current_runtime()
    groups = runtime.settings.configuration.worker_groups(only_groups)
    for line in (*unserved_operations(groups), "", *plan(runtime, groups)):
        click.echo(str(line))
    would = "would start" if status == 0 else "would wait until its servers are reachable"
    click.echo(f"Dry run: no process was started; a worker {would}.")
    sys.exit(status)


def status_of(finding: Finding) -> int:
    """Return the exit status for a finding: 1 for a server that is down, 2 if a restart does not help."""
    from dexpy.worker.startup import is_away

    if not finding.failed:
        return 0
    return 1 if finding.error is not None and is_away(finding.error) else 2


def plan(runtime: Runtime, groups: tuple[WorkerGroup, ...]) -> Iterator[str]:
    """Yield what a worker would run: its groups with their operations, recurring tasks, relay and health endpoint."""
    for group in groups:
        title = f"group {group.name}" if group.name else "worker"
        processes = f"{group.processes} process{'es' if group.processes > 1 else ''}"
        threads = f"{group.threads} thread{'s' if group.threads > 1 else ''}"
        yield f"{title}: {processes} with {threads} each, {_queues_of(group)}"
        for operation, queue in operation_queues().items():
            if queue is None or _serves(group, queue):
                yield f"  {operation} ({'a queue by its function' if queue is None else queue})"
    yield from _recurring(runtime)
    configuration = runtime.settings.configuration
    if not runtime.carries_its_queue and runtime.is_recording:
        yield f"relay: every {format_duration(configuration.get('relay.interval'))}"
    port: int | None = configuration.get("health.port")
    if port is not None:
        yield f"health: {configuration.get('health.host')} port {port}"


def operation_queues() -> dict[str, str | None]:
    """Return the queue of each operation of the application; None if a function chooses it."""
    from dexpy.declaration import registry
    from dexpy.enqueue.jobs import DEFAULT_QUEUE

    queues: dict[str, str | None] = {}
    for name in sorted(registry.names()):
        queue: Any = registry.find(name).contract.options.queue
        queues[name] = (queue if isinstance(queue, str) else None) if queue is not None else DEFAULT_QUEUE
    return queues


def unserved_operations(groups: tuple[WorkerGroup, ...]) -> Iterator[Finding]:
    """Yield a warning for each operation whose queue no group serves."""
    for operation, queue in operation_queues().items():
        if queue is not None and not any(_serves(group, queue) for group in groups):
            yield Finding(f"operation {operation}", f"no group serves its queue {queue!r}.", "warn")


def _serves(group: WorkerGroup, queue: str) -> bool:
    return group.queues is None or queue in group.queues


def _queues_of(group: WorkerGroup) -> str:
    if group.queues is None:
        return ALL_QUEUES
    names: str = SETTINGS["workers.queues"].kind.display(group.queues)
    return f"queue{'s' if ',' in names else ''} {names.replace(',', ', ')}"


def _recurring(runtime: Runtime) -> Iterator[str]:
    from dexpy.maintenance.recurring_registration import declared_tasks

    settings = runtime.settings
    if not runtime.is_recording or settings.skip_recurring:
        return
    declared = declared_tasks(settings.zone, entries=settings.configuration.recurring)
    for key, task in sorted(declared.tasks.items()):
        yield f"recurring {key}: {task.definition.schedule}, {task.definition.operation}"
    for key in declared.broken:
        yield f"recurring {key}: not registered, because it is invalid"
