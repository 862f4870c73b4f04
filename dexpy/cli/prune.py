"""``dexpy prune``: delete old records."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from dexpy.cli.application import load_store, module_arguments, verbose_option

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(_context: click.Context, _option: click.Parameter, value: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no duration: write a number and s, m, h, d or w, as in 30d.")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


@click.command()
@module_arguments()
@click.option(
    "--older-than", callback=_duration, required=True, metavar="DURATION", help="Ended at least so long ago: 30d, 12h."
)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(["done", "failed", "expired", "cancelled"]),
    help="Only these; may be given more than once.  [default: all four]",
)
@click.option("--batch", type=click.IntRange(min=1), default=1000, show_default=True, help="How many at a time.")
@click.option("--dry-run", is_flag=True, help="Count them, and delete nothing.")
@verbose_option
def prune(
    modules: tuple[str, ...],
    older_than: timedelta,
    status: tuple[str, ...],
    batch: int,
    dry_run: bool,
    verbose: bool,
) -> None:
    """Delete records that ended long ago, with their attempts.

    What is pending or running stays, and so does a key for replay until it expires.
    MODULE is a dotted name, as for `dexpy worker`: the one that calls dexpy.configure().
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
            f"{len(undeletable)} records could not be deleted ({examples}): a row of another table refers to them, or "
            "a trigger refuses. The log says why."
        )
