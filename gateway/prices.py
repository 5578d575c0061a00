"""The price table as the store has it: what budgets reserve is reckoned by it. A version published while a gateway
runs counts within a minute; through an outage, what is known stays in force."""

from __future__ import annotations

import asyncio
import logging

from tollgate.domain.prices import PriceTable
from tollgate.store import price_list
from tollgate.store.database import Database

log = logging.getLogger("tollgate.prices")

AGAIN_S = 60.0


class PriceBook:
    """Belongs to one event loop."""

    def __init__(self, database: Database, *, again_s: float = AGAIN_S) -> None:
        self.table = PriceTable([])
        self._database = database
        self._again_s = again_s
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when `table` is read. Raises StoreUnavailableError."""
        await self._read()
        self._refreshing = asyncio.create_task(self._refresh_forever(), name="prices")

    async def stop(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(self._again_s)
            try:
                await self._read()
            except Exception as error:  # the next round tries again
                log.warning("prices not read", extra={"error": repr(error)})

    async def _read(self) -> None:
        async with self._database.read() as connection:
            self.table = await price_list.load(connection)
