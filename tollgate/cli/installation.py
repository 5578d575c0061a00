"""What commands that work on the database need of the installation: its store, checked, and its master keys."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from tollgate.cli.data_folder import DataFolder

if TYPE_CHECKING:
    from tollgate.domain.keys import MasterKey
    from tollgate.settings import Settings
    from tollgate.store.database import Database


@contextlib.asynccontextmanager
async def store(settings: Settings, *, pool: int = 1) -> AsyncIterator[Database]:
    """The database at this version's schema. Raises SettingsError, StoreUnavailableError."""
    from tollgate.store import migrate
    from tollgate.store.database import Database

    database = Database.connect(settings.store_url, pool=pool, command_timeout_s=None)
    try:
        await migrate.require_current(database)
        yield database
    finally:
        await database.close()


def masters(settings: Settings, *, create: bool = False) -> tuple[MasterKey, ...]:
    """TOLLGATE_MASTER_KEY, else the data folder's. `create` makes the folder's, but only for the folder's own
    database: a shared one's gateways would not know it. Raises SettingsError."""
    from tollgate.domain.keys import parse_master_keys

    if settings.master_key is not None:
        return parse_master_keys(settings.master_key.get_secret_value())
    own_database = settings.database_url is None
    return parse_master_keys(DataFolder(settings.data).master_key(create=create and own_database))
