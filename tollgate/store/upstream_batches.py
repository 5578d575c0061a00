"""Upstream batches: who looks after each, and its steps. Every step is one UPDATE, guarded by the state and the worker.

A worker that dies is followed by any other that has the same key. `upstream_gathering` puts lines into them,
`upstream_lines` has what is sent, and what came of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import BatchState
from tollgate.domain.upstream_batches import UpstreamBatchState
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import batches, tasks, upstream_batches, workers

OWN = (
    "id", "batch_id", "upstream", "upstream_model", "credential", "state", "worker_id", "lines", "file_id",
    "upstream_id", "output_file_id", "error_file_id", "failures", "created_at", "asked_at",
)  # fmt: skip
KEPT_ERROR = 1_000
"""Characters of an upstream's words."""

Account = tuple[str, str]
"""An upstream, and the name of the key to its account there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamBatch:
    """One upstream batch under a worker's care, and how the batch stands that it is a part of."""

    id: UUID
    batch_id: UUID
    upstream: str
    upstream_model: str
    credential: str
    state: UpstreamBatchState
    worker_id: UUID
    lines: int
    file_id: str | None
    upstream_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    failures: int
    created_at: datetime
    asked_at: datetime | None
    batch_state: BatchState
    paused: bool
    expires_at: datetime
    window_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """One upstream batch, for whoever looks how a batch goes."""

    id: UUID
    upstream: str
    upstream_model: str
    credential: str
    worker_id: UUID | None
    state: UpstreamBatchState
    lines: int
    succeeded: int
    """As the upstream told when it was asked last; of one that ended, those that were answered."""
    upstream_id: str | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None
    next_at: datetime


SHOWN = tuple(f.name for f in fields(Bought))


async def take(
    connection: WriteConnection,
    *,
    worker_id: UUID,
    accounts: Collection[Account],
    now: datetime,
    without: Collection[UUID],
    limit: int,
) -> list[UpstreamBatch]:
    """Those of these accounts that are due and that nobody alive looks after; now this worker's, until `next_at` is
    set anew. Not those of `without`."""
    if not accounts:
        return []
    of_accounts = sa.or_(
        *(sa.and_(upstream_batches.c.upstream == u, upstream_batches.c.credential == c) for u, c in sorted(accounts))
    )
    alive = sa.exists().where(workers.c.id == upstream_batches.c.worker_id, sa.not_(workers.c.dead))
    mine = upstream_batches.c.worker_id == worker_id
    # While lines are put into it, whoever does that looks after it; unless nobody will any more.
    left = sa.exists().where(batches.c.id == upstream_batches.c.batch_id, batches.c.state != BatchState.IN_PROGRESS)
    free = (
        sa.select(upstream_batches.c.id)
        .where(
            upstream_batches.c.ended_at.is_(None),
            upstream_batches.c.next_at <= now,
            of_accounts,
            sa.or_(mine, upstream_batches.c.worker_id.is_(None), sa.not_(alive)),
            sa.or_(upstream_batches.c.state != UpstreamBatchState.GATHERING, left),
            upstream_batches.c.id.not_in(sorted(without)),
        )
        .order_by(upstream_batches.c.next_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    statement = (
        sa.update(upstream_batches)
        .where(upstream_batches.c.id.in_(sa.select(free.c.id)))
        .values(worker_id=worker_id)
        .returning(upstream_batches.c.id)
    )
    ids = list((await connection.execute(statement)).scalars())
    return await read(connection, ids)


async def read(connection: ReadConnection, ids: Sequence[UUID]) -> list[UpstreamBatch]:
    if not ids:
        return []
    statement = (
        sa.select(
            *(upstream_batches.c[name] for name in OWN),
            batches.c.state.label("batch_state"),
            batches.c.paused_at.is_not(None).label("paused"),
            batches.c.expires_at,
            batches.c.window_s,
        )
        .join(batches, batches.c.id == upstream_batches.c.batch_id)
        .where(upstream_batches.c.id.in_(sorted(ids)))
        .order_by(upstream_batches.c.id)
    )
    return [_upstream_batch(row) for row in (await connection.execute(statement)).all()]


def _upstream_batch(row: Any) -> UpstreamBatch:
    told = dict(row._mapping)
    told["state"], told["batch_state"] = UpstreamBatchState(row.state), BatchState(row.batch_state)
    return UpstreamBatch(**{**told, "paused": bool(row.paused)})


async def step(connection: WriteConnection, batch: UpstreamBatch, **values: Any) -> bool:
    """Write the next step of one that stands as `batch` says. False: it is somebody else's by now."""
    if isinstance(error := values.get("error"), str):
        values["error"] = error.replace("\0", "")[:KEPT_ERROR]
    statement = (
        sa.update(upstream_batches)
        .where(
            upstream_batches.c.id == batch.id,
            upstream_batches.c.state == batch.state,
            upstream_batches.c.worker_id == batch.worker_id,
        )
        .values(**values)
        .returning(upstream_batches.c.id)
    )
    return (await connection.execute(statement)).first() is not None


async def postpone(connection: WriteConnection, batch: UpstreamBatch, *, until: datetime) -> None:
    """Look at it again then, wherever it stands."""
    await connection.execute(
        sa.update(upstream_batches)
        .where(upstream_batches.c.id == batch.id, upstream_batches.c.worker_id == batch.worker_id)
        .values(next_at=until)
    )


async def end(connection: WriteConnection, batch: UpstreamBatch, *, now: datetime, error: str | None = None) -> bool:
    """Each of its lines is settled: count those that were answered."""
    answered = sa.select(sa.func.count()).where(tasks.c.upstream_batch_id == batch.id, tasks.c.state == "succeeded")
    return await step(
        connection,
        batch,
        state=UpstreamBatchState.ENDED,
        ended_at=now,
        succeeded=answered.scalar_subquery(),
        **({} if error is None else {"error": error}),
    )


async def of_batch(connection: ReadConnection, batch_id: UUID) -> list[Bought]:
    """All that a batch's lines stood in, the first one first."""
    statement = (
        sa.select(*(upstream_batches.c[name] for name in SHOWN))
        .where(upstream_batches.c.batch_id == batch_id)
        .order_by(upstream_batches.c.id)
    )
    found = (await connection.execute(statement)).all()
    return [Bought(**{**row._mapping, "state": UpstreamBatchState(row.state)}) for row in found]
