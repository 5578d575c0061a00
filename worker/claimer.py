"""From hints to leases: claims as many tasks as their routes have free slots, many in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.lanes import priority_of
from tollgate.domain.states import Priority
from tollgate.store import announce, claims
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from worker.buffer import Buffer
from worker.capacity import Capacity, upstream_of
from worker.lease import Lease

log = logging.getLogger("tollgate.claimer")

CLAIM_AT_ONCE = 500
"""Ids in one claiming transaction."""
AGAIN_AFTER_S = 1.0


class Claimer:
    """Belongs to the engine's loop. `run` is handed each claimed task; its slot is already taken."""

    def __init__(
        self,
        *,
        database: Database,
        capacity: Capacity,
        lease: Lease,
        run: Callable[[Claimed], None],
        room: Callable[[], int],
    ) -> None:
        self._database = database
        self._capacity = capacity
        self._lease = lease
        self._run = run
        self._room = room
        self._wake = asyncio.Event()
        self._stopping = False
        self._claiming: asyncio.Task[None] | None = None
        self._giving_back: set[asyncio.Task[None]] = set()
        self.buffer = Buffer()

    def start(self) -> None:
        self._claiming = asyncio.create_task(self._claim_forever(), name="claimer")

    async def stop(self) -> None:
        """Finish the claim under way, and give back the hints that wait."""
        self._stopping = True
        self._wake.set()
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)
        await self._unannounce(self.buffer.clear())

    def accept(self, lane: str, hints: Mapping[str, Iterable[UUID]]) -> None:
        """Buffer the ids of a message. What does not fit, or cannot run now, is given back."""
        refused: list[UUID] = []
        for route, ids in hints.items():
            self._capacity.slots(route)  # met, so that the next heartbeat tells how much of it is wanted
            if self._stopping or self._capacity.pauses.blocked(upstream_of(route)):
                refused.extend(ids)
            else:
                refused.extend(self.buffer.offer(route, priority_of(lane), ids))
        if refused:
            task = asyncio.create_task(self._unannounce(refused))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)
        self._wake.set()

    def wake(self) -> None:
        """A slot was freed, or a limit moved."""
        self._wake.set()

    async def _claim_forever(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while chosen := self._choose():
                try:
                    await self._claim(chosen)
                except StoreUnavailableError as error:
                    log.warning("claiming waits for the database", extra={"error": str(error)})
                    await asyncio.sleep(AGAIN_AFTER_S)

    def _choose(self) -> dict[UUID, str]:
        """Ids for which there is a slot now, interactive ones first; their slots are taken."""
        chosen: dict[UUID, str] = {}
        if self._stopping or not self._lease.may_send():
            return chosen
        room = min(CLAIM_AT_ONCE, self._room())
        for priority in Priority:
            for route in sorted(self.buffer.routes()):
                slots = self._capacity.slots(route)
                taken = self.buffer.take(route, priority, max(0, min(slots.free(priority), room - len(chosen))))
                slots.take(len(taken))
                chosen.update(dict.fromkeys(taken, route))
        return chosen

    async def _claim(self, chosen: Mapping[UUID, str]) -> None:
        claimed: list[Claimed] = []
        worker_id = self._lease.worker_id
        try:
            async with self._database.write() as connection:
                claimed = await claims.claim(connection, list(chosen), worker_id=worker_id, now=datetime.now(UTC))
        finally:
            for task_id in chosen.keys() - {one.id for one in claimed}:
                self._capacity.slots(chosen[task_id]).release()
        for one in claimed:
            self._run(one)

    async def _unannounce(self, ids: list[UUID]) -> None:
        """So that the announcer tells them again at once, not when the hint's lease runs out."""
        if not ids:
            return
        try:
            async with self._database.write() as connection:
                await announce.unannounce(connection, ids)
        except StoreUnavailableError as error:
            log.warning("hints not given back", extra={"error": str(error)})
