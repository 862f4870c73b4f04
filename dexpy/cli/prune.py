"""``dexpy prune``: delete old records."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from dexpy.cli.application import load_store, module_arguments, verbose_option
from dexpy.cli.setting_options import DATABASE_KEYS, RETENTION_KEYS, setting_options

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(_context: click.Context, _option: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,6})([smhdw])", value)
    if match is None:
        raise click.BadParameter(f"expected a number with the unit s, m, h, d or w, for example 30d, got {value!r}.")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


@click.command()
@module_arguments()
@click.option(
    "--older-than",
    callback=_duration,
    metavar="DURATION",
    help="Minimum age of the end of a record: 30d, 12h.  [default: the retention of each class]",
)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(["done", "failed", "expired", "cancelled"]),
    help="Delete only records of this status; may be repeated.  [default: all four]",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1000, show_default=True, help="Records per transaction, with an age."
)
@click.option("--dry-run", is_flag=True, help="Count the records, but do not delete them.")
@setting_options(*DATABASE_KEYS, *RETENTION_KEYS)
@verbose_option
def prune(
    modules: tuple[str, ...],
    older_than: timedelta | None,
    status: tuple[str, ...],
    batch: int,
    dry_run: bool,
    verbose: bool,
) -> None:
    """Delete old records with their attempts.

    Without --older-than it deletes what workers and relays delete by themselves: records whose retention has passed,
    which their class or the settings declare. It prints the number for each operation and status.

    Pending and running records are kept, and so are idempotency keys until they expire, and the 100 newest ticks of
    each recurring task.
    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy.database.tables import FINAL
    from dexpy.recording import retention

    store = load_store(modules)
    undeletable: list[str] = []
    if older_than is not None:
        count = retention.prune(
            store, older_than, statuses=status or FINAL, batch=batch, dry_run=dry_run, not_deleted=undeletable
        )
    else:
        count = _prune_by_retention(status or FINAL, dry_run, undeletable)
    click.echo(f"{store.database.display_url}: {count} records {'would be ' if dry_run else ''}deleted.")
    if undeletable:
        examples = ", ".join(undeletable[:3]) + (", ..." if len(undeletable) > 3 else "")
        click.echo(
            f"{len(undeletable)} records could not be deleted ({examples}): a row of another table references them, or "
            "a trigger prevents it. See the log for the errors."
        )


def _prune_by_retention(statuses: tuple[str, ...], dry_run: bool, undeletable: list[str]) -> int:
    """Delete or count by the rules of classes and settings, print the counts, and return their sum."""
    from dexpy.runtime import current_runtime

    recorded = current_runtime().start().recorded
    assert recorded is not None  # noqa: S101 - the command has a store
    pruning = recorded.pruning
    if not pruning.selections(statuses):
        click.echo(
            "All records are kept for ever. Set [retention] or Recording(keep=...), or pass --older-than.", err=True
        )
    counts = pruning.count(statuses) if dry_run else pruning.run_round(statuses, undeletable)
    width = max((len(operation) for operation, _ in counts), default=0)
    for (operation, status), count in sorted(counts.items()):
        click.echo(f"{operation:{width}}  {status:9}  {count}")
    return counts.total()
