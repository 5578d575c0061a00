"""Brings a database to this code's schema, and refuses to work on one that is not there.

The Alembic configuration is built here, from the installed package `migrations`, so that it works from
a wheel in any folder.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tollgate.domain.errors import SettingsError
from tollgate.store.database import Database
from tollgate.store.schema import metadata


def config() -> Config:
    """Alembic's configuration, pointing at the `migrations` package wherever it is installed."""
    spec = importlib.util.find_spec("migrations")
    if spec is None or spec.origin is None:
        raise SettingsError("the package `migrations` is not installed; install tollgate again")
    built = Config()
    built.set_main_option("script_location", str(Path(spec.origin).parent).replace("%", "%%"))
    return built


@functools.cache
def head() -> str:
    """The revision that this code needs. Read once: it takes 20 ms, and what is installed stays."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    if revision is None:
        raise SettingsError("the package `migrations` has no versions; install tollgate again")
    return revision


async def upgrade(database: Database) -> tuple[str | None, str]:
    """Run what is outstanding, in one transaction. Returns the revisions before and after."""

    def run(connection: sa.Connection) -> str | None:
        before = _revision(connection)
        if before != head():
            built = config()
            built.attributes["connection"] = connection
            command.upgrade(built, "head")
        return before

    async with database.write() as connection:
        before = await connection.run_sync(run)
    return before, head()


async def require_current(database: Database) -> None:
    """Raise SettingsError unless the database is exactly at this code's revision."""
    async with database.read() as connection:
        found = await connection.run_sync(_revision)
        stray = None if found else await connection.run_sync(_stray_table)
    if found == head():
        return
    if stray:
        raise SettingsError(
            f"the database has a table {stray!r} but no migration history: it is half-migrated or another "
            "program's. Point TOLLGATE_DATABASE_URL at an empty database and run `tollgate migrate`"
        )
    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if found and found not in known:
        raise SettingsError(
            f"the database is at revision {found}, which this version of Tollgate does not know: it was migrated by a "
            "newer one. Install that version"
        )
    raise SettingsError(
        f"the database is at revision {found or 'none'}, this version needs {head()}: run `tollgate migrate`"
    )


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _stray_table(connection: sa.Connection) -> str | None:
    present = set(sa.inspect(connection).get_table_names())
    return next((table for table in sorted(metadata.tables) if table in present), None)
