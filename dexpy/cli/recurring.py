"""``dexpy recurring``: show, pause, resume and run recurring tasks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from dexpy.cli.application import load_store, module_arguments, verbose_option
from dexpy.cli.setting_options import DATABASE_KEYS, setting_options

if TYPE_CHECKING:
    from dexpy.recurring import RecurringTask

COLUMNS = ("KEY", "OPERATION", "SCHEDULE", "NEXT", "LAST", "OUTCOME", "MISSED", "SKIPPED", "STATE")
NONE = "-"
TIMES = "2026-12-24T18:00 in the time zone of the task, or 2026-12-24T17:00Z"

key_argument = click.argument("key")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with times in UTC.")


@click.group()
def recurring() -> None:
    """Show, pause, resume and run recurring tasks."""


@recurring.command("list")
@module_arguments()
@click.option("--retired", is_flag=True, help="Include the tasks that no worker declares any more.")
@json_option
@setting_options(*DATABASE_KEYS)
@verbose_option
def list_tasks(modules: tuple[str, ...], retired: bool, as_json: bool, verbose: bool) -> None:
    """Print all tasks, with their next and last ticks.

    The times of a task are in its zone. OUTCOME is the status of its last run.

    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy import recurring as tasks

    store = load_store(modules)
    found = tasks.all(retired=retired)
    if as_json:
        _print_json([_task_json(task) for task in found])
    elif found:
        click.echo("\n".join(_table([COLUMNS, *map(_cells, found)])))
    else:
        advice = "A worker registers those of its classes and of the configuration file when it starts."
        click.echo(f"{store.database.display_url}: no recurring tasks. {advice}")


@recurring.command("next")
@key_argument
@module_arguments()
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, 10_000),
    default=10,
    show_default=True,
    metavar="N",
    help="Maximum number of ticks.",
)
@click.option(
    "--from", "start", metavar="TIME", help=f"Print the ticks after this time, in ISO form: {TIMES}.  [default: now]"
)
@json_option
@setting_options(*DATABASE_KEYS)
@verbose_option
def next_ticks(key: str, modules: tuple[str, ...], count: int, start: str | None, as_json: bool, verbose: bool) -> None:
    """Print the next ticks of the task KEY, in its time zone.

    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy import recurring as tasks

    load_store(modules)
    task = tasks.get(key)
    after = None if start is None else _time(start, task, "--from")
    ticks = tasks.next_ticks(key, count, after)
    if as_json:
        _print_json({"key": task.key, "zone": task.zone, "ticks": [_json_value(tick) for tick in ticks]})
    else:
        for tick in ticks:
            click.echo(_shown(tick, task))
        if not ticks:
            click.echo(f"{task.key}: no further tick; the task is {_state(task)}.", err=True)


@recurring.command()
@key_argument
@module_arguments()
@click.option("--by", metavar="NAME", help="Who pauses it.")
@click.option("--reason", metavar="TEXT", help="Why.")
@click.option("--until", metavar="TIME", help=f"When the pause ends, in ISO form: {TIMES}.")
@json_option
@setting_options(*DATABASE_KEYS)
@verbose_option
def pause(
    key: str,
    modules: tuple[str, ...],
    by: str | None,
    reason: str | None,
    until: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Pause the task KEY: its ticks have no runs, and are not counted as missed.

    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy import recurring as tasks
    from dexpy.foundation.clock import clock

    load_store(modules)
    end = None if until is None else _time(until, tasks.get(key), "--until")
    if end is not None and end <= clock.now():
        raise click.BadParameter(f"expected a time in the future, got {until!r}.", param_hint="'--until'")
    _print_task(tasks.pause(key, by=by, reason=reason, until=end), as_json)


@recurring.command()
@key_argument
@module_arguments()
@json_option
@setting_options(*DATABASE_KEYS)
@verbose_option
def resume(key: str, modules: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """End the pause of the task KEY; its next tick is the first one after now.

    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy import recurring as tasks

    load_store(modules)
    _print_task(tasks.resume(key), as_json)


