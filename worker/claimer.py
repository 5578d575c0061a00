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
from tollgate.store import claims
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from worker.buffer import Buffer
from worker.capacity import Capacity
from worker.lease import Lease
from worker.returns import Returns

log = logging.getLogger("tollgate.claimer")

CLAIM_AT_ONCE = 500
"""Ids in one claiming transaction."""
PACE_S = 0.01
"""From one claim to the next, at least: under load what is freed meanwhile is claimed together, at half the CPU a
task; a claim after a pause does not wait."""
AGAIN_AFTER_S = 1.0

Chosen = Mapping[UUID, tuple[str, Priority]]


class Claimer:
    """Belongs to the engine's loop. `run` is handed each claimed task and who holds it; its slot is taken.

    `hungry` is called whenever ids were taken, and when there are free slots and no ids for them."""

    def __init__(
        self,
        *,
        database: Database,
        capacity: Capacity,
        lease: Lease,
        returns: Returns,
        buffer: Buffer,
        run: Callable[[Claimed, UUID], None],
        room: Callable[[], int],
        hungry: Callable[[], None],
    ) -> None:
        self._database = database
        self._capacity = capacity
        self._lease = lease
        self._returns = returns
        self._buffer = buffer
        self._run = run
        self._room = room
        self._hungry = hungry
        self._wake = asyncio.Event()
        self._stopping = False
        self._turn = 0
        self._claiming: asyncio.Task[None] | None = None
        self._timers: dict[UUID, asyncio.TimerHandle] = {}

    def start(self) -> None:
        self._claiming = asyncio.create_task(self._claim_forever(), name="claimer")

    async def stop(self) -> None:
        """Finish the claim under way, and give back the hints that wait."""
        self._stopping = True
        self._wake.set()
        if self._claiming is not None:
            await asyncio.wait([self._claiming])
        for timer in self._timers.values():
            timer.cancel()
        self._returns.give([*self._buffer.clear(), *self._timers])
        self._timers.clear()

    def accept(self, lane: str, hints: Mapping[str, Iterable[UUID]]) -> None:
        """Buffer the ids of a message. What does not fit, or cannot run now, is given back."""
        for route, ids in hints.items():
            self._capacity.slots(route)  # met, so that the next heartbeat tells how much of it is wanted
            if self._stopping or self._capacity.blocked(route):
                self._returns.give(ids)
            else:
                self._returns.give(self._buffer.offer(route, priority_of(lane), ids))
        self._wake.set()

    def again(self, claimed: Claimed, *, at: datetime) -> None:
        """A retry: this worker's own timer is its hint."""
        if self._stopping:
            self._returns.give([claimed.id])
            return
        delay_s = max(0.0, (at - datetime.now(UTC)).total_seconds())
        # A millisecond later: a claim at the very instant of `not_before` may find it not quite due.
        loop = asyncio.get_running_loop()
        self._timers[claimed.id] = loop.call_later(delay_s + 0.001, self._due, claimed)

    def wake(self) -> None:
        """A slot was freed, or a limit moved."""
        self._wake.set()

    def _due(self, claimed: Claimed) -> None:
        self._timers.pop(claimed.id, None)
        self.accept(claimed.lane, {claimed.route: [claimed.id]})

    async def _claim_forever(self) -> None:
        while not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while chosen := self._choose():
                next_at = asyncio.get_running_loop().time() + PACE_S
                try:
                    await self._claim(chosen)
                    self._hungry()  # beside the calls, so that the next ids are here when these are through
                    await asyncio.sleep(next_at - asyncio.get_running_loop().time())
                except Exception:  # whatever it is, a worker without its claimer would be deaf for ever
                    log.exception("claim broke")
                    await asyncio.sleep(AGAIN_AFTER_S)
            if not self._stopping:
                self._hungry()

    def _choose(self) -> dict[UUID, tuple[str, Priority]]:
        """Ids for which there is a slot now, interactive ones first; their slots are taken."""
        chosen: dict[UUID, tuple[str, Priority]] = {}
        if self._stopping or not self._lease.may_send(self._lease.worker_id):
            return chosen
        room = min(CLAIM_AT_ONCE, self._room())
        routes = self._callable_routes()
        for priority in Priority:
            for route in routes:
                slots = self._capacity.slots(route)
                taken = self._buffer.take(route, priority, max(0, min(slots.free(priority), room - len(chosen))))
                slots.take(len(taken))
                chosen.update(dict.fromkeys(taken, (route, priority)))
        return chosen

    def _callable_routes(self) -> list[str]:
        """Those with ids, another one first each time; what cannot be called now is given back."""
        routes = self._buffer.routes()
        for route in routes:
            if self._capacity.blocked(route):
                self._returns.give(self._buffer.drop(route))
        self._turn += 1
        first = self._turn % len(routes) if routes else 0
        return [*routes[first:], *routes[:first]]

    async def _claim(self, chosen: Chosen) -> None:
        worker_id = self._lease.worker_id
        claimed: list[Claimed] = []
        try:
            async with self._database.write_once() as connection:
                claimed = await claims.claim(
                    connection,
                    list(chosen),
                    worker_id=worker_id,
                    now=datetime.now(UTC),
                    polled=self._capacity.polled({route for route, _ in chosen.values()}),
                )
        except StoreUnavailableError as error:
            log.warning("claiming waits for the database", extra={"error": str(error)})
            claimed = await self._claimed_all_the_same(chosen, worker_id=worker_id)
        finally:
            for task_id in chosen.keys() - {one.id for one in claimed}:
                self._capacity.slots(chosen[task_id][0]).release()
        for one in claimed:
            self._take_its_own_slot(one.route, hinted=chosen[one.id][0])
            self._run(one, worker_id)

    def _take_its_own_slot(self, route: str, *, hinted: str) -> None:
        """A hint may name a wrong route: the row's is the one that is called, and released."""
        if route != hinted:
            self._capacity.slots(hinted).release()
            self._capacity.slots(route).take(1)

    async def _claimed_all_the_same(self, chosen: Chosen, *, worker_id: UUID) -> list[Claimed]:
        """The connection may have been lost after the commit: rows that are ours, and that nobody would run."""
        while not self._stopping:
            await asyncio.sleep(AGAIN_AFTER_S)
            try:
                async with self._database.read() as connection:
                    held = await claims.held(connection, list(chosen), worker_id=worker_id)
            except StoreUnavailableError:
                continue
            for task_id in chosen.keys() - {one.id for one in held}:
                self._buffer.offer(*chosen[task_id], [task_id])
            return held
        return []
