"""This worker's lease: registered in the store, renewed by a thread of its own.

The thread renews only while the loop ticks: a worker whose loop hangs must lose its tasks, not keep
them. What it learns with each heartbeat (cancels, pauses, how many workers there are) it hands to the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.ids import new_id
from tollgate.store import leases, pauses
from tollgate.store.database import Database

log = logging.getLogger("tollgate.lease")

Load = Mapping[str, leases.RouteLoad]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. A worker is presumed dead 20 s after its last sign of life (`worker.watch`)."""

    renew_s: float = 5.0
    renew_within_s: float = 10.0
    """A heartbeat that takes longer has failed: a connection cut without a word would be waited for for ever."""
    send_within_s: float = 15.0
    """Nothing is sent later than this after the start of the last confirmed heartbeat: less than the
    watchers' 20 s, so that no call of a lease that is already given away leaves this process."""
    tick_s: float = 1.0
    tick_within_s: float = 10.0
    """A loop silent for longer is not vouched for."""
    hang_s: float = 60.0
    """A loop silent for so long will not come back: the process ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a confirmed heartbeat learned."""

    cancelled: Sequence[UUID]
    pauses: Sequence[pauses.Pause]
    workers: Sequence[leases.WorkerRow]
    """Every live one, this one too."""


class Lease:
    """`worker_id` names the current registration; a lost one is replaced by a new one.

    `load`, `on_heartbeat` and `on_lost` are called on the loop that started it."""

    def __init__(
        self,
        *,
        database_url: str,
        name: str,
        lanes: Sequence[str],
        load: Callable[[], Load],
        on_heartbeat: Callable[[Heartbeat], None],
        on_lost: Callable[[], None],
        timing: Timing | None = None,
    ) -> None:
        self.worker_id = new_id()
        self._database_url = database_url
        self._name = name
        self._lanes = lanes
        self._load = load
        self._on_heartbeat = on_heartbeat
        self._on_lost = on_lost
        self._timing = timing or Timing()
        self._confirmed = (self.worker_id, float("-inf"))
        self._ticked_at = time.monotonic()
        self._last_load: Load = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, database: Database) -> None:
        """Register, learn what stands, then renew until `stop`. Raises StoreUnavailableError."""
        self._loop = asyncio.get_running_loop()
        self._last_load = self._load()  # what it can call, before anybody could take it for one that cannot
        await self._register(database)
        if heartbeat := await self._beat(database):
            self._on_heartbeat(heartbeat)
        self._ticking = asyncio.create_task(self._tick(), name="tick")
        self._thread = threading.Thread(target=lambda: asyncio.run(self._renew_forever()), name="lease", daemon=True)
        self._thread.start()

    async def stop(self, database: Database) -> None:
        """Sign off: what is still held may be taken over at once. Raises StoreUnavailableError."""
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, self._timing.renew_within_s)
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
        self._confirmed = (self.worker_id, float("-inf"))
        async with database.write() as connection:
            await leases.bury(connection, self.worker_id)

    def may_send(self, worker_id: UUID) -> bool:
        """Whether a call may begin for what `worker_id` holds: it is the current registration, and fresh."""
        confirmed_id, at_s = self._confirmed  # one value: the thread may replace it between two reads
        return confirmed_id == worker_id and time.monotonic() - at_s < self._timing.send_within_s

    async def _tick(self) -> None:
        while True:
            self._last_load = self._load()
            self._ticked_at = time.monotonic()
            await asyncio.sleep(self._timing.tick_s)

    async def _register(self, database: Database) -> None:
        started = time.monotonic()
        async with database.write() as connection:
            await leases.register(
                connection,
                self.worker_id,
                name=self._name,
                lanes=self._lanes,
                now=datetime.now(UTC),
                load=self._last_load,
            )
        self._confirmed = (self.worker_id, started)

    async def _beat(self, database: Database) -> Heartbeat | None:
        """One heartbeat, confirmed by its commit. None: declared dead."""
        started = time.monotonic()
        async with database.write() as connection:
            if not await leases.renew(connection, self.worker_id, load=self._last_load, now=datetime.now(UTC)):
                return None
            heartbeat = Heartbeat(
                cancelled=await leases.cancelled_of(connection, self.worker_id),
                pauses=await pauses.read(connection),
                workers=await leases.alive(connection),
            )
        self._confirmed = (self.worker_id, started)
        return heartbeat

    async def _renew_forever(self) -> None:
        """In the thread, on a loop and a connection of its own."""
        database = Database.connect(self._database_url, pool=1)
        try:
            while not await asyncio.to_thread(self._stop.wait, self._timing.renew_s):
                silent_s = time.monotonic() - self._ticked_at
                if silent_s > self._timing.hang_s:
                    log.critical("the event loop hangs, ending the process", extra={"silent_s": round(silent_s)})
                    os._exit(70)
                if silent_s <= self._timing.tick_within_s:
                    await self._renew(database)
        finally:
            await database.close()

    async def _renew(self, database: Database) -> None:
        try:
            async with asyncio.timeout(self._timing.renew_within_s):
                if heartbeat := await self._beat(database):
                    self._tell(lambda: self._on_heartbeat(heartbeat))
                else:
                    await self._begin_anew(database)
        except (StoreUnavailableError, TimeoutError) as error:
            log.warning("heartbeat failed", extra={"error": repr(error)})
        except Exception:  # without this thread the worker would die in silence
            log.exception("heartbeat broke")

    async def _begin_anew(self, database: Database) -> None:
        """Declared dead while it lived (paused, or cut off): everything held is somebody else's now."""
        log.warning("the lease was lost, registering anew", extra={"worker_id": str(self.worker_id)})
        self.worker_id = new_id()
        self._confirmed = (self.worker_id, float("-inf"))
        self._tell(self._on_lost)
        await self._register(database)

    def _tell(self, what: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(what)
