"""The loop that buys: puts waiting lines into upstream batches, and takes each of these a step further when it is due.

Runs in each worker process that serves the bulk lane of the cloud; who looks after what stands in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.upstream_batches import BYTES_MAX, LINES_MAX
from tollgate.store import upstream_batches, upstream_gathering
from tollgate.store.database import Database
from tollgate.store.upstream_batches import Account, UpstreamBatch
from tollgate.store.upstream_gathering import Buyer
from worker.billing import Rules
from worker.lease import Lease
from worker.pausing import Pauses
from worker.settler import Settler
from worker.upstream_batches.cloud import Cloud
from worker.upstream_batches.course import Course, Pace

log = logging.getLogger("tollgate.upstream_batches")

AT_ONCE = 4
"""Upstream batches that one worker handles at a time: each has a file of up to 100 MB on its way."""
GATHER_S = 2.0
"""One batch keeps a look no longer: the others' turn comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    open_max: int
    """Upstream batches of one upstream that are open at once, the whole fleet's."""
    lines_max: int = LINES_MAX
    bytes_max: int = BYTES_MAX


class UpstreamBatches:
    """Belongs to the engine's loop, whose lease it shares."""

    def __init__(
        self,
        database: Database,
        *,
        clouds: Mapping[Account, Cloud],
        course: Course,
        pauses: Pauses,
        rules: Rules,
        settler: Settler,
        lease: Lease,
        limits: Limits,
        pace: Pace,
    ) -> None:
        self._database = database
        self._clouds = clouds
        self._course = course
        self._pauses = pauses
        self._rules = rules
        self._settler = settler
        self._lease = lease
        self._limits = limits
        self._pace = pace
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look_forever(), name="upstream batches")

    async def stop(self) -> None:
        """Whatever is begun stands in the store: it is gone on with by another worker, or at the next start."""
        tasks = [*self._running.values(), *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._settler.drain()
        for cloud in self._clouds.values():
            await cloud.close()

    async def _look_forever(self) -> None:
        while True:
            try:
                await self.look()
            except StoreUnavailableError as error:
                log.warning("upstream batches wait for the database", extra={"error": str(error)})
            except Exception:  # the next look tries again
                log.exception("looking after upstream batches broke")
            await asyncio.sleep(self._pace.look_s)

    async def look(self) -> None:
        """Gather what waits, and go on with what is due. Raises StoreUnavailableError."""
        worker_id = self._lease.worker_id
        if self._lease.may_send(worker_id):
            await self._gather(worker_id)
            await self._begin_some(worker_id)

    async def _gather(self, worker_id: UUID) -> None:
        upstreams = {upstream for upstream, _ in self._clouds}
        working = {upstream: name for upstream in upstreams if (name := self._pauses.working(upstream)) is not None}
        if not working:
            return
        buyer = Buyer(
            worker_id=worker_id,
            credentials=working,
            open_max=self._limits.open_max,
            lines_max=self._limits.lines_max,
            bytes_max=self._limits.bytes_max,
        )
        async with self._database.read() as connection:
            waiting = await upstream_gathering.waiting(connection)
        for batch_id in waiting:
            until_s = time.monotonic() + GATHER_S
            while await self._gather_some(batch_id, buyer) and time.monotonic() < until_s:
                pass

    async def _gather_some(self, batch_id: UUID, buyer: Buyer) -> bool:
        async with self._database.write() as connection:
            return await upstream_gathering.gather(
                connection, batch_id, buyer=buyer, prices=self._rules.prices, now=datetime.now(UTC)
            )

    async def _begin_some(self, worker_id: UUID) -> None:
        room = AT_ONCE - len(self._running)
        if room <= 0:
            return
        async with self._database.write() as connection:
            due = await upstream_batches.take(
                connection,
                worker_id=worker_id,
                accounts=self._clouds.keys(),
                now=datetime.now(UTC),
                without=self._running.keys(),
                limit=room,
            )
        for batch in due:
            task = asyncio.create_task(self._go_on(batch), name=f"upstream batch {batch.id}")
            self._running[batch.id] = task
            task.add_done_callback(functools.partial(self._on_done, batch.id))

    def _on_done(self, batch_id: UUID, _: asyncio.Task[None]) -> None:
        del self._running[batch_id]

    async def _go_on(self, batch: UpstreamBatch) -> None:
        """The edge of one: what breaks is tried again when it is due, and where it stood."""
        try:
            await self._course.go_on(batch)
        except StoreUnavailableError as error:
            log.warning("upstream batch waits for the database", extra={"error": str(error)})
        except Exception:
            log.exception("upstream batch broke", extra={"upstream_batch_id": str(batch.id)})
            until = datetime.now(UTC) + timedelta(seconds=self._pace.back_off_most_s)
            with contextlib.suppress(StoreUnavailableError):
                async with self._database.write() as connection:
                    await upstream_batches.postpone(connection, batch, until=until)
