"""``dexpy prune``: delete old records."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from dexpy.cli.application import load_store, module_arguments, verbose_option
from dexpy.cli.setting_options import DATABASE_KEYS, setting_options

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(_context: click.Context, _option: click.Parameter, value: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", value)
    if match is None:
        raise click.BadParameter(f"expected a number with the unit s, m, h, d or w, for example 30d, got {value!r}.")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


@click.command()
@module_arguments()
@click.option(
    "--older-than",
    callback=_duration,
    required=True,
    metavar="DURATION",
    help="Minimum age of the end of a record: 30d, 12h.",
)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(["done", "failed", "expired", "cancelled"]),
    help="Delete only records of this status; may be repeated.  [default: all four]",
)
@click.option("--batch", type=click.IntRange(min=1), default=1000, show_default=True, help="Records per transaction.")
@click.option("--dry-run", is_flag=True, help="Count the records, but do not delete them.")
@setting_options(*DATABASE_KEYS)
@verbose_option
def prune(
    modules: tuple[str, ...],
    older_than: timedelta,
    status: tuple[str, ...],
    batch: int,
    dry_run: bool,
    verbose: bool,
) -> None:
    """Delete old records with their attempts.

    Pending and running records are kept, and so are idempotency keys until they expire.
    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy.database.tables import FINAL
    from dexpy.recording import retention

    store = load_store(modules)
    undeletable: list[str] = []
    count = retention.prune(
        store, older_than, statuses=status or FINAL, batch=batch, dry_run=dry_run, not_deleted=undeletable
    )
    click.echo(f"{store.database.display_url}: {count} records {'would be ' if dry_run else ''}deleted.")
    if undeletable:
        examples = ", ".join(undeletable[:3]) + (", ..." if len(undeletable) > 3 else "")
        click.echo(
            f"{len(undeletable)} records could not be deleted ({examples}): a row of another table references them, or "
            "a trigger prevents it. See the log for the errors."
        )
