"""Writes what became of leases: task, attempt, result and accounts in one transaction, many at once.

The rows are locked in id order, `domain.settling` decides by what stands there, and every change is
guarded by what was read. The same function serves a worker's answers, rescued leases, cancels of queued
tasks and expiries.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import astuple, fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.settling import (
    NO_COUNTS,
    AttemptRow,
    Bill,
    Booking,
    Counts,
    Resolution,
    Settlement,
    TaskRow,
    resolve,
)
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import rows
from tollgate.store.database import WriteConnection
from tollgate.store.schema import USAGE_KEY, attempts, task_results, tasks, usage_hourly

SHARDS = 16
"""Rows an hour's account is spread over, so that settling workers do not queue up for one."""
CODE_LENGTH = 64
"""The column's."""
MESSAGE_LENGTH = 4_000
"""Enough to see what an upstream meant; some send a page of HTML."""
BILL = tuple(field.name for field in fields(Bill))
COUNTS = tuple(field.name for field in fields(Counts))


async def settle(
    connection: WriteConnection, settlements: Sequence[Settlement], *, now: datetime, shard: int = 0
) -> list[Resolution]:
    """Apply each settlement as far as it still may. One resolution each, in order.

    Of several for one task the later are decided by what the former left. `shard` is the settler's own, 0 to 15."""
    resolutions: dict[int, Resolution] = {}
    for positions in _rounds(settlements):
        settled = await _settle_round(connection, [storable(settlements[i]) for i in positions], now)
        resolutions.update(zip(positions, settled, strict=True))
    # Booked once, at the end: the roll-up's rows are taken in one order in the whole transaction.
    await _book(connection, [b for r in resolutions.values() for b in r.bookings], shard % SHARDS)
    return [resolutions[i] for i in range(len(settlements))]


def _rounds(settlements: Sequence[Settlement]) -> list[list[int]]:
    """Positions, in groups that name no task twice."""
    rounds: list[list[int]] = []
    met: Counter[UUID] = Counter()
    for position, settlement in enumerate(settlements):
        if met[settlement.task_id] == len(rounds):
            rounds.append([])
        rounds[met[settlement.task_id]].append(position)
        met[settlement.task_id] += 1
    return rounds


def storable(settlement: Settlement) -> Settlement:
    """An upstream's words about its error, as any database takes them: one that does not fit would fail the
    whole transaction, its neighbours' answers with it."""
    code, message = settlement.error_code, settlement.error_message
    return replace(
        settlement,
        error_code=None if code is None else _plain(code)[:CODE_LENGTH],
        error_message=None if message is None else _plain(message)[:MESSAGE_LENGTH],
    )


