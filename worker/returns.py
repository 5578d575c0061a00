"""Hints that this worker does not use: their rows are marked so that the announcer tells them again at once,
not when the hint's own lease runs out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from uuid import UUID

from tollgate.domain.errors import StoreUnavailableError
from tollgate.store import announce
from tollgate.store.database import Database

log = logging.getLogger("tollgate.returns")

TOGETHER = 1_000
"""Ids in one transaction."""


class Returns:
    """Belongs to the engine's loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[UUID] = []
        self._writing: asyncio.Task[None] | None = None

    def give(self, ids: Iterable[UUID]) -> None:
        """Beside what else goes on."""
        self._waiting.extend(ids)
        if self._waiting and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write_all(), name="returns")

    async def drain(self) -> None:
        """Return when nothing waits."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write_all(self) -> None:
        while self._waiting:
            ids, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
            try:
                async with self._database.write() as connection:
                    await announce.unannounce(connection, ids)
            except StoreUnavailableError as error:
                log.warning("hints not given back", extra={"ids": len(ids), "error": str(error)})
