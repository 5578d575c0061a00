"""How one upstream batch goes on, step by step. Each step is committed before the next call is made.

    grouped -> upload -> uploaded -> (the intent is committed) -> create -> running -> poll -> harvesting -> ended

Only the call that follows the commit of `creating` buys anything. Whoever finds a batch `creating` does not call again:
it looks for it in the upstream's list, and only what is not there some minutes later may be created once more.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from tollgate.domain.batches import BatchState
from tollgate.domain.errors import UpstreamError
from tollgate.domain.upstream_batch_answers import Seen
from tollgate.domain.upstream_batches import UpstreamBatchState, near_end
from tollgate.domain.verdicts import Action, judge
from tollgate.store import upstream_batches
from tollgate.store.database import Database
from tollgate.store.upstream_batches import Account, UpstreamBatch
from worker.credentials import Credentials
from worker.upstream_batches import files
from worker.upstream_batches.cloud import Cloud
from worker.upstream_batches.harvest import Harvest

log = logging.getLogger("tollgate.upstream_batches")

LOST_AFTER = timedelta(days=1)
"""So long after our batch's end one that never ended is looked at."""
Next = UpstreamBatch | None
"""The batch after a step; None: it waits, has ended, or is somebody else's by now."""
Step = Callable[[UpstreamBatch, Cloud], Awaitable[Next]]
UNBOUGHT = frozenset({UpstreamBatchState.GATHERING, UpstreamBatchState.GROUPED, UpstreamBatchState.UPLOADED})
BELIEVED_AFTER = 5
"""A file with lines that cannot be read is fetched so often before it is believed."""
NOT_WANTED = "not bought: its batch was cancelled, or was to end soon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds."""

    poll_s: float = 30.0
    """From one look at a running one to the next, more or less by a fifth: many must not come at once."""
    back_off_s: float = 5.0
    """After a call that failed; twice as long after each further one."""
    back_off_most_s: float = 600.0
    unseen_s: float = 300.0
    """One that was asked for, and is not in the upstream's list so long after, was never made."""
    look_s: float = 2.0
    """From one look for work to the next."""


