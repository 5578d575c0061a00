"""The beat's round over open batches: lifts pauses that are over, ends queued lines of cancelled ones, tries failed
lines again where it was asked for, and ends batches whose last line has ended.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from uuid import UUID

from tollgate.domain.batches import BatchState
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import batch_course, batch_pauses
from tollgate.store.batch_course import OpenBatch, QueuedLine
from tollgate.store.database import Database
from worker.sweeping import Sweep

log = logging.getLogger("tollgate.batches")

ROUND_S = 2.0
"""One batch keeps a round no longer: the others' turn comes."""


class Batches:
    """One beat's; any number may be at it at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sweep = Sweep(database)

    async def round(self) -> list[UUID]:
        """Returns the batches that ended. Raises StoreUnavailableError."""
        async with self._database.read() as connection:
            found = await batch_course.open_batches(connection)
            paused = await batch_pauses.over(connection, now=datetime.now(UTC))
        for batch_id in paused:
            await self._lift(batch_id)
        return [batch.id for batch in found if await self._outlive(batch)]

    async def _lift(self, batch_id: UUID) -> None:
        async with self._database.write() as connection:
            lifted = await batch_pauses.lift(connection, batch_id, now=datetime.now(UTC))
        if lifted:
            log.info("batch goes on: its budget began anew", extra={"batch_id": str(batch_id)})

    async def _outlive(self, batch: OpenBatch) -> bool:
        """The edge of one batch: the others have their turn."""
        try:
            return await self._go_on(batch)
        except StoreUnavailableError:
            raise
        except Exception:
            log.exception("batch cannot go on for now", extra={"batch_id": str(batch.id)})
            return False

    async def _go_on(self, batch: OpenBatch) -> bool:
        """Whether it ended."""
        if batch.done:
            return await self._end(batch)
        until_s = time.monotonic() + ROUND_S
        if batch.state is BatchState.CANCELLING:
            await self._stop_running(batch.id)
            while await self._cancel_some(batch.id) and time.monotonic() < until_s:
                pass
        elif batch.retry_asked_at is not None:
            while await self._try_some_again(batch.id, batch.retry_asked_at) and time.monotonic() < until_s:
                pass
        return False

    async def _end(self, batch: OpenBatch) -> bool:
        async with self._database.write() as connection:
            state = await batch_course.end(connection, batch.id, now=datetime.now(UTC))
        if state is not None:
            log.info("batch ended", extra={"batch_id": str(batch.id), "state": state.value, "lines": batch.accepted})
        return state is not None

    async def _stop_running(self, batch_id: UUID) -> None:
        """A claim that began before the batch was cancelled may have taken lines since."""
        async with self._database.write() as connection:
            await batch_course.stop_running(connection, batch_id, now=datetime.now(UTC))

    async def _cancel_some(self, batch_id: UUID) -> bool:
        """Whether there may be more at once."""
        async with self._database.read() as connection:
            found = await batch_course.queued(connection, batch_id, without=self._sweep.aside())
        await self._sweep.settle(found, _cancelled)
        return bool(found)

    async def _try_some_again(self, batch_id: UUID, asked_at: datetime) -> bool:
        async with self._database.write() as connection:
            return await batch_course.try_again(connection, batch_id, before=asked_at, now=datetime.now(UTC))


def _cancelled(line: QueuedLine) -> Settlement:
    return Settlement(
        task_id=line.id,
        fence=line.fence,
        attempt=line.attempt,
        held=TaskState.QUEUED,
        outcome=AttemptOutcome.ABANDONED,
        state=TaskState.CANCELLED,
        error_code="cancelled",
        error_message="its batch was cancelled at its owner's request",
    )
