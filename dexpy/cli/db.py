"""``dexpy db``: the tables."""

from __future__ import annotations

import sys

import click

from dexpy.cli.application import load_store, module_arguments, verbose_option
from dexpy.foundation.errors import SchemaMissing


@click.group()
def db() -> None:
    """Make the tables, or compare them with what this version needs."""


@db.command()
@module_arguments()
@verbose_option
def init(modules: tuple[str, ...], verbose: bool) -> None:
    """Make the tables that are not there, one process at a time.

    MODULE is a dotted name, as for `dexpy worker`: the one that calls dexpy.configure().
    """
    from dexpy.database import schema

    database = load_store(modules).database
    with database.begin() as connection:
        created = schema.create(connection)
    with database.begin() as connection:
        problems = schema.problems(connection)
    if problems:
        click.echo(f"Error: {SchemaMissing(database.display_url, problems, _init_command(modules))}", err=True)
        sys.exit(1)
    click.echo(f"{database.display_url}: {'made ' + ', '.join(created) if created else 'all tables are there'}.")


@db.command()
@module_arguments()
@verbose_option
def check(modules: tuple[str, ...], verbose: bool) -> None:
    """Compare the tables with what this version needs; status 1 if something is missing.

    MODULE is a dotted name, as for `dexpy worker`: the one that calls dexpy.configure().
    """
    from dexpy.database import schema

    database = load_store(modules).database
    with database.begin() as connection:
        problems = schema.problems(connection)
    if problems:
        click.echo(f"Error: {SchemaMissing(database.display_url, problems, _init_command(modules))}", err=True)
        sys.exit(1)
    click.echo(f"{database.display_url}: all tables are there.")


def _init_command(modules: tuple[str, ...]) -> str:
    return " ".join(["dexpy db init", *modules])
