"""Asks the store for due tasks when this worker has free slots and no ids for them.

The announcer's round comes every 2 s and gives a bounded window; a worker that is done with it sooner does
not wait. It is the announcer's own mechanism, under its lock: what is taken counts as announced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.lanes import priority_of
from tollgate.store import announce
from tollgate.store.database import Database
from tollgate.store.queues import Queue
from worker.billing import Rules
from worker.buffer import Buffer
from worker.capacity import Capacity

log = logging.getLogger("tollgate.feeder")

WINDOW_S = 2.0
"""So many seconds' work is asked for, by what the route settles now."""
AGAIN_S = 0.05
EMPTY_AGAIN_S = 0.5
"""A store that had nothing more is asked again after this at the earliest."""

Accept = Callable[[str, dict[str, list[UUID]]], None]


class Feeder:
    """Belongs to the engine's loop. `accept` takes lane and hints."""

    def __init__(
        self,
        database: Database,
        *,
        capacity: Capacity,
        buffer: Buffer,
        lanes: Sequence[str],
        rules: Rules,
        accept: Accept,
    ) -> None:
        self._database = database
        self._capacity = capacity
        self._buffer = buffer
        self._lanes = lanes
        self._rules = rules
        self._accept = accept
        self._turn: dict[Queue, UUID | None] = {}
        """The feed of each queue that had its turn last."""
        self._asked = asyncio.Event()
        self._feeding: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._feeding = asyncio.create_task(self._feed_forever(), name="feeder")

    async def stop(self) -> None:
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.wait([self._feeding])

    def ask(self) -> None:
        """There are free slots, and no ids for them or soon no more. Costs next to nothing where there are enough."""
        self._asked.set()

    async def _feed_forever(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            more = False
            try:
                if not (wanted := self._wanted()):
                    continue
                more = await self._feed(wanted)
            except StoreUnavailableError as error:
                log.warning("feeding waits for the database", extra={"error": str(error)})
            except Exception:  # the announcer's rounds remain
                log.exception("feeding broke")
            await asyncio.sleep(AGAIN_S if more else EMPTY_AGAIN_S)

    async def _feed(self, wanted: Mapping[Queue, int]) -> bool:
        """One round; whether there may be more at once."""
        async with announce.turn(self._database) as connection:
            if connection is None:
                return False
            found = await announce.take_due(
                connection, wanted, now=datetime.now(UTC), prices=self._rules.prices, after=self._turn
            )
            self._turn |= {queue: taken.last for queue, taken in found.items()}
        for lane, hints in announce.by_lane({queue: taken.ids for queue, taken in found.items()}).items():
            self._accept(lane, hints)
        return any(taken.more for taken in found.values())

    def _wanted(self) -> dict[Queue, int]:
        """For each queue of this worker's that runs dry: how many ids."""
        wanted = {}
        for route in self._capacity.routes():
            slots = self._capacity.slots(route)
            settles = int(slots.settled_within(1.0, time.monotonic()) * WINDOW_S)
            for lane in self._lanes:
                priority = priority_of(lane)
                window, waiting = max(2 * slots.free(priority), settles), self._buffer.waiting(route, priority)
                if waiting < window // 2:
                    wanted[Queue(route=route, lane=lane)] = window - waiting
        return wanted
