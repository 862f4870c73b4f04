"""All migrations, in order; a new version adds a file and an entry, and an entry never changes."""

from __future__ import annotations

from typing import Final

from dexpy.database.migrations import version_2, version_3, version_4
from dexpy.database.migrations.migration import Migration

MIGRATIONS: Final[tuple[Migration, ...]] = (version_2.MIGRATION, version_3.MIGRATION, version_4.MIGRATION)
"""The migrations, ascending and without gaps."""

UNNUMBERED: Final = 1
"""The version of a schema without a table of versions."""

NEWEST: Final = MIGRATIONS[-1].version
"""The version that this release of dexpy requires."""


def migrations_between(start: int, end: int) -> tuple[Migration, ...]:
    """Return the migrations from one version to another."""
    return tuple(migration for migration in MIGRATIONS if start < migration.version <= end)
