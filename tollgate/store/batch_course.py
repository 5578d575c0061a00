"""How open batches go on: queued lines of a cancelled one end, failed lines are tried again, and a batch whose last
line has ended, ends. `worker.batches` goes through them every few seconds; any number may at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import NO_SUMS, BatchState, Sums
from tollgate.domain.ids import new_id
from tollgate.domain.states import TaskState
from tollgate.domain.webhooks import deliveries, ended_batch_event
from tollgate.store import batch_sums, queues, rows, webhooks
from tollgate.store import deliveries as stored_deliveries
from tollgate.store.database import ReadConnection, WriteConnection, dialect_of
from tollgate.store.schema import LINE_FAILED, RUNNING, batches, files, task_requests, tasks

AT_ONCE = 1_000
"""Lines in one transaction."""
KEPT = (
    "project_id", "key_id", "batch_id", "line", "custom_id", "digest", "label", "endpoint", "model", "route", "lane",
    "mode", "streamed", "feed", "on_uncertain", "prompt_tokens_estimate", "max_tokens", "assumed_max_tokens",
)  # fmt: skip
"""What another try of a line has in common with the first."""
RENEWED = rows.Given({"old_id": tasks.c.id.type, "new_id": tasks.c.id.type})


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenBatch:
    id: UUID
    project_id: UUID
    state: BatchState
    accepted: int
    invalid: int
    retry_asked_at: datetime | None
    callback_url: str | None
    sums: Sums

    @property
    def done(self) -> bool:
        return self.retry_asked_at is None and self.sums.ended >= self.accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedLine:
    """A line of a batch that is being cancelled."""

    id: UUID
    fence: int
    attempt: int


OPEN = ("id", "project_id", "state", "accepted", "invalid", "retry_asked_at", "callback_url")
IS_OPEN = sa.and_(batches.c.ended_at.is_(None), batches.c.state != BatchState.VALIDATING)


async def open_batches(connection: ReadConnection) -> list[OpenBatch]:
    """Those whose lines are all known: in progress, or being cancelled."""
    return await _open(connection, sa.select(*(batches.c[name] for name in OPEN)).where(IS_OPEN))


async def _open(connection: ReadConnection, statement: sa.Select[Any]) -> list[OpenBatch]:
    found = (await connection.execute(statement)).all()
    sums = await batch_sums.read(connection, [row.id for row in found])
    return [
        OpenBatch(**{**row._mapping, "state": BatchState(row.state)}, sums=sums.get(row.id, NO_SUMS)) for row in found
    ]


async def stop_running(connection: WriteConnection, batch_id: UUID, *, now: datetime) -> None:
    """Ask workers to end its lines that run, and that they were not asked for yet."""
    running = (
        sa.select(tasks.c.id)
        .where(tasks.c.state == RUNNING, tasks.c.worker_id.is_not(None), tasks.c.batch_id == batch_id)
        .where(tasks.c.cancel_requested_at.is_(None))
        .order_by(tasks.c.id)
        .with_for_update()
        .cte("running")
    )
    asking = sa.update(tasks).where(tasks.c.id.in_(sa.select(running.c.id)), tasks.c.worker_id.is_not(None))
    await connection.execute(asking.values(cancel_requested_at=now))


async def queued(
    connection: ReadConnection, batch_id: UUID, *, limit: int = AT_ONCE, without: Collection[UUID] = ()
) -> list[QueuedLine]:
    """Not those of `without`, nor those in an upstream batch: it is stopped first, for what it has answered by then was
    paid."""
    aside = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in without])
    found: list[QueuedLine] = []
    for queue in await queues.read(connection):
        statement = (
            sa.select(tasks.c.id, tasks.c.fence, tasks.c.attempt)
            .where(*queue.waiting, tasks.c.feed == batch_id, tasks.c.id.not_in(sa.select(aside.c.id)))
            .where(tasks.c.upstream_batch_id.is_(None))
            # The order of their index, and of no other.
            .order_by(tasks.c.not_before)
            .limit(limit - len(found))
        )
        found += [QueuedLine(**row._mapping) for row in (await connection.execute(statement)).all()]
    return found


async def try_again(connection: WriteConnection, batch_id: UUID, *, before: datetime, now: datetime) -> bool:
    """Queue up to AT_ONCE of the lines anew that ended without an answer before `before`. False: there are no more, or
    somebody asked for something else meanwhile.

    Each becomes another task of its line; the one that failed is superseded, and keeps what it cost."""
    if not await _hold_retried(connection, batch_id, asked_at=before):
        return False
    found = await _failed(connection, batch_id, before=before)
    if found:
        await _renew(connection, batch_id, found, now=now)
    else:
        await connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(retry_asked_at=None))
    return bool(found)


async def _hold_retried(connection: WriteConnection, batch_id: UUID, *, asked_at: datetime) -> bool:
    """Nobody ends or cancels it until these lines are committed, and nobody else tries them again."""
    statement = (
        sa.select(batches.c.id)
        .where(batches.c.id == batch_id, batches.c.retry_asked_at == asked_at, IS_OPEN)
        .with_for_update(key_share=True)
    )
    return (await connection.execute(statement)).first() is not None


async def _failed(connection: ReadConnection, batch_id: UUID, *, before: datetime) -> Sequence[Any]:
    statement = (
        sa.select(tasks.c.id, tasks.c.state)
        # Those whose prompts were erased, or are at this moment, stay as they are.
        .join(task_requests, task_requests.c.task_id == tasks.c.id)
        .where(LINE_FAILED, tasks.c.batch_id == batch_id, tasks.c.ended_at <= before)
        .order_by(tasks.c.line)
        .limit(AT_ONCE)
        .with_for_update(read=True, of=task_requests, skip_locked=True)
    )
    return (await connection.execute(statement)).all()


async def _renew(connection: WriteConnection, batch_id: UUID, found: Sequence[Any], *, now: datetime) -> None:
    pairs = [(row.id, new_id()) for row in found]
    dialect = dialect_of(connection)
    given, bound = RENEWED.table(dialect), RENEWED.bind(dialect, pairs)
    old = tasks.alias("old")
    renewed = sa.select(
        given.c.new_id,
        *(old.c[name] for name in KEPT),
        sa.literal(TaskState.QUEUED, sa.String(16)),
        batches.c.expires_at,
        batches.c.expires_at,
        *(sa.literal(now, tasks.c.created_at.type) for _ in range(2)),
    ).where(old.c.id == given.c.old_id, batches.c.id == old.c.batch_id)
    bodies = sa.select(given.c.new_id, task_requests.c.body, task_requests.c.metadata).where(
        task_requests.c.task_id == given.c.old_id
    )
    await connection.execute(
        sa.update(tasks).where(tasks.c.id.in_(sa.select(given.c.old_id))).values(superseded=True), bound
    )
    columns = ["id", *KEPT, "state", "deadline", "retry_until", "not_before", "created_at"]
    await connection.execute(sa.insert(tasks).from_select(columns, renewed), bound)
    await connection.execute(sa.insert(task_requests).from_select(["task_id", "body", "metadata"], bodies), bound)
    states = [TaskState(row.state) for row in found]
    await rows.execute_together(connection, batch_sums.superseding(batch_id, states))


async def end(connection: WriteConnection, batch_id: UUID, *, now: datetime) -> BatchState | None:
    """End a batch that is done, with the views of its results and whoever is to be told. None: it is not, or somebody
    else did."""
    batch = await _hold(connection, batch_id)
    if batch is None or not batch.done:
        return None
    state = _end_of(batch)
    views = {
        "output": new_id() if batch.sums.tasks_succeeded else None,
        "error": new_id() if batch.sums.tasks_failed or batch.invalid else None,
    }
    ended = {
        "state": state, "ended_at": now, "paused_at": None, "paused_code": None, "paused_why": None,
        **{f"{kind}_file_id": view_id for kind, view_id in views.items()},
    }  # fmt: skip
    await connection.execute(sa.update(batches).where(batches.c.id == batch.id).values(ended))
    await _keep_views(connection, batch, views, now=now)
    await tell(connection, batch.id, batch.project_id, state, callback_url=batch.callback_url, now=now)
    return state


async def _hold(connection: WriteConnection, batch_id: UUID) -> OpenBatch | None:
    """As it stands now: a retry may have been asked for since it was seen. Locked, its sums are read after."""
    statement = sa.select(*(batches.c[name] for name in OPEN)).where(IS_OPEN, batches.c.id == batch_id)
    return next(iter(await _open(connection, statement.with_for_update(key_share=True))), None)


def _end_of(batch: OpenBatch) -> BatchState:
    if batch.state is BatchState.CANCELLING:
        return BatchState.CANCELLED
    return BatchState.EXPIRED if batch.sums.tasks_expired else BatchState.COMPLETED


async def _keep_views(
    connection: WriteConnection, batch: OpenBatch, views: dict[str, UUID | None], *, now: datetime
) -> None:
    """Earlier ones, of before a retry, go: they would show the same."""
    await connection.execute(sa.delete(files).where(files.c.batch_id == batch.id))
    columns = ("id", "project_id", "filename", "purpose", "bytes", "batch_id", "created_at")
    values = [
        (view_id, batch.project_id, f"{batch.id}_{kind}.jsonl", "batch_output", 0, batch.id, now)
        for kind, view_id in views.items()
        if view_id is not None
    ]
    if values:
        await connection.execute(rows.insert(connection, files, columns, values))


async def tell(
    connection: WriteConnection,
    batch_id: UUID,
    project_id: UUID,
    state: BatchState,
    *,
    callback_url: str | None,
    now: datetime,
) -> None:
    """Write the deliveries that tell of a batch's end."""
    listening = await webhooks.listening(connection, {project_id})
    new = deliveries(
        ended_batch_event(state),
        project_id=project_id,
        now=now,
        callback_url=callback_url,
        endpoints=listening.get(project_id, ()),
        batch_id=batch_id,
    )
    await rows.execute_together(connection, stored_deliveries.written(list(new)))
