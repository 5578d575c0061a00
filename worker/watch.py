"""Watches the workers' heartbeats and gives back what the dead held.

A worker is dead when one watcher has read the same heartbeat value for 20 s of its own clock. A read
that failed or came late starts the count anew: an outage of the database kills nobody.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from tollgate.broker.bus import ENDED, Bus
from tollgate.domain.errors import UpstreamError
from tollgate.domain.settling import Settlement
from tollgate.store import leases, price_list, settlements
from tollgate.store.database import Database
from worker import outcomes
from worker.outcomes import Rules

log = logging.getLogger("tollgate.watch")

DEAD_AFTER_S = 20.0
LATE_READ_S = 5.0
RESCUE_AT_ONCE = 1_000


@dataclass(slots=True)
class Sighting:
    heartbeat: int
    since_s: float
    """When this value was first read, on the watcher's monotonic clock."""


class Watch:
    """One beat's memory of heartbeats. `clock` is monotonic seconds."""

    def __init__(
        self, database: Database, bus: Bus, rules: Rules, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._bus = bus
        self._rules = rules
        self._clock = clock
        self._seen: dict[UUID, Sighting] = {}
        self._read_at_s = float("-inf")

    async def look(self) -> None:
        """Read every heartbeat; bury the workers that are dead; give back what dead ones held."""
        for worker_id in await self._dead():
            heartbeat = self._seen.pop(worker_id).heartbeat
            async with self._database.write() as connection:
                if await leases.bury(connection, worker_id, heartbeat=heartbeat):
                    log.warning("worker is dead", extra={"worker_id": str(worker_id)})
        await self.rescue()

    async def rescue(self) -> int:
        """Give back tasks whose worker is dead: a call without an upstream id may have been billed.

        Returns how many."""
        rescued = 0
        while True:
            async with self._database.write() as connection:
                found = await leases.orphans(connection, limit=RESCUE_AT_ONCE)
                if found:
                    self._rules.prices = await price_list.load(connection)
                now = datetime.now(UTC)
                given = [self._left_behind(orphan, now=now) for orphan in found]
                resolved = await settlements.settle(connection, given, now=now) if given else []
            rescued += len(found)
            if ended := [r.settlement.task_id for r in resolved if r.task and r.settlement.state.ended]:
                await self._bus.publish(ENDED, ended)
            if len(found) < RESCUE_AT_ONCE:
                return rescued

    def _left_behind(self, orphan: leases.Orphan, *, now: datetime) -> Settlement:
        """Not hinted: the worker that would have remembered the retry is gone."""
        error = UpstreamError("its worker died before the answer came", kind="cut")
        outcome = outcomes.failed(orphan, error, sent=True, rules=self._rules, now=now, jitter=random.random())
        return replace(outcome.settlement, hinted=False)

    async def _dead(self) -> list[UUID]:
        """Those whose heartbeat stood still for DEAD_AFTER_S. Raises StoreUnavailableError, and starts anew then."""
        started = self._clock()
        previous, self._seen = self._seen, {}
        async with self._database.read() as connection:
            alive = await leases.alive(connection)
        now = self._clock()
        if now - started > LATE_READ_S or started - self._read_at_s > LATE_READ_S:
            previous = {}
        self._read_at_s = now
        for worker in alive:
            last = previous.get(worker.id)
            same = last is not None and last.heartbeat == worker.heartbeat
            self._seen[worker.id] = last if same and last else Sighting(worker.heartbeat, now)
        return [worker_id for worker_id, seen in self._seen.items() if now - seen.since_s >= DEAD_AFTER_S]
