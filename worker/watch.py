"""Watches the workers' heartbeats and gives back what the dead held.

A worker is dead when one watcher has read the same heartbeat value for 20 s of its own clock. A read
that failed or came late starts the count anew: an outage of the database kills nobody. Any number may
watch: the first settlement of an orphan wins.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tollgate.broker.bus import ENDED, Bus
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.settling import Settlement
from tollgate.store import leases, price_list, sessions
from tollgate.store.database import Database
from worker import outcomes
from worker.billing import Rules
from worker.sweeping import Sweep

log = logging.getLogger("tollgate.watch")

DEAD_AFTER_S = 20.0
LATE_READ_S = 5.0
RESCUE_AT_ONCE = 1_000
FORGOTTEN_AFTER = timedelta(days=1)
"""So long the row of a dead worker is kept, for people."""
FORGET_EVERY_S = 600.0


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
        self._sweep = Sweep(database, clock=clock)
        self._seen: dict[UUID, Sighting] = {}
        self._read_at_s = float("-inf")
        self._forgot_at_s = float("-inf")

    async def look(self) -> None:
        """Read every heartbeat; bury the workers that are dead; give back what dead ones held. Before whatever may wait
        for a lock, take theirs from processes that stand still."""
        dead = await self._dead()
        await self._free_locks()
        for worker_id in dead:
            async with self._database.write() as connection:
                if await leases.bury(connection, worker_id, heartbeat=self._seen[worker_id].heartbeat):
                    log.warning("worker is dead", extra={"worker_id": str(worker_id)})
            del self._seen[worker_id]  # not before: a burial that waited in vain for a lock is tried again at once
        await self.rescue()
        await self._forget()

    async def _free_locks(self) -> None:
        try:
            async with self._database.read() as connection:
                ended = await sessions.end_abandoned(connection)
        except StoreUnavailableError:
            raise
        except Exception:  # a server that keeps it from us: the dead are to be buried all the same
            log.exception("locks of processes that stand still are not freed")
            return
        if ended:
            log.warning("database sessions ended, their processes stand still", extra={"server_pids": ended})

    async def rescue(self) -> int:
        """Give back tasks whose worker is dead: a call without an upstream id may have been billed, one with an id
        is polled on by whoever claims it next. Returns how many."""
        rescued = 0
        while True:
            async with self._database.read() as connection:
                found = await leases.orphans(connection, limit=RESCUE_AT_ONCE, without=self._sweep.aside())
                if found:
                    self._rules.prices = await price_list.load(connection)
            resolved = [r for r in await self._sweep.settle(found, self._left_behind) if r.task]
            rescued += len(resolved)
            if ended := [r.settlement.task_id for r in resolved if r.settlement.state.ended]:
                await self._bus.publish(ENDED, ended)
            if len(found) < RESCUE_AT_ONCE:
                return rescued

    def _left_behind(self, orphan: leases.Orphan) -> Settlement:
        return outcomes.left_behind(orphan, rules=self._rules, now=datetime.now(UTC), jitter=random.random())

    async def _forget(self) -> None:
        """Once in a while: rows of workers that died long ago."""
        if self._clock() - self._forgot_at_s < FORGET_EVERY_S:
            return
        async with self._database.write() as connection:
            forgotten = await leases.forget_dead(connection, seen_before=datetime.now(UTC) - FORGOTTEN_AFTER)
        self._forgot_at_s = self._clock()
        if forgotten:
            log.info("dead workers forgotten", extra={"workers": forgotten})

    async def _dead(self) -> list[UUID]:
        """Those whose heartbeat stood still for DEAD_AFTER_S. Raises StoreUnavailableError, and starts anew then."""
        started = self._clock()
        previous, self._seen = self._seen, {}
        async with self._database.read() as connection:
            alive = await leases.alive(connection)
        now = self._clock()
        if now - started > LATE_READ_S or started - self._read_at_s > LATE_READ_S:
            if previous:
                log.warning("heartbeats read late", extra={"after_s": round(now - self._read_at_s, 1)})
            previous = {}
        self._read_at_s = now
        for worker in alive:
            last = previous.get(worker.id)
            same = last is not None and last.heartbeat == worker.heartbeat
            self._seen[worker.id] = last if same and last else Sighting(worker.heartbeat, now)
        return [worker_id for worker_id, seen in self._seen.items() if now - seen.since_s >= DEAD_AFTER_S]
