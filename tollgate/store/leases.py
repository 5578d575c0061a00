"""Workers and their leases: registration, heartbeats, and what a dead worker leaves behind.

A lease is its worker's: one row in `workers`, not one a task. `heartbeat` is a counter. Who watches
compares its values over time on the watcher's own clock; no clocks of two machines are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import orjson
import sqlalchemy as sa

from tollgate.domain.states import OnUncertain
from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import RUNNING, attempts, tasks, workers

SETTLED_WITHIN_S = 10.0


class RouteLoad(NamedTuple):
    """What a worker says of a route with each heartbeat."""

    settled: int
    """Calls that ended in the last SETTLED_WITHIN_S."""
    free: int
    """Slots that no id waits for."""
    blocked: bool = False
    """It cannot be called: every credential that the worker has for it is paused, or it has none."""


UNMET: Mapping[str, RouteLoad] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    id: UUID
    name: str
    lanes: tuple[str, ...]
    load: Mapping[str, RouteLoad]
    """By route, as of its last heartbeat."""
    heartbeat: int
    dead: bool
    started_at: datetime
    seen_at: datetime


ORPHANED = (
    "id", "fence", "attempt", "tries", "route", "retry_until", "deadline", "on_uncertain",
    "prompt_tokens_estimate", "max_tokens", "assumed_max_tokens", "refused_attempts",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A task still under a dead worker's lease."""

    id: UUID
    fence: int
    attempt: int
    tries: int
    route: str
    mode: str
    upstream_id: str | None
    """The upstream has the call under this id: whoever claims the task next polls it."""
    unanswered: int
    """Sends of its attempt whose answer never came."""
    attempt_started_at: datetime
    retry_until: datetime
    deadline: datetime
    on_uncertain: OnUncertain
    prompt_tokens_estimate: int
    max_tokens: int | None
    assumed_max_tokens: int
    refused_attempts: int = 0
    """Of those before, such as bought nothing."""


async def register(
    connection: WriteConnection,
    worker_id: UUID,
    *,
    name: str,
    lanes: Sequence[str],
    now: datetime,
    load: Mapping[str, RouteLoad] = UNMET,
) -> None:
    await connection.execute(
        sa.insert(workers).values(
            id=worker_id,
            name=name,
            lanes=",".join(lanes),
            load=_text_of(load),
            heartbeat=1,
            dead=False,
            started_at=now,
            seen_at=now,
        )
    )


async def renew(connection: WriteConnection, worker_id: UUID, *, load: Mapping[str, RouteLoad], now: datetime) -> bool:
    """One heartbeat. False: the worker was declared dead, and holds nothing any more."""
    statement = (
        sa.update(workers)
        .where(workers.c.id == worker_id, sa.not_(workers.c.dead))
        .values(
            heartbeat=workers.c.heartbeat + 1,
            seen_at=now,
            load=_text_of(load),
        )
        .returning(workers.c.id)
    )
    return (await connection.execute(statement)).first() is not None


async def hold(connection: WriteConnection, worker_id: UUID) -> bool:
    """Keep a registration from being buried until this transaction ends. False: it has been, and may take nothing."""
    return (await connection.execute(holding(worker_id))).first() is not None


def holding(worker_id: UUID | sa.BindParameter[UUID]) -> sa.Select[tuple[UUID]]:
    """The same within another statement: the id, or no row."""
    alive = sa.select(workers.c.id).where(workers.c.id == worker_id, sa.not_(workers.c.dead))
    return alive.with_for_update(read=True)


async def cancelled_of(connection: ReadConnection, worker_id: UUID) -> list[UUID]:
    """Tasks this worker runs whose cancelling was asked."""
    statement = sa.select(tasks.c.id).where(
        tasks.c.worker_id == worker_id, tasks.c.state == RUNNING, tasks.c.cancel_requested_at.is_not(None)
    )
    return list((await connection.execute(statement)).scalars())


async def alive(connection: ReadConnection) -> list[WorkerRow]:
    """Every worker not declared dead. One that just stopped breathing is still among them."""
    found = (await connection.execute(sa.select(workers).where(sa.not_(workers.c.dead)).order_by(workers.c.id))).all()
    return [
        WorkerRow(**{**row._mapping, "lanes": tuple(row.lanes.split(",")), "load": _load(row.load)}) for row in found
    ]


def _text_of(load: Mapping[str, RouteLoad]) -> str:
    return orjson.dumps({route: list(one) for route, one in load.items()}).decode()


def _load(text: str) -> dict[str, RouteLoad]:
    return {route: RouteLoad(*one) for route, one in orjson.loads(text).items()}


async def bury(connection: WriteConnection, worker_id: UUID, *, heartbeat: int | None = None) -> bool:
    """Declare a worker dead, if `heartbeat` (when given) is still its last. Its leases go with it."""
    statement = sa.update(workers).where(workers.c.id == worker_id, sa.not_(workers.c.dead))
    if heartbeat is not None:
        statement = statement.where(workers.c.heartbeat == heartbeat)
    return (await connection.execute(statement.values(dead=True).returning(workers.c.id))).first() is not None


async def orphans(connection: ReadConnection, *, limit: int, without: Collection[UUID] = ()) -> list[Orphan]:
    """Running tasks whose worker is dead, oldest first; not those of `without`."""
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in without])
    statement = (
        sa.select(
            *(tasks.c[name] for name in ORPHANED),
            *(attempts.c[name] for name in ("mode", "upstream_id", "unanswered", "started_at")),
        )
        .join(workers, workers.c.id == tasks.c.worker_id)
        .join(attempts, sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == tasks.c.attempt))
        .where(tasks.c.state == RUNNING, workers.c.dead, tasks.c.id.not_in(sa.select(given.c.id)))
        .order_by(tasks.c.id)
        .limit(limit)
    )
    return [
        Orphan(
            **{name: getattr(row, name) for name in ORPHANED if name != "on_uncertain"},
            on_uncertain=OnUncertain(row.on_uncertain),
            mode=row.mode,
            upstream_id=row.upstream_id,
            unanswered=row.unanswered,
            attempt_started_at=row.started_at,
        )
        for row in (await connection.execute(statement)).all()
    ]


async def forget_dead(connection: WriteConnection, *, seen_before: datetime) -> int:
    """Delete the rows of workers that died, were last seen before then and hold nothing. Returns how many.

    `seen_at` is of their own clocks; what is long dead may be forgotten an hour early or late."""
    holds = sa.exists().where(tasks.c.worker_id == workers.c.id, tasks.c.state == RUNNING)
    statement = sa.delete(workers).where(workers.c.dead, workers.c.seen_at < seen_before, sa.not_(holds))
    return (await connection.execute(statement)).rowcount
