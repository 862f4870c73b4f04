"""``dexpy db``: create, upgrade and check the tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dexpy.cli.application import load, load_store, module_arguments, verbose_option
from dexpy.cli.setting_options import DATABASE_KEYS, setting_options

if TYPE_CHECKING:
    from dexpy.database.engine import Database
    from dexpy.database.schema import SchemaState


@click.group()
def db() -> None:
    """Create, upgrade or check the tables."""


@db.command()
@module_arguments()
@setting_options(*DATABASE_KEYS)
@verbose_option
def init(modules: tuple[str, ...], verbose: bool) -> None:
    """Create missing tables.

    Several processes may run it at once: one creates the tables, the others wait. Existing tables of an earlier
    version do not change: `dexpy db upgrade` alters them.

    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy.database import schema

    database = load_store(modules).database
    with database.begin() as connection:
        created = schema.create(connection)
    with database.connect() as connection:
        _exit_unless_complete(database, schema.read_state(connection))
    click.echo(f"{database.display_url}: {'created ' + ', '.join(created) if created else 'all tables exist'}.")


@db.command()
@module_arguments()
@setting_options(*DATABASE_KEYS)
@verbose_option
def upgrade(modules: tuple[str, ...], verbose: bool) -> None:
    """Upgrade the tables to the schema of this release.

    It creates them in an empty database, and is safe to run in two processes at once and again after an interruption.
    Stop the processes of an earlier release first.

    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy.database import schema

    database = load_store(modules).database
    before, after = schema.upgrade(database)
    _exit_unless_complete(database, after)
    if before.own_columns:
        click.echo(f"{database.display_url}: added {', '.join(before.own_columns)}.")
    if before.unindexed_columns:
        click.echo(f"{database.display_url}: created the index on {', '.join(before.unindexed_columns)}.")
    if before.version == after.version:
        click.echo(f"{database.display_url}: already at schema version {after.version}.")
    elif before.version == 0:
        click.echo(f"{database.display_url}: created the tables at schema version {after.version}.")
    else:
        click.echo(f"{database.display_url}: upgraded from schema version {before.version} to {after.version}.")


@db.command()
@module_arguments()
@setting_options(*DATABASE_KEYS)
@verbose_option
def check(modules: tuple[str, ...], verbose: bool) -> None:
    """Compare the tables with the schema of this release.

    Exits with status 1 if something is missing.

    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy.database import schema

    database = load_store(modules).database
    with database.connect() as connection:
        state = schema.read_state(connection)
    _exit_unless_complete(database, state)
    if state.unindexed_columns:
        click.echo(f"{database.display_url}: no index on {', '.join(state.unindexed_columns)}. Run: dexpy db upgrade")
        sys.exit(1)
    click.echo(f"{database.display_url}: all tables exist, schema version {state.version}.")


@db.command()
@module_arguments()
@click.option(
    "--from",
    "start",
    type=click.IntRange(min=0),
    metavar="N",
    help="The schema version of the database; 0 without tables.  [default: its current one]",
)
@click.option("--to", "end", type=click.IntRange(min=1), metavar="N", help="[default: the newest]")
@click.option(
    "--dialect", type=click.Choice(["sqlite", "postgresql", "mariadb", "mysql"]), help="[default: the database's]"
)
@setting_options(*DATABASE_KEYS)
@verbose_option
def sql(modules: tuple[str, ...], start: int | None, end: int | None, dialect: str | None, verbose: bool) -> None:
    """Print the SQL of `init` or `upgrade` without running it.

    With --from and --dialect it needs no database. It has the configured prefix and schema, and the columns of
    dexpy.configure(record_columns=...).

    MODULE is the dotted name of the module that calls dexpy.configure(), as for `dexpy worker`.
    """
    from dexpy.database import schema
    from dexpy.database.migrations.history import NEWEST
    from dexpy.database.schema_sql import as_script, schema_sql

    added_columns: tuple[str, ...] = ()
    settings = load(modules).settings
    if dialect is None or start is None:
        database = load_store(modules).database
        dialect = dialect or database.dialect.name
        if start is None:
            with database.connect() as connection:
                state = schema.read_state(connection)
            start, added_columns = state.version, state.own_column_statements
    dialect = "mariadb" if dialect == "mysql" else dialect
    end = NEWEST if end is None else end
    if end > NEWEST or (start == 0 and end != NEWEST):
        raise click.UsageError(
            f"--to {end}: expected {NEWEST}, the newest version."
            if start == 0
            else f"--to {end}: expected at most {NEWEST}, the newest version."
        )
    _refuse_schema(dialect, settings.schema)
    text = schema_sql(dialect, start, end, settings.schema)
    if not text and start == NEWEST:
        text = as_script(dialect, list(added_columns))
    click.echo(text, nl=False)
    if not text:
        click.echo(f"Nothing to do: the schema has version {start}.", err=True)


def _refuse_schema(dialect: str, schema: str | None) -> None:
    if dialect == "sqlite" and schema is not None:
        raise click.UsageError(f"schema: SQLite has no schemas; got {schema!r}. Remove the setting.")


def _exit_unless_complete(database: Database, state: SchemaState) -> None:
    from dexpy.runtime import current_runtime

    if not state.is_complete:
        error = state.error(database.display_url, current_runtime().settings.db_command)
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
