"""`tollgate beat`: every 2 s, on the database, look for dead workers, expire what is late, announce what is due.

Not Celery's beat: rescue must need neither Redis nor a free worker. Any number may run.
"""

from __future__ import annotations

import asyncio
import logging

from tollgate.broker.bus import ENDED, Bus
from tollgate.broker.publisher import Publisher
from tollgate.domain.errors import StoreUnavailableError
from tollgate.store.database import Database
from worker.announcer import Announcer
from worker.outcomes import Rules
from worker.watch import Watch

log = logging.getLogger("tollgate.beat")

EVERY_S = 2.0


class Beat:
    """The loop, and a way to ask for a round at once."""

    def __init__(self, *, database: Database, bus: Bus, publisher: Publisher, rules: Rules) -> None:
        self._bus = bus
        self._announcer = Announcer(database, publisher)
        self.watch = Watch(database, bus, rules)
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """A round soon: there are new tasks that were not announced, or a buffer runs low."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled. A database that is away is waited for."""
        while True:
            try:
                await self.round()
            except StoreUnavailableError as error:
                log.warning("the beat waits for the database", extra={"error": str(error)})
            self._asked.clear()
            try:
                await asyncio.wait_for(self._asked.wait(), EVERY_S)
            except TimeoutError:
                continue

    async def round(self) -> None:
        await self.watch.look()
        if ended := await self._announcer.expire():
            await self._bus.publish(ENDED, ended)
        await self._announcer.announce()