def _plain(text: str) -> str:
    """Without what PostgreSQL's text cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


async def _settle_round(
    connection: WriteConnection, settlements: Sequence[Settlement], now: datetime
) -> list[Resolution]:
    locked = await _lock_tasks(connection, [s.task_id for s in settlements])
    opened = await _read_attempts(connection, [(s.task_id, s.attempt) for s in settlements])
    resolutions = [
        resolve(s, locked[s.task_id], opened.get((s.task_id, s.attempt)), now=now)
        if s.task_id in locked
        else Resolution(settlement=s, task=False, attempt=False)
        for s in settlements
    ]
    await _close_attempts(connection, [r.settlement for r in resolutions if r.attempt], now)
    moved = [r for r in resolutions if r.task]
    await _move_tasks(connection, [r.settlement for r in moved], now)
    await _keep_results(connection, [r for r in moved if r.settlement.state.ended])
    await _abandon_newer(connection, [r.settlement.task_id for r in moved if r.late], now)
    return resolutions


async def _lock_tasks(connection: WriteConnection, ids: Sequence[UUID]) -> dict[UUID, TaskRow]:
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in sorted(ids)])
    columns = ("id", "project_id", "key_id", "model", "label", "state", "fence", "cancel_requested_at")
    statement = (
        sa.select(*(tasks.c[name] for name in columns))
        .where(tasks.c.id.in_(sa.select(given.c.id)))
        .order_by(tasks.c.id)
        .with_for_update()
    )
    found = (await connection.execute(statement)).all()
    return {
        row.id: TaskRow(
            id=row.id,
            project_id=row.project_id,
            key_id=row.key_id,
            model=row.model,
            label=row.label,
            state=TaskState(row.state),
            fence=row.fence,
            cancel_requested=row.cancel_requested_at is not None,
        )
        for row in found
    }


async def _read_attempts(
    connection: WriteConnection, keys: Sequence[tuple[UUID, int]]
) -> dict[tuple[UUID, int], AttemptRow]:
    kinds = {"task_id": attempts.c.task_id.type, "number": attempts.c.number.type}
    given = rows.table_of(connection, kinds, keys)
    statement = sa.select(
        attempts.c.task_id, attempts.c.number, attempts.c.upstream, attempts.c.outcome, attempts.c.started_at,
        attempts.c.upstream_id, *(attempts.c[name] for name in BILL),
    ).join(given, sa.and_(attempts.c.task_id == given.c.task_id, attempts.c.number == given.c.number))  # fmt: skip
    return {
        (row.task_id, row.number): AttemptRow(
            upstream=row.upstream,
            outcome=AttemptOutcome(row.outcome),
            started_at=row.started_at,
            upstream_id=row.upstream_id,
            bill=Bill(**{name: getattr(row, name) for name in BILL}),
        )
        for row in (await connection.execute(statement)).all()
    }


async def _close_attempts(connection: WriteConnection, closed: Sequence[Settlement], now: datetime) -> None:
    """Also of one that stays open: its last error is kept, for whoever looks why the task waits."""
    if not closed:
        return
    written = ("outcome", "ended_at", "http_status", "error_code", "error_message", *BILL)
    kinds: dict[str, Any] = {name: attempts.c[name].type for name in ("task_id", "number", *written)}
    values = [
        (
            s.task_id, s.attempt, s.outcome, None if s.outcome is AttemptOutcome.OPEN else now, s.http_status,
            s.error_code, s.error_message, *astuple(s.bill),
        )
        for s in closed
    ]  # fmt: skip
    given = rows.table_of(connection, kinds, values)
    statement = (
        sa.update(attempts)
        .where(
            attempts.c.task_id == given.c.task_id,
            attempts.c.number == given.c.number,
            attempts.c.outcome.in_((AttemptOutcome.OPEN, AttemptOutcome.UNCERTAIN)),
        )
        .values({name: given.c[name] for name in written})
    )
    await connection.execute(statement)


async def _move_tasks(connection: WriteConnection, moved: Sequence[Settlement], now: datetime) -> None:
    """The guarded transition: by state and fence, or a task still queued that a late answer ends."""
    if not moved:
        return
    names = ("state", "attempt", "ended_at", "not_before", "announced_at")
    kinds: dict[str, Any] = {"id": tasks.c.id.type, "held": tasks.c.state.type, "fence": tasks.c.fence.type}
    kinds |= {name: tasks.c[name].type for name in names} | {"failed_tries": tasks.c.tries.type}
    values = [
        (
            s.task_id, s.held, s.fence, s.state,
            s.attempt if s.outcome is AttemptOutcome.OPEN else s.attempt + 1,
            now if s.state.ended else None, s.not_before or now, (s.not_before or now) if s.hinted else None,
            int(s.counts_as_try and s.state is TaskState.QUEUED),
        )
        for s in moved
    ]  # fmt: skip
    given = rows.table_of(connection, kinds, values)
    held = sa.and_(tasks.c.state == given.c.held, tasks.c.fence == given.c.fence)
    ended_late = sa.and_(tasks.c.state == TaskState.QUEUED, given.c.state == TaskState.SUCCEEDED)
    statement = (
        sa.update(tasks)
        .where(tasks.c.id == given.c.id, sa.or_(held, ended_late))
        .values(
            state=given.c.state,
            attempt=sa.case((given.c.ended_at.is_(None), given.c.attempt), else_=tasks.c.attempt),
            ended_at=given.c.ended_at,
            not_before=sa.case((given.c.ended_at.is_(None), given.c.not_before), else_=tasks.c.not_before),
            tries=tasks.c.tries + given.c.failed_tries,
            worker_id=None,
            announced_at=given.c.announced_at,
        )
    )
    await connection.execute(statement)


async def _keep_results(connection: WriteConnection, ended: Sequence[Resolution]) -> None:
    """`attempt` 0: the task ended without one, or between two."""
    if not ended:
        return
    columns = ("task_id", "attempt", "body", "error_code", "error_message")
    values = []
    for resolution in ended:
        s = resolution.settlement
        code = None if s.result is not None else s.error_code or s.state.value
        values.append((s.task_id, s.attempt if resolution.attempt else 0, s.result, code, s.error_message))
    await connection.execute(rows.insert(connection, task_results, columns, values))


async def _abandon_newer(connection: WriteConnection, ids: Sequence[UUID], now: datetime) -> None:
    """A late answer ended these while they were queued: an attempt refused for now will not be repeated."""
    if not ids:
        return
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in ids])
    statement = (
        sa.update(attempts)
        .where(attempts.c.task_id.in_(sa.select(given.c.id)), attempts.c.outcome == AttemptOutcome.OPEN)
        .values(outcome=AttemptOutcome.ABANDONED, ended_at=now)
    )
    await connection.execute(statement)


async def _book(connection: WriteConnection, bookings: Sequence[Booking], shard: int) -> None:
    """Add to the hourly roll-up, rows in the order of their key: settlers never wait for each other in a ring."""
    sums: defaultdict[tuple[Any, ...], Counts] = defaultdict(lambda: NO_COUNTS)
    for b in bookings:
        sums[b.hour, b.project_id, b.key_id, b.model, b.upstream, b.label, shard] += b.counts
    if not sums:
        return
    values = [(*key, *astuple(counts)) for key, counts in sorted(sums.items(), key=lambda item: item[0])]
    insert = rows.insert(connection, usage_hourly, (*USAGE_KEY, *COUNTS), values)
    await connection.execute(
        insert.on_conflict_do_update(
            index_elements=list(USAGE_KEY),
            set_={name: usage_hourly.c[name] + insert.excluded[name] for name in COUNTS},
        )
    )