class Course:
    """Belongs to one event loop. `may_send` says whether a registration's lease is fresh."""

    def __init__(
        self,
        database: Database,
        *,
        clouds: Mapping[Account, Cloud],
        credentials: Credentials,
        harvest: Harvest,
        may_send: Callable[[UUID], bool],
        pace: Pace,
    ) -> None:
        self._database = database
        self._clouds = clouds
        self._credentials = credentials
        self._harvest = harvest
        self._may_send = may_send
        self._pace = pace
        self._steps: Mapping[UpstreamBatchState, Step] = {
            UpstreamBatchState.GATHERING: self._group,
            UpstreamBatchState.GROUPED: self._upload,
            UpstreamBatchState.UPLOADED: self._create,
            UpstreamBatchState.CREATING: self._find,
            UpstreamBatchState.RUNNING: self._poll,
            UpstreamBatchState.HARVESTING: self._take_in,
        }

    async def go_on(self, batch: UpstreamBatch) -> None:
        """As far as it can go now. Raises StoreUnavailableError."""
        current: Next = batch
        # What is bought already is fetched with a paused key, too: no balance does not keep it back.
        if batch.state in UNBOUGHT and not await self._credentials.may_try(batch.upstream, batch.credential):
            current = await self._with_another_key(batch)
        while current is not None:
            current = await self._step(current)

    async def _with_another_key(self, batch: UpstreamBatch) -> Next:
        """Its key is paused: another one's account takes it, from the upload on. Where none works, it waits."""
        other = self._credentials.working(batch.upstream)
        if other is None or (batch.upstream, other) not in self._clouds:
            return await self._wait(batch, self._pace.poll_s)
        return await self._commit(batch, state=UpstreamBatchState.GROUPED, credential=other, file_id=None)

    async def _step(self, batch: UpstreamBatch) -> Next:
        try:
            return await self._steps[batch.state](batch, self._clouds[batch.upstream, batch.credential])
        except UpstreamError as error:
            return await self._heed(batch, error)

    async def _group(self, batch: UpstreamBatch, _: Cloud) -> Next:
        """Whoever filled it is gone, and nobody goes on with that."""
        return await self._commit(batch, state=UpstreamBatchState.GROUPED)

    async def _upload(self, batch: UpstreamBatch, cloud: Cloud) -> Next:
        if not self._wanted(batch):
            return await self._give_up(batch, NOT_WANTED)
        if batch.paused:
            return await self._wait(batch, self._pace.poll_s)
        with files.folder() as folder:
            path = folder / "input.jsonl"
            if not await files.write_input(self._database, batch.id, path, model=batch.upstream_model):
                return await self._give_up(batch, NOT_WANTED)
            file_id = await cloud.upload(path, name=f"tollgate-{batch.id}.jsonl")
        return await self._commit(batch, state=UpstreamBatchState.UPLOADED, file_id=file_id)

    async def _create(self, batch: UpstreamBatch, cloud: Cloud) -> Next:
        if not self._wanted(batch):
            return await self._give_up(batch, NOT_WANTED)
        if batch.paused:
            return await self._wait(batch, self._pace.poll_s)
        asked = await self._commit(batch, state=UpstreamBatchState.CREATING, asked_at=datetime.now(UTC))
        if asked is None or batch.file_id is None:
            return None
        if not self._may_send(batch.worker_id):
            return None  # somebody else may look after it by now: it is found as it stands
        try:
            seen = await cloud.create(batch.file_id, mark=batch.id.hex)
        except UpstreamError as error:
            return await self._not_created(asked, error)
        return await self._is_running(asked, seen)

    async def _not_created(self, asked: UpstreamBatch, error: UpstreamError) -> Next:
        """Refused, it may be asked for again; else it may be there."""
        if judge(error).action in (Action.RETRY, Action.PAUSE, Action.FAIL):
            before = await self._commit(asked, state=UpstreamBatchState.UPLOADED)
            return None if before is None else await self._heed(before, error)
        return await self._heed(asked, error)

    async def _find(self, batch: UpstreamBatch, cloud: Cloud) -> Next:
        """Whether it was created, by whoever asked for it."""
        asked_at = batch.asked_at or batch.created_at
        seen = await cloud.find(mark=batch.id.hex, file_id=batch.file_id or "", since=asked_at)
        if seen is not None:
            return await self._is_running(batch, seen)
        if datetime.now(UTC) - asked_at < timedelta(seconds=self._pace.unseen_s):
            return await self._wait(batch, min(self._pace.poll_s, self._pace.unseen_s))
        return await self._commit(batch, state=UpstreamBatchState.UPLOADED)

    async def _is_running(self, batch: UpstreamBatch, seen: Seen) -> Next:
        running = await self._commit(
            batch, state=UpstreamBatchState.RUNNING, upstream_id=seen.id, running_at=datetime.now(UTC), failures=0
        )
        log.info("upstream batch runs", extra={"upstream_batch_id": str(batch.id), "upstream_id": seen.id})
        if running is not None:
            await self._credentials.heed_seldom(batch.upstream, batch.credential)
        return None if running is None else await self._wait(running, self._pace.poll_s)

    async def _poll(self, batch: UpstreamBatch, cloud: Cloud) -> Next:
        seen = await cloud.retrieve(batch.upstream_id or "")
        if seen.ended:
            log.info("upstream batch ended", extra={"upstream_batch_id": str(batch.id), "status": seen.status})
            return await self._commit(
                batch,
                state=UpstreamBatchState.HARVESTING,
                output_file_id=seen.output_file_id,
                error_file_id=seen.error_file_id,
                error=seen.error,
                failures=0,
            )
        if not self._wanted(batch) and seen.status != "cancelling":
            await cloud.cancel(seen.id)
        told = {} if seen.completed is None else {"succeeded": seen.completed}
        return await self._wait(batch, self._pace.poll_s, failures=0, **told)

    async def _take_in(self, batch: UpstreamBatch, cloud: Cloud) -> Next:
        with files.folder() as folder:
            paths: list[Path] = []
            for file_id in (batch.output_file_id, batch.error_file_id):
                if file_id is not None:
                    paths.append(folder / f"{len(paths)}.jsonl")
                    await cloud.download(file_id, paths[-1])
            await self._harvest.take_in(batch.id, paths, believe=batch.failures >= BELIEVED_AFTER)
        return await self._end(batch)

    async def _give_up(self, batch: UpstreamBatch, why: str) -> Next:
        """Nothing of it was bought."""
        await self._harvest.let_go(batch.id)
        return await self._end(batch, error=why)

    async def _end(self, batch: UpstreamBatch, *, error: str | None = None) -> Next:
        async with self._database.write() as connection:
            await upstream_batches.end(connection, batch, now=datetime.now(UTC), error=error)
        return None

    def _wanted(self, batch: UpstreamBatch) -> bool:
        soon = near_end(batch.expires_at, window_s=batch.window_s, now=datetime.now(UTC))
        return batch.batch_state is BatchState.IN_PROGRESS and not soon

    async def _heed(self, batch: UpstreamBatch, error: UpstreamError) -> Next:
        """A call failed: wait, longer each time; or let the lines go, where it will not be otherwise."""
        verdict = judge(error)
        log.warning(
            "upstream batch waits",
            extra={"upstream_batch_id": str(batch.id), "state": batch.state, "error": str(error), "code": error.code},
        )
        if verdict.action is Action.PAUSE:
            named = verdict.reason if error.code is None else f"{verdict.reason} ({error.code})"
            await self._credentials.heed_seldom(batch.upstream, batch.credential, pause_reason=f"{named}: {error}")
        if verdict.action is Action.FAIL and batch.state in UNBOUGHT:
            return await self._give_up(batch, str(error))
        if batch.state is UpstreamBatchState.RUNNING and datetime.now(UTC) > batch.expires_at + LOST_AFTER:
            return await self._end(batch, error=f"it never ended: {error}")
        wait_s = min(self._pace.back_off_s * 2 ** min(batch.failures, 10), self._pace.back_off_most_s)
        return await self._wait(batch, wait_s, failures=batch.failures + 1, error=str(error))

    async def _wait(self, batch: UpstreamBatch, seconds: float, **values: Any) -> Next:
        jittered = timedelta(seconds=seconds * random.uniform(0.8, 1.2))
        await self._commit(batch, next_at=datetime.now(UTC) + jittered, **values)
        return None

    async def _commit(self, batch: UpstreamBatch, **values: Any) -> Next:
        """The batch with `values`, committed; None: it is somebody else's."""
        async with self._database.write() as connection:
            if not await upstream_batches.step(connection, batch, **values):
                return None
        known = {name: value for name, value in values.items() if name in UpstreamBatch.__dataclass_fields__}
        return replace(batch, **known)