@recurring.command("run-now")
@key_argument
@module_arguments()
@json_option
@setting_options(*DATABASE_KEYS)
@verbose_option
def run_now(key: str, modules: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """Enqueue a run of the task KEY now, also while it is paused, and print the id of the run.

    MODULE is a dotted name, as for `dexpy worker`: it may call dexpy.configure(), and declares the operation, which is
    required if the operation has policies that apply when it is enqueued.
    """
    from dexpy import recurring as tasks

    load_store(modules)
    ticket = tasks.run_now(key)
    if as_json:
        _print_json({"key": key, "run_id": ticket.id, "duplicate": ticket.duplicate})
        return
    click.echo(ticket.id)
    if ticket.duplicate:
        click.echo(f"{key}: no run was enqueued; this is an earlier run with the same key of Once or Unique.", err=True)


def _time(text: str, task: RecurringTask, option: str) -> datetime:
    """Return the time in an option; without an offset it is in the zone of the task."""
    from dexpy.schedules.zones import zone_of

    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        problem = f"expected an ISO time, for example {TIMES}; got {text!r}."
        raise click.BadParameter(problem, param_hint=f"'{option}'") from None
    return time if time.utcoffset() is not None else time.replace(tzinfo=zone_of(task.zone))


def _next_at(task: RecurringTask) -> datetime | None:
    """Return the next tick that has a run: of a paused task the first one after the pause."""
    if task.state == "active":
        return task.next_at
    if task.state != "paused" or task.paused_until is None:
        return None
    ticks = task.schedule.upcoming(task.paused_until, 1)
    return next((tick for tick in ticks if task.until is None or tick <= task.until), None)


def _shown(time: datetime | None, task: RecurringTask) -> str:
    """Return a time in the zone of a task; in UTC if that is after the year 9999 there."""
    from dexpy.schedules.zones import zone_of

    if time is None:
        return NONE
    try:
        local = time.astimezone(zone_of(task.zone))
    except OverflowError:
        local = time
    return local.isoformat(" ", "seconds")


def _state(task: RecurringTask) -> str:
    if task.state != "paused":
        return task.state
    by = f" by {task.paused_by}" if task.paused_by else ""
    until = f" until {_shown(task.paused_until, task)}" if task.paused_until else ""
    return f"paused{by}{until}{f' ({task.pause_reason})' if task.pause_reason else ''}"


def _cells(task: RecurringTask) -> tuple[str, ...]:
    return (
        task.key,
        task.operation,
        f"{task.schedule} ({task.zone})",
        _shown(_next_at(task), task),
        _shown(task.last_at, task),
        task.last_status or NONE,
        str(task.missed_count),
        str(task.skipped_count),
        _state(task),
    )


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; control characters of texts are escaped."""
    from dexpy.foundation.safe_text import CONTROL_CHARACTERS

    cells = [[CONTROL_CHARACTERS.sub(lambda match: ascii(match[0])[1:-1], cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _print_task(task: RecurringTask, as_json: bool) -> None:
    if as_json:
        _print_json(_task_json(task))
        return
    next_at = _next_at(task)
    next_tick = "" if next_at is None else f"; next tick {_shown(next_at, task)}"
    click.echo("".join(_table([[f"{task.key}: {_state(task)}{next_tick}."]])))


def _task_json(task: RecurringTask) -> dict[str, Any]:
    """Return a task with the names of its attributes, and its zone."""
    import attrs

    values: dict[str, Any] = {}
    for field in attrs.fields(type(task)):
        values[field.name] = _json_value(getattr(task, field.name))
        if field.name == "schedule":
            values |= {"schedule": str(task.schedule), "zone": task.zone}
    return values | {"next_at": _json_value(_next_at(task))}


def _json_value(value: Any) -> Any:
    return value.astimezone(timezone.utc).isoformat() if isinstance(value, datetime) else value


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
