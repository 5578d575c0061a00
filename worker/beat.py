"""`tollgate beat`: every 2 s, on the database, look for dead workers, expire what is late, announce what is due, end
batches, erase deleted ones. Every second, send the webhooks that are due. Every 10 minutes, merge the shards of the
accounts' past, remove deliveries that are old, and erase what projects do not keep any longer.

Not Celery's beat: rescue must need neither Redis nor a free worker. Any number may run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from tollgate.broker.bus import ENDED, Bus
from tollgate.broker.publisher import Publisher
from tollgate.domain.errors import StoreUnavailableError
from tollgate.store.database import Database
from worker import merging
from worker.announcer import EVERY_S, Announcer
from worker.batches import Batches
from worker.billing import Rules
from worker.erasing import Eraser
from worker.price_watch import PriceWatch
from worker.rerouting import Mover
from worker.watch import Watch
from worker.webhooks.courier import Courier

log = logging.getLogger("tollgate.beat")

TIDY_EVERY_S = 600.0
"""Until then what is over is read a little more slowly: no hurry."""


class Beat:
    """The six loops."""

    def __init__(self, *, database: Database, bus: Bus, publisher: Publisher, rules: Rules, courier: Courier) -> None:
        self._bus = bus
        self._database = database
        self._announcer = Announcer(database, publisher, rules=rules, mover=Mover(database, rules))
        self._batches = Batches(database)
        self._courier = courier
        self._eraser = Eraser(database)
        self._prices = PriceWatch(database, rules)
        self.watch = Watch(database, bus, rules)

    async def run(self) -> None:
        """Until cancelled. A database that is away is waited for.

        Loops of their own: a long round of one must not make the reading of heartbeats late."""
        self._prices.start()
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._watch_forever(), name="watch")
                loops.create_task(self._announce_forever(), name="announce")
                loops.create_task(self._batches_forever(), name="batches")
                loops.create_task(self._erase_forever(), name="erase")
                loops.create_task(self._deliver_forever(), name="deliver")
                loops.create_task(self._tidy_forever(), name="tidy")
        finally:
            await self._prices.stop()

    async def round(self) -> None:
        """Everything once."""
        await self.watch.look()
        await self._tell()
        await self._batches.round()
        await self._eraser.erase_deleted_batches()
        await self._courier.round()
        await self._courier.drain()
        await self._tidy()

    async def _watch_forever(self) -> None:
        while True:
            async with _outliving("watching"):
                await self.watch.look()
            await asyncio.sleep(EVERY_S)

    async def _announce_forever(self) -> None:
        while True:
            async with _outliving("announcing"):
                await self._tell()
            await asyncio.sleep(EVERY_S)

    async def _batches_forever(self) -> None:
        while True:
            async with _outliving("batches"):
                await self._batches.round()
            await asyncio.sleep(EVERY_S)

    async def _erase_forever(self) -> None:
        while True:
            async with _outliving("erasing"):
                await self._eraser.erase_deleted_batches()
            await asyncio.sleep(EVERY_S)

    async def _deliver_forever(self) -> None:
        try:
            while True:
                begun = 0
                async with _outliving("delivering"):
                    begun = await self._courier.round()
                await self._courier.rest(begun)
        finally:
            await self._courier.stop()

    async def _tidy_forever(self) -> None:
        while True:
            async with _outliving("tidying"):
                await self._tidy()
            await asyncio.sleep(TIDY_EVERY_S)

    async def _tidy(self) -> None:
        await merging.merge(self._database)
        await self._courier.forget()
        await self._eraser.erase_what_is_over()

    async def _tell(self) -> None:
        if ended := await self._announcer.expire():
            await self._bus.publish(ENDED, ended)
        await self._announcer.announce()


@contextlib.asynccontextmanager
async def _outliving(what: str) -> AsyncIterator[None]:
    """The edge of a round: the next one tries again."""
    try:
        yield
    except StoreUnavailableError as error:
        log.warning("the beat waits for the database", extra={"what": what, "error": str(error)})
    except Exception:
        log.exception("a round of the beat broke", extra={"what": what})
