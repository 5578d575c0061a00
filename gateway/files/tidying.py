"""Removes files that have expired, and bytes that nobody has a row for. Every gateway does, each at its own times."""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime

from gateway.files.folder import FileStore
from tollgate.store import files
from tollgate.store.database import Database

log = logging.getLogger("tollgate.files")

EVERY_S = 300.0
STRAY_S = 3_600.0
"""Bytes without a row are nobody's after this: an upload that is still going on adds to its own all the time, and has
its row moments after its end."""
AT_ONCE = 500


class Tidier:
    """Belongs to one event loop."""

    def __init__(self, database: Database, store: FileStore, *, every_s: float = EVERY_S) -> None:
        self._database = database
        self._store = store
        self._every_s = every_s
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = asyncio.create_task(self._run(), name="tidying of files")

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def tidy(self) -> None:
        """One round. Raises StoreUnavailableError, FilesUnavailableError."""
        await self._remove_expired()
        await self._store.remove_unfinished(STRAY_S)
        await self._remove_strays()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.5, 1.5))  # gateways that start together part
            try:
                await self.tidy()
            except Exception as error:  # the next round tries again
                log.warning("files not tidied", extra={"error": repr(error)})

    async def _remove_expired(self) -> None:
        """The row first: whoever dies in between leaves strays, which are found again."""
        while True:
            async with self._database.write() as connection:
                removed = await files.remove_expired(connection, now=datetime.now(UTC), limit=AT_ONCE)
            for file_id in removed:
                await self._store.delete(file_id)
            if removed:
                log.info("expired files removed", extra={"count": len(removed)})
            if len(removed) < AT_ONCE:
                return

    async def _remove_strays(self) -> None:
        old = await self._store.older_than(STRAY_S)
        for start in range(0, len(old), AT_ONCE):
            some = old[start : start + AT_ONCE]
            async with self._database.read() as connection:
                strays = set(some) - await files.known(connection, some)
            for file_id in strays:
                await self._store.delete(file_id)
            if strays:
                log.info("files without a row removed", extra={"count": len(strays)})
