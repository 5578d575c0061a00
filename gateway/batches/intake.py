"""Takes batches in: reads their files, checks each line, and commits steps of lines with the place they end at.

Any gateway may do it, and goes on where another stopped: the place that was committed is the fence (ADR 20). Several
batches are read at once, so that a short one need not wait for a long one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from gateway.batches.steps import Stepper
from gateway.files.folder import FileStore
from tollgate.domain.batches import Batch, BatchState
from tollgate.domain.errors import FilesUnavailableError, NotFoundError, RequestError, StoreUnavailableError
from tollgate.domain.tasks import Key
from tollgate.store import batch_intake, batches, files, keys
from tollgate.store.batch_intake import InvalidLine, Step
from tollgate.store.database import Database

log = logging.getLogger("tollgate.batches")

AT_ONCE = 8
"""Batches that one gateway reads at a time."""
LOOK_EVERY_S = 5.0
STALE_S = 15.0
"""A batch that nobody took a step of for so long was left by a gateway that died."""
TOLD = 5
"""Invalid lines that a refusal names; the others are listed with the batch."""


class BatchIntake:
    """Belongs to one event loop. `wake` it when a batch was made."""

    def __init__(self, database: Database, store: FileStore, stepper: Stepper) -> None:
        self._database = database
        self._store = store
        self._stepper = stepper
        self._woken = asyncio.Event()
        self._reading: dict[UUID, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look_forever(), name="batch intake")

    async def stop(self) -> None:
        """What is begun is left at its last step: whoever comes next goes on there."""
        running = [*self._reading.values(), *([self._looking] if self._looking else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def wake(self) -> None:
        self._woken.set()

    async def _look_forever(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._begin_some()
            except StoreUnavailableError as error:
                log.warning("batch intake waits for the database", extra={"error": str(error)})
            except Exception:  # the next look tries again
                log.exception("batch intake broke")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._woken.wait()

    async def _begin_some(self) -> None:
        stale = datetime.now(UTC) - timedelta(seconds=STALE_S)
        async with self._database.read() as connection:
            waiting = await batch_intake.waiting(connection, stale=stale)
        for batch_id in waiting:
            if len(self._reading) >= AT_ONCE:
                break
            if batch_id not in self._reading:
                task = asyncio.create_task(self._take_in(batch_id), name=f"batch {batch_id}")
                self._reading[batch_id] = task
                task.add_done_callback(functools.partial(self._on_done, batch_id))

    def _on_done(self, batch_id: UUID, _: asyncio.Task[None]) -> None:
        del self._reading[batch_id]

    async def _take_in(self, batch_id: UUID) -> None:
        """The edge of one batch: what breaks here is tried again after STALE_S, where it stood."""
        try:
            async with self._database.read() as connection:
                batch = (await batches.by_ids(connection, [batch_id]))[batch_id]
                key = (await keys.found(connection, batch.key_id)).key
            try:
                await self._read(batch, key)
            except FilesUnavailableError as error:
                # A disk that fails for now is no lost file: what is there is read later, from where it stood.
                if batch.input_file_id is not None and await self._store.exists(batch.input_file_id):
                    raise
                await self._give_up(batch, str(error))
            self.wake()  # there is room for another one
        except (StoreUnavailableError, FilesUnavailableError) as error:
            log.warning("batch waits to be taken in", extra={"batch_id": str(batch_id), "error": str(error)})
        except Exception:
            log.exception("batch cannot be taken in for now", extra={"batch_id": str(batch_id)})

    async def _read(self, batch: Batch, key: Key) -> None:
        """Read on from where the batch stands; while one step is committed the next is read."""
        committing: asyncio.Task[bool] | None = None
        try:
            async for step in self._stepper.steps(batch, key):
                if committing is not None and not await committing:
                    return  # another gateway is at it, or it was cancelled
                committing = asyncio.create_task(self._commit(batch, step))
            if committing is not None and await committing:
                await self._close(batch)
        finally:
            if committing is not None and not committing.done():
                await asyncio.wait([committing])

    async def _commit(self, batch: Batch, step: Step) -> bool:
        async with self._database.write() as connection:
            return await batch_intake.take_in(connection, batch.id, step, now=datetime.now(UTC))

    async def _close(self, batch: Batch) -> None:
        """The file was read to its end."""
        async with self._database.read() as connection:
            taken = (await batches.by_ids(connection, [batch.id]))[batch.id]
            first = await batch_intake.invalid_page(connection, batch.id, limit=TOLD)
        if taken.state is BatchState.VALIDATING:
            code = "invalid_lines" if taken.invalid else "empty_file"
            await self._refuse(taken, code=code, message=_refusal(taken, first))
        log.info(
            "batch taken in",
            extra={"batch_id": str(batch.id), "lines": taken.accepted, "invalid": taken.invalid},
        )
        await self._forget_input(taken)

    async def _give_up(self, batch: Batch, why: str) -> None:
        message = (
            f"its input cannot be read: {why}. It was deleted, or the gateways of this installation do not share one "
            "folder of files (TOLLGATE_FILES)"
        )
        async with self._database.write() as connection:
            cut = await batch_intake.cut_short(
                connection, batch.id, code="input_lost", message=message, now=datetime.now(UTC)
            )
        if not cut:
            await self._refuse(batch, code="input_lost", message=message)

    async def _refuse(self, batch: Batch, *, code: str, message: str) -> None:
        done = False
        while not done:
            async with self._database.write() as connection:
                done = await batch_intake.refuse(
                    connection, batch.id, code=code, message=message, now=datetime.now(UTC)
                )

    async def _forget_input(self, batch: Batch) -> None:
        """Where its owner asked for it: ZhipuAI's SDK does unless told otherwise."""
        if not batch.delete_input or batch.input_file_id is None:
            return
        try:
            async with self._database.write() as connection:
                await files.remove(connection, batch.input_file_id, project_id=batch.project_id, now=datetime.now(UTC))
        except (NotFoundError, RequestError):
            return  # it is gone already, or another batch is read from it
        await self._store.delete(batch.input_file_id)


def _refusal(batch: Batch, first: Sequence[InvalidLine]) -> str:
    if not batch.invalid:
        return "the file has no line that is not blank"
    counted = f"{batch.invalid:,} of {batch.total or batch.invalid:,} lines are invalid"
    told = "; ".join(f"line {one.line}: {one.message}" for one in first)
    more = f"; and {batch.invalid - len(first):,} more" if batch.invalid > len(first) else ""
    return f"{counted}{' and the batch is strict' if batch.strict else ''}: {told}{more}"
