"""Keeps the rules' prices as the store has them: a version published while a worker runs counts for it within a
minute, and the first one of a model before its first answer is billed."""

from __future__ import annotations

import asyncio
import logging
import time

from tollgate.store import price_list
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from worker.billing import Rules

log = logging.getLogger("tollgate.prices")

AGAIN_S = 60.0
UNKNOWN_AGAIN_S = 5.0
"""A model without a price is looked up so often: it may have none for good."""


class PriceWatch:
    """Belongs to the engine's loop."""

    def __init__(self, database: Database, rules: Rules) -> None:
        self._database = database
        self._rules = rules
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._refreshing = asyncio.create_task(self._refresh_forever(), name="prices")

    async def stop(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    async def know(self, claimed: Claimed) -> None:
        """Look once more if the task's route has no price: it may have been published since. Never raises."""
        if self._rules.price_of(claimed.route, at=claimed.attempt_started_at) is not None:
            return
        if self._reading is None and time.monotonic() - self._read_at > UNKNOWN_AGAIN_S:
            self._reading = asyncio.create_task(self._read(), name="price list")
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            await self._read()

    async def _read(self) -> None:
        try:
            async with self._database.read() as connection:
                self._rules.prices = await price_list.load(connection)
        except Exception as error:  # the prices known so far stay in force; the next round tries again
            log.warning("prices not read", extra={"error": repr(error)})
        finally:
            self._read_at = time.monotonic()
            self._reading = None
