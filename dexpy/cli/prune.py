"""``dexpy prune``: delete old records."""

from __future__ import annotations

import re
from datetime import timedelta

import click

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _duration(_context: click.Context, _option: click.Parameter, given: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhdw])", given)
    if found is None:
        raise click.BadParameter(f"{given!r} is no duration: write a number and s, m, h, d or w, as in 30d.")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


@click.command()
@click.option(
    "--older-than", callback=_duration, required=True, metavar="DURATION", help="Ended at least so long ago: 30d, 12h."
)
@click.option(
    "--status",
    multiple=True,
    type=click.Choice(["done", "failed", "expired"]),
    help="Only these; may be given more than once.  [default: all three]",
)
@click.option("--batch", type=click.IntRange(min=1), default=1000, show_default=True, help="How many at a time.")
@click.option("--dry-run", is_flag=True, help="Count them, and delete nothing.")
def prune(older_than: timedelta, status: tuple[str, ...], batch: int, dry_run: bool) -> None:
    """Delete records that ended long ago, with their attempts.

    What is pending or running stays, and so does a key for replay until it expires.
    """
    from dexpy.recording import retention
    from dexpy.recording.tables import FINAL
    from dexpy.runtime import current_runtime

    store = current_runtime().store
    count = retention.prune(store, older_than, statuses=status or FINAL, batch=batch, dry_run=dry_run)
    click.echo(f"{store.database.display}: {count} records {'would be ' if dry_run else ''}deleted.")
