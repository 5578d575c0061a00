"""Whoever waits for tasks to end. One subscription for all of them, and a look at the store every 2 s.

The order is: register, then read, then wait; so no end falls between. A lost notice costs 2 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator
from uuid import UUID

from tollgate.broker.bus import ENDED, Bus
from tollgate.domain.errors import StoreUnavailableError
from tollgate.store import tasks
from tollgate.store.database import Database

log = logging.getLogger("tollgate.waiting")

LOOK_EVERY_S = 2.0


class Waiters:
    """Belongs to one event loop."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._waiting: dict[UUID, set[asyncio.Event]] = {}
        self._looking: asyncio.Task[None] | None = None
        self.released = False
        """The gateway stops: nobody waits any more."""
        bus.subscribe(ENDED, self._ended)

    @property
    def waiting(self) -> int:
        """Tasks that somebody waits for."""
        return len(self._waiting)

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look_forever(), name="waiters")

    async def stop(self) -> None:
        """Everyone who waits is let go."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self.release()

    def release(self) -> None:
        """Let go everyone who waits, and who comes: each answers what there is now, before the server ends."""
        self.released = True
        self._ended(list(self._waiting))

    @contextlib.contextmanager
    def listening(self, ids: Collection[UUID]) -> Iterator[asyncio.Event]:
        """Set when any of `ids` ends from now on, or the gateway stops. Read inside, and then `heard`: an end that came
        before the read is in what was read."""
        ended = asyncio.Event()
        if self.released:
            ended.set()
        for task_id in ids:
            self._waiting.setdefault(task_id, set()).add(ended)
        try:
            yield ended
        finally:
            for task_id in ids:
                self._forget(task_id, ended)

    async def wait(self, ids: Collection[UUID], *, timeout_s: float | None) -> None:
        """Return when any of `ids` ends, has ended, or after `timeout_s` (None: never). The caller reads what there is.

        Raises StoreUnavailableError."""
        with self.listening(ids) as ended:
            # Not under the timeout: the next one would wait until the statement that was cut short has ended.
            async with self._database.read_once() as connection:
                if await tasks.ended_among(connection, list(ids)):
                    return
            await heard(ended, timeout_s=timeout_s)

    def _forget(self, task_id: UUID, ended: asyncio.Event) -> None:
        waiting = self._waiting.get(task_id)
        if waiting is not None:
            waiting.discard(ended)
            if not waiting:
                del self._waiting[task_id]

    def _ended(self, ids: Iterable[UUID]) -> None:
        for task_id in ids:
            for event in self._waiting.get(task_id, ()):
                event.set()

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self._waiting:
                continue
            try:
                async with self._database.read_once() as connection:
                    self._ended(await tasks.ended_among(connection, list(self._waiting)))
            except StoreUnavailableError as error:
                log.warning("waiters cannot look", extra={"error": str(error)})
            except Exception:  # the loop must outlive whatever it was: everyone who waits depends on it
                log.exception("waiters could not look")


async def heard(ended: asyncio.Event, *, timeout_s: float | None) -> None:
    """Return when it is set, or after `timeout_s` (None: never)."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await ended.wait()
