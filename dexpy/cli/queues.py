"""``dexpy queues``: show, pause and resume queues and operations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from dexpy.cli.application import load_store, module_arguments, verbose_option
from dexpy.cli.setting_options import DATABASE_KEYS, setting_options

if TYPE_CHECKING:
    from dexpy.queues import Pause, Queue

COLUMNS = ("QUEUE", "WAITING", "DUE", "OLDEST", "RUNNING", "SCHEDULED", "PER MINUTE", "WORKERS", "STATE")
NONE = "-"

queue_argument = click.argument("queue", required=False)
operation_option = click.option("--operation", metavar="NAME", help="An operation instead of a queue, by stable name.")
app_option = click.option(
    "-A",
    "--app",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="A module that calls dexpy.configure() or declares the operation; may be repeated.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON with times in UTC.")


class _Duration(click.ParamType[float]):
    """A duration with its unit, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        from dexpy.foundation.durations import parse_duration

        seconds = value if isinstance(value, float) else parse_duration(value)
        if not seconds:
            self.fail(f"expected a number with a unit, such as 90s, 30m, 2h or 1d, got {value!r}.", param, ctx)
        return seconds


@click.group()
def queues() -> None:
    """Show, pause and resume queues and operations."""


@queues.command("list")
@module_arguments()
@click.option(
    "--window",
    type=_Duration(),
    default=300.0,
    metavar="DURATION",
    help="Count the runs that have ended since.  [default: 5m]",
)
@json_option
@setting_options(*DATABASE_KEYS)
@verbose_option
def list_queues(modules: tuple[str, ...], window: float, as_json: bool, verbose: bool) -> None:
    """Print all queues with their runs and workers, and what is paused.

    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy import queues as api

    load_store(modules)
    found, paused = api.all(window=window), [each for each in api.pauses() if each.operation is not None]
    if as_json:
        document = {"queues": [_queue_json(queue) for queue in found], "operations": list(map(_pause_json, paused))}
        click.echo(json.dumps(document, indent=2))
        return
    click.echo("\n".join(_table([COLUMNS, *map(_cells, found)])))
    for each in paused:
        click.echo(_escaped(f"operation {each.operation}: {_described(each)}"))


@queues.command()
@queue_argument
@operation_option
@app_option
@click.option("--by", metavar="NAME", help="Who pauses it.")
@click.option("--reason", metavar="TEXT", help="Why.")
@click.option("--for", "for_s", type=_Duration(), metavar="DURATION", help="Resume by itself after this time: 30m, 2h.")
@json_option
@setting_options(*DATABASE_KEYS)
@verbose_option
def pause(
    queue: str | None,
    operation: str | None,
    modules: tuple[str, ...],
    by: str | None,
    reason: str | None,
    for_s: float | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Pause QUEUE, or an operation: workers start no run of it after two seconds; running ones finish."""
    from dexpy import queues as api

    _check_target(queue, operation)
    load_store(modules)
    paused = api.pause(queue, operation=operation, by=by, reason=reason, for_=for_s)
    if as_json:
        click.echo(json.dumps(_pause_json(paused), indent=2))
    else:
        click.echo(_escaped(f"{paused.name}: {_described(paused)}."))


@queues.command()
@queue_argument
@operation_option
@app_option
@json_option
@setting_options(*DATABASE_KEYS)
@verbose_option
def resume(queue: str | None, operation: str | None, modules: tuple[str, ...], as_json: bool, verbose: bool) -> None:
    """End the pause of QUEUE, or of an operation; its runs that are due start within two seconds."""
    from dexpy import queues as api

    _check_target(queue, operation)
    load_store(modules)
    was_paused = api.resume(queue, operation=operation)
    if as_json:
        click.echo(json.dumps({"queue": queue, "operation": operation, "was_paused": was_paused}, indent=2))
    else:
        click.echo(_escaped(f"{queue or operation}: {'resumed' if was_paused else 'was not paused'}."))


def _check_target(queue: str | None, operation: str | None) -> None:
    if (queue is None) == (operation is None):
        raise click.UsageError("expected QUEUE or --operation NAME, one of them.")


def _described(paused: Pause) -> str:
    by = f" by {paused.by}" if paused.by else ""
    until = f" until {_shown(paused.until)}" if paused.until else ""
    return f"paused since {_shown(paused.since)}{by}{until}{f' ({paused.reason})' if paused.reason else ''}"


def _shown(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat(" ", "seconds").replace("+00:00", "Z")


def _cells(queue: Queue) -> tuple[str, ...]:
    if queue.pause is not None:
        state = _described(queue.pause)
    elif queue.waiting and not queue.workers:
        state = "no worker serves it"
    else:
        state = "active"
    return (
        queue.name,
        str(queue.waiting),
        str(queue.due),
        NONE if queue.oldest_age_s is None else f"{queue.oldest_age_s:.0f}s",
        str(queue.running),
        str(queue.scheduled),
        f"{queue.per_minute:.1f}",
        str(len(queue.workers)),
        state,
    )


def _escaped(text: str) -> str:
    from dexpy.foundation.safe_text import CONTROL_CHARACTERS

    return CONTROL_CHARACTERS.sub(lambda match: ascii(match[0])[1:-1], text)


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    cells = [[_escaped(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _pause_json(paused: Pause) -> dict[str, Any]:
    import attrs

    return {name: _json_value(value) for name, value in attrs.asdict(paused).items()}


def _queue_json(queue: Queue) -> dict[str, Any]:
    import attrs

    values = {name: _json_value(value) for name, value in attrs.asdict(queue, recurse=False).items()}
    return values | {"workers": list(queue.workers), "pause": None if queue.pause is None else _pause_json(queue.pause)}


def _json_value(value: Any) -> Any:
    return value.astimezone(timezone.utc).isoformat() if isinstance(value, datetime) else value
