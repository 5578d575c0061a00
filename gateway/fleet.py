"""What the live workers can call, as this gateway read it last: so a task that somebody waits for begins where it can
run, and one that waits says why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from tollgate.domain import reach
from tollgate.domain.lanes import priority_of
from tollgate.domain.routing import Catalog
from tollgate.domain.states import Priority
from tollgate.store import leases
from tollgate.store.database import Database

log = logging.getLogger("tollgate.fleet")

EVERY_S = 2.0
"""As beats look. Through an outage of the database, what was read last holds."""


class Fleet:
    """Belongs to one event loop."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog
        self._stuck: Mapping[Priority, Mapping[str, str]] = {priority: {} for priority in Priority}
        self._absent: Mapping[Priority, Mapping[str, str]] = self._stuck
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it has looked. Raises StoreUnavailableError."""
        await self.look()
        self._looking = asyncio.create_task(self._look_forever(), name="fleet")

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def look(self) -> None:
        """Raises StoreUnavailableError."""
        async with self._database.read() as connection:
            workers = await leases.alive(connection)
        self._stuck = {priority: reach.stuck(workers, self._catalog, priority) for priority in Priority}
        self._absent = {priority: reach.absent(workers, self._catalog, priority) for priority in Priority}

    def unserved(self, priority: Priority) -> reach.Unserved:
        """For admission."""
        return reach.Unserved(absent=self._absent[priority].keys(), stuck=self._stuck[priority].keys())

    def why_waiting(self, route: str, lane: str) -> str | None:
        """Why a task that is queued there cannot begin now; None: nothing that is known keeps it."""
        return self._stuck[priority_of(lane)].get(route)

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except Exception as error:  # the next round tries again
                log.warning("workers not read", extra={"error": repr(error)})
