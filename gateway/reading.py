"""Reads single tasks for whoever asks: what is asked while the last read runs goes into the next.

A thousand clients that poll would each take a connection, a transaction and two statements; together they take one
read for a few dozen of them, and at low load nobody waits for anybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from tollgate.coalescing import Coalescer
from tollgate.store import tasks
from tollgate.store.database import Database
from tollgate.store.tasks import Owned, Task

MAX_TOGETHER = 200
"""Tasks in one read: an answer may be long, and all of them are in memory at once."""


class Reader:
    """Belongs to one event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._coalescer: Coalescer[Owned, Task | None] = Coalescer(self._read, max_weight=MAX_TOGETHER)

    async def read(self, task_id: UUID, *, project_id: UUID) -> Task | None:
        """The project's task, as it stands after this call began; None if it has no such task.

        Raises StoreUnavailableError."""
        return await self._coalescer.submit((project_id, task_id))

    async def _read(self, asked: Sequence[Owned]) -> list[Task | None]:
        async with self._database.read_once() as connection:
            found = await tasks.owned(connection, asked)
        return [found.get(owned) for owned in asked]
