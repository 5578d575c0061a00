"""Puts the waiting lines of a batch into upstream batches: a thousand in one transaction, in the order of the input.

A line that waits to be bought so is due at its deadline only (`domain.admission`). Here it gets its reservation, at
the batch price, and its attempt: the purchase is on record before anything is sent. `batches.grouped_lines` says up to
which line all stand in one; the batch's row is locked meanwhile, so that one worker at a time does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import BatchState, Via
from tollgate.domain.ids import new_id
from tollgate.domain.prices import PriceTable, worst_case_nano
from tollgate.domain.states import AttemptOutcome
from tollgate.domain.upstream_batches import BYTES_MAX, LINES_MAX, UpstreamBatchState, input_line, near_end
from tollgate.store import dispatch, rows
from tollgate.store.claims import upstream_request_id
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import QUEUED, attempts, batches, task_requests, tasks, upstream_batches

AT_ONCE = 1_000
STANDS: sa.ColumnElement[bool] = sa.literal_column("NOT tasks.superseded", sa.Boolean)
LINE = (
    "id", "line", "fence", "attempt", "route", "prompt_tokens_estimate", "max_tokens", "assumed_max_tokens",
)  # fmt: skip
BATCH = ("id", "expires_at", "window_s", "grouped_lines", "taken_lines")
PUT = rows.Given.of(tasks, "id", "upstream_batch_id")
ATTEMPTS = rows.Given.of(
    attempts,
    "task_id", "number", "fence", "worker_id", "upstream", "upstream_model", "mode", "request_id", "upstream_id",
    "outcome", "tries", "started_at", "price_id", "possible_cost_nano", "possible_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyer:
    """Who gathers, and with what."""

    worker_id: UUID
    credentials: Mapping[str, str]
    """Upstream -> the key to buy with, of those that can be used now."""
    open_max: int
    """Upstream batches of one upstream that are open at once."""
    lines_max: int = LINES_MAX
    bytes_max: int = BYTES_MAX


@dataclass(slots=True, kw_only=True)
class Group:
    """An upstream batch that is being filled."""

    id: UUID
    upstream: str
    upstream_model: str
    credential: str
    lines: int
    bytes: int
    is_new: bool = False
    full: bool = False

    def has_room(self, size: int, buyer: Buyer) -> bool:
        return self.lines < buyer.lines_max and self.bytes + size <= buyer.bytes_max


@dataclass(slots=True, kw_only=True)
class Round:
    """What one transaction puts where."""

    groups: list[Group]
    open: dict[str, int]
    """Upstream -> upstream batches open there."""
    put: list[tuple[Any, Group]] = field(default_factory=list)
    stopped: bool = False
    """The next line stays behind."""
    enough: bool = False
    """So many are open that no further one is begun: what is filled so far goes as it is."""


async def waiting(connection: ReadConnection) -> list[UUID]:
    """Batches with lines to be put into upstream batches: all of their input is known."""
    statement = (
        sa.select(batches.c.id)
        .where(
            batches.c.ended_at.is_(None),
            batches.c.state == BatchState.IN_PROGRESS,
            batches.c.via == Via.UPSTREAM_BATCH,
            batches.c.paused_at.is_(None),
            batches.c.grouped_lines < batches.c.taken_lines,
        )
        .order_by(batches.c.id)
    )
    return list((await connection.execute(statement)).scalars())


async def gather(
    connection: WriteConnection, batch_id: UUID, *, buyer: Buyer, prices: PriceTable, now: datetime
) -> bool:
    """Put up to AT_ONCE more lines of the batch into upstream batches. Whether there may be more at once."""
    batch = await _lock(connection, batch_id)
    if batch is None:
        return False
    if near_end(batch.expires_at, window_s=batch.window_s, now=now):
        return await _let_run(connection, batch, now=now)
    found = await _next_lines(connection, batch)
    planned = await _plan(connection, batch_id, found, buyer=buyer)
    ids = [row.id for row, _ in planned.put]
    refused = await dispatch.reserve(connection, ids, prices=prices, now=now, batch=True)
    await _put(connection, batch_id, planned, refused, buyer=buyer, prices=prices, now=now)
    first_left = _first_left(found, planned, refused)
    if first_left is not None:
        await _advance(connection, batch.id, to=first_left - 1)
        return False
    if len(found) == AT_ONCE and found[-1].line < batch.taken_lines:
        await _advance(connection, batch.id, to=found[-1].line)
        return True
    # With the last line, not after it: nobody looks for more of this batch any more.
    await _close(connection, [group.id for group in planned.groups], now=now)
    await _advance(connection, batch.id, to=batch.taken_lines)
    return False


async def _lock(connection: WriteConnection, batch_id: UUID) -> Any:
    """None: another worker is at it, or it is not to be gone on with."""
    statement = (
        sa.select(*(batches.c[name] for name in BATCH))
        .where(
            batches.c.id == batch_id,
            batches.c.state == BatchState.IN_PROGRESS,
            batches.c.paused_at.is_(None),
        )
        .with_for_update(key_share=True, skip_locked=True)
    )
    return (await connection.execute(statement)).first()


async def _next_lines(connection: WriteConnection, batch: Any) -> Sequence[Any]:
    """Those that wait for an upstream batch, with their bodies."""
    statement = (
        sa.select(*(tasks.c[name] for name in LINE), task_requests.c.body)
        .join(task_requests, task_requests.c.task_id == tasks.c.id)
        .where(*_waits(batch))
        .order_by(tasks.c.line)
        .limit(AT_ONCE)
        .with_for_update(of=tasks)
    )
    return (await connection.execute(statement)).all()


def _waits(batch: Any) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        STANDS,
        tasks.c.batch_id == batch.id,
        tasks.c.line > batch.grouped_lines,
        (tasks.c.state + "") == QUEUED,
        tasks.c.upstream_batch_id.is_(None),
        tasks.c.not_before >= tasks.c.deadline,
    )


async def _let_run(connection: WriteConnection, batch: Any, *, now: datetime) -> bool:
    """The window is nearly over: lines that still wait run by themselves."""
    chosen = sa.select(tasks.c.id, tasks.c.line).where(*_waits(batch)).order_by(tasks.c.line).limit(AT_ONCE)
    found = (await connection.execute(chosen.with_for_update())).all()
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(row.id,) for row in found])
    await connection.execute(sa.update(tasks).where(tasks.c.id.in_(sa.select(given.c.id))).values(not_before=now))
    await _advance(connection, batch.id, to=found[-1].line if found else batch.taken_lines)
    await _close(connection, [group.id for group in await _gathering(connection, batch.id)], now=now)
    return bool(found)


async def _advance(connection: WriteConnection, batch_id: UUID, *, to: int) -> None:
    await connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(grouped_lines=to))


async def _plan(connection: ReadConnection, batch_id: UUID, found: Sequence[Any], *, buyer: Buyer) -> Round:
    """Which line goes where: up to the first for which there is no room now."""
    planned = Round(groups=await _gathering(connection, batch_id), open=await _open(connection))
    for row in found:
        size = len(input_line(upstream_request_id(row.id, row.attempt), row.body, model=row.route.partition("/")[2]))
        group = _group_for(planned, row.route, size, buyer)
        if group is None:
            planned.stopped = True
            break
        group.lines, group.bytes = group.lines + 1, group.bytes + size
        planned.put.append((row, group))
    return planned


def _group_for(planned: Round, route: str, size: int, buyer: Buyer) -> Group | None:
    """The one that is being filled, or a new one where that is full; None: no key works, or enough are open."""
    upstream, _, model = route.partition("/")
    credential = buyer.credentials.get(upstream)
    if credential is None:
        return None
    for group in planned.groups:
        if (group.upstream, group.upstream_model) == (upstream, model) and not group.full:
            if group.credential == credential and group.has_room(size, buyer):
                return group
            group.full = True
    if planned.open.get(upstream, 0) >= buyer.open_max:
        planned.enough = True
        return None
    planned.open[upstream] = planned.open.get(upstream, 0) + 1
    made = Group(
        id=new_id(), upstream=upstream, upstream_model=model, credential=credential, lines=0, bytes=0, is_new=True
    )
    planned.groups.append(made)
    return made


def _first_left(found: Sequence[Any], planned: Round, refused: set[UUID]) -> int | None:
    """The first line that stays behind; None: all were put somewhere."""
    left = [row.line for row, _ in planned.put if row.id in refused]
    if planned.stopped:
        left.append(found[len(planned.put)].line)
    return min(left, default=None)


async def _gathering(connection: ReadConnection, batch_id: UUID) -> list[Group]:
    names = ("id", "upstream", "upstream_model", "credential", "lines", "bytes")
    statement = sa.select(*(upstream_batches.c[name] for name in names)).where(
        upstream_batches.c.batch_id == batch_id, upstream_batches.c.state == UpstreamBatchState.GATHERING
    )
    return [Group(**row._mapping) for row in (await connection.execute(statement)).all()]


async def _open(connection: ReadConnection) -> dict[str, int]:
    statement = (
        sa.select(upstream_batches.c.upstream, sa.func.count())
        .where(upstream_batches.c.ended_at.is_(None))
        .group_by(upstream_batches.c.upstream)
    )
    return {row[0]: row[1] for row in (await connection.execute(statement)).all()}


async def _put(
    connection: WriteConnection,
    batch_id: UUID,
    planned: Round,
    refused: set[UUID],
    *,
    buyer: Buyer,
    prices: PriceTable,
    now: datetime,
) -> None:
    """Write the groups, the lines' places in them, and their attempts. What has no room for more is closed."""
    put = [(row, group) for row, group in planned.put if row.id not in refused]
    for row, group in planned.put:
        if row.id in refused:
            group.lines -= 1
    closing = planned.enough or bool(refused)
    for group in planned.groups:
        if not group.is_new or group.lines:
            await _write(connection, batch_id, group, full=group.full or closing, worker_id=buyer.worker_id, now=now)
    if put:
        values = [_attempt(row, group, buyer=buyer, prices=prices, now=now) for row, group in put]
        await rows.execute(connection, _opening, ATTEMPTS, values)
        await rows.execute(connection, _putting, PUT, [(row.id, group.id) for row, group in put])


