"""``dexpy db``: the tables."""

from __future__ import annotations

import sys

import click


@click.group()
def db() -> None:
    """Make the tables, or compare them with what this version needs."""


@db.command()
def init() -> None:
    """Make the tables that are not there, one process at a time."""
    from dexpy.recording import schema
    from dexpy.runtime import current_runtime

    database = current_runtime().store.database
    with database.begin() as connection:
        made = schema.create(connection)
    with database.begin() as connection:
        left = schema.problems(connection)
    if left:
        click.echo(
            f"Error: {database.display} has tables of another version: {'; '.join(left)}. "
            "Tables that are there are not changed: add what they lack, or move them away.",
            err=True,
        )
        sys.exit(1)
    click.echo(f"{database.display}: {'made ' + ', '.join(made) if made else 'all tables are there'}.")


@db.command()
def check() -> None:
    """Compare the tables with what this version needs; status 1 if something is missing."""
    from dexpy.recording import schema
    from dexpy.runtime import current_runtime

    database = current_runtime().store.database
    with database.begin() as connection:
        problems = schema.problems(connection)
    for problem in problems:
        click.echo(f"Error: {database.display}: {problem}. Run: dexpy db init", err=True)
    if problems:
        sys.exit(1)
    click.echo(f"{database.display}: all tables are there.")
