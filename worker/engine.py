"""The engine: one event loop that holds thousands of calls in flight.

    messages -> buffer -> claim (as many as the routes have free slots) -> call -> settle -> notify

Celery's `run` only hands ids over. The store's rows decide what runs; a hint for a task that somebody
else holds, or that has ended, costs one row of one SELECT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from tollgate.broker.bus import CANCEL, Bus
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from worker.capacity import Capacity
from worker.claimer import Claimer
from worker.lease import Heartbeat, Lease, Load, Timing
from worker.outcomes import Rules
from worker.runner import Runner
from worker.settler import Settler
from worker.upstreams.registry import Connected


class Engine:
    """One worker process's. `start` and `stop` on the loop; `offer` from any thread."""

    def __init__(
        self,
        *,
        database: Database,
        database_url: str,
        bus: Bus,
        upstreams: Mapping[str, Connected],
        rules: Rules,
        name: str,
        lanes: Sequence[str],
        max_in_flight: int,
        timing: Timing | None = None,
    ) -> None:
        self._database = database
        self._bus = bus
        self._upstreams = upstreams
        self._loop: asyncio.AbstractEventLoop | None = None
        self._capacity = Capacity(upstreams, lanes=lanes)
        self.lease = Lease(
            database_url=database_url,
            name=name,
            lanes=lanes,
            load=self._load,
            on_heartbeat=self._on_heartbeat,
            on_lost=lambda: self.runner.abort_all(),
            timing=timing,
        )
        self.runner = Runner(
            database=database,
            upstreams=upstreams,
            capacity=self._capacity,
            rules=rules,
            settler=Settler(database, bus),
            may_send=self.lease.may_send,
            freed=lambda: self.claimer.wake(),
            again=self._try_again,
        )
        self.claimer = Claimer(
            database=database,
            capacity=self._capacity,
            lease=self.lease,
            run=self.runner.run,
            room=lambda: max_in_flight - len(self.runner),
        )

    async def start(self) -> None:
        """Register the lease and begin to claim. Raises StoreUnavailableError."""
        self._loop = asyncio.get_running_loop()
        self._bus.subscribe(CANCEL, self.runner.cancel)
        await self._bus.start()
        await self.lease.start(self._database)
        self.claimer.start()

    async def stop(self, *, drain_timeout_s: float) -> None:
        """No new claims; calls in flight get `drain_timeout_s`; the rest is given back and runs elsewhere."""
        await self.claimer.stop()
        await self.runner.drain(drain_timeout_s)
        await self.lease.stop(self._database)
        for connected in self._upstreams.values():
            await connected.upstream.close()

    def offer(self, lane: str, hints: Mapping[str, Iterable[UUID]]) -> None:
        """Take the ids of a message. Returns at once; thread-safe."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.claimer.accept, lane, hints)

    def _try_again(self, claimed: Claimed) -> None:
        self.claimer.accept(claimed.lane, {claimed.route: [claimed.id]})

    def _on_heartbeat(self, heartbeat: Heartbeat) -> None:
        self.runner.cancel(heartbeat.cancelled)
        self._capacity.heed(heartbeat)
        self.claimer.wake()

    def _load(self) -> Load:
        return self._capacity.load(self.claimer.buffer.by_route())
