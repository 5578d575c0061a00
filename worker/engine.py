"""The engine: one event loop that holds thousands of calls in flight.

    messages -> buffer -> claim (as many as the routes have free slots) -> call -> settle -> notify

Celery's `run` only hands ids over. The store's rows decide what runs; a hint for a task that somebody
else holds, or that has ended, costs one row of one SELECT.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from tollgate.broker.bus import CANCEL, Bus
from tollgate.domain.errors import StoreUnavailableError
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from worker.billing import Rules
from worker.buffer import CAPACITY, Buffer
from worker.calling import Caller
from worker.capacity import Capacity
from worker.claimer import Claimer
from worker.credentials import Credentials
from worker.feeder import Feeder
from worker.lease import Heartbeat, Lease, Load, Timing
from worker.pausing import Pauses
from worker.polling import Poller
from worker.price_watch import PriceWatch
from worker.receipts import Receipts
from worker.returns import Returns
from worker.runner import Runner
from worker.settler import Settler
from worker.streams import Streams
from worker.upstreams.registry import Connected

log = logging.getLogger("tollgate.engine")


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
        buffer_capacity: int = CAPACITY,
        timing: Timing | None = None,
    ) -> None:
        self._database = database
        self._bus = bus
        self._upstreams = upstreams
        self._loop: asyncio.AbstractEventLoop | None = None
        self._buffer = Buffer(buffer_capacity)
        self._capacity = Capacity(upstreams, lanes=lanes, catalog=rules.catalog)
        self._returns = Returns(database)
        self._settler = Settler(database, bus)
        self._prices = PriceWatch(database, rules)
        self.lease = Lease(
            database_url=database_url,
            name=name,
            lanes=lanes,
            load=self._load,
            on_heartbeat=self._on_heartbeat,
            on_lost=self._on_lost,
            timing=timing,
        )
        self.runner = Runner(
            upstreams=upstreams,
            capacity=self._capacity,
            credentials=Credentials(database, self._capacity.pauses),
            rules=rules,
            settler=self._settler,
            caller=Caller(
                receipts=Receipts(database),
                poller=Poller(),
                rules=rules,
                streams=Streams(bus),
                may_send=self.lease.may_send,
            ),
            know_price=self._prices.know,
            may_send=self.lease.may_send,
            freed=self._on_freed,
            again=self._try_again,
        )
        self.feeder = Feeder(
            database,
            capacity=self._capacity,
            buffer=self._buffer,
            lanes=lanes,
            rules=rules,
            accept=self._accept,
        )
        self.claimer = Claimer(
            database=database,
            capacity=self._capacity,
            lease=self.lease,
            returns=self._returns,
            buffer=self._buffer,
            run=self.runner.run,
            room=lambda: max_in_flight - len(self.runner),
            hungry=self.feeder.ask,
        )

    async def start(self) -> None:
        """Register the lease and begin to claim. Raises StoreUnavailableError."""
        self._loop = asyncio.get_running_loop()
        self._bus.subscribe(CANCEL, self.runner.cancel)
        await self._bus.start()
        await self.lease.start(self._database)
        self._prices.start()
        self.feeder.start()
        self.claimer.start()

    async def stop(self, *, drain_timeout_s: float) -> None:
        """No new claims; calls in flight get `drain_timeout_s`; the rest is given back and runs elsewhere."""
        await self.feeder.stop()
        await self.claimer.stop()
        await self.runner.drain(drain_timeout_s)
        await self._returns.drain()
        await self._settler.drain()
        await self._prices.stop()
        try:
            await self.lease.stop(self._database)
        except StoreUnavailableError as error:
            log.warning("not signed off, will be found dead", extra={"error": str(error)})
        for connected in self._upstreams.values():
            await connected.upstream.close()

    @property
    def pauses(self) -> Pauses:
        """The credentials that are paused, as the last heartbeat told."""
        return self._capacity.pauses

    def offer(self, lane: str, hints: Mapping[str, Iterable[UUID]]) -> None:
        """Take the ids of a message. Returns at once; thread-safe. A stopped engine drops them: they are hints."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._accept, lane, hints)

    def _accept(self, lane: str, hints: Mapping[str, Iterable[UUID]]) -> None:
        self.claimer.accept(lane, hints)

    def _try_again(self, claimed: Claimed, *, at: datetime) -> None:
        self.claimer.again(claimed, at=at)

    def _on_freed(self) -> None:
        self.claimer.wake()

    def _on_heartbeat(self, heartbeat: Heartbeat) -> None:
        self.runner.cancel(heartbeat.cancelled)
        self._capacity.heed(heartbeat)
        self.claimer.wake()

    def _on_lost(self) -> None:
        self.runner.abort_unsent()

    def _load(self) -> Load:
        return self._capacity.load(self._buffer.by_route())