async def _write(
    connection: WriteConnection, batch_id: UUID, group: Group, *, full: bool, worker_id: UUID, now: datetime
) -> None:
    state = UpstreamBatchState.GROUPED if full else UpstreamBatchState.GATHERING
    told = {"state": state, "worker_id": worker_id, "lines": group.lines, "bytes": group.bytes, "next_at": now}
    if group.is_new:
        await connection.execute(
            sa.insert(upstream_batches).values(
                id=group.id,
                batch_id=batch_id,
                upstream=group.upstream,
                upstream_model=group.upstream_model,
                credential=group.credential,
                created_at=now,
                **told,
            )
        )
    else:
        await connection.execute(sa.update(upstream_batches).where(upstream_batches.c.id == group.id).values(**told))


async def _close(connection: WriteConnection, ids: Sequence[UUID], *, now: datetime) -> None:
    """No more lines will come: they go as they are."""
    await connection.execute(
        sa.update(upstream_batches)
        .where(upstream_batches.c.id.in_(ids), upstream_batches.c.state == UpstreamBatchState.GATHERING)
        .values(state=UpstreamBatchState.GROUPED, next_at=now)
    )


def _attempt(row: Any, group: Group, *, buyer: Buyer, prices: PriceTable, now: datetime) -> tuple[Any, ...]:
    """The columns of ATTEMPTS. It has its upstream id from the beginning: whoever ends the task meanwhile cannot take
    it for never sent."""
    named = upstream_request_id(row.id, row.attempt)
    completion = row.assumed_max_tokens if row.max_tokens is None else row.max_tokens
    price = prices.find(group.upstream, group.upstream_model, at=now)
    possible = price and worst_case_nano(
        price, prompt_tokens=row.prompt_tokens_estimate, completion_tokens=completion, batch=True
    )
    return (
        row.id, row.attempt, row.fence, buyer.worker_id, group.upstream, group.upstream_model, "batch", named, named,
        AttemptOutcome.OPEN, 1, now, price.id if price else None, possible,
        row.prompt_tokens_estimate + completion,
    )  # fmt: skip


def _opening(dialect: str) -> rows.Statement:
    return ATTEMPTS.insert(dialect, attempts)


def _putting(dialect: str) -> rows.Statement:
    given = PUT.table(dialect)
    return sa.update(tasks).where(tasks.c.id == given.c.id).values(upstream_batch_id=given.c.upstream_batch_id)
