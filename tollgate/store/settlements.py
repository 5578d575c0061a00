"""Writes what became of leases: task, attempt, result and accounts in one transaction, many at once.

The rows are locked in id order, `domain.settling` decides by what stands there, and every change is
guarded by what was read. The same function serves a worker's answers, rescued leases, cancels of queued
tasks and expiries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.settling import (
    BILL,
    NOTHING_BILLED,
    AttemptRow,
    Bill,
    Booking,
    Resolution,
    Settlement,
    TaskRow,
    abandoned,
    billed,
    leaves_home,
    resolve,
    stays,
)
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import batch_sums, deliveries, reservations, roll_up, rows, transitions, webhooks
from tollgate.store.database import WriteConnection
from tollgate.store.rows import Step
from tollgate.store.schema import attempts, stays_local, task_results, tasks

CODE_LENGTH = 64
"""The column's."""
MESSAGE_LENGTH = 4_000
"""Enough to see what an upstream meant; some send a page of HTML."""
LOCKED = (
    "id", "project_id", "key_id", "model", "label", "state", "fence", "cancel_requested_at", "charged_to",
    "reserved_nano", "reserved_tokens", "callback_url", "batch_id",
)  # fmt: skip
WRITTEN = ("outcome", "ended_at", "http_status", "error_code", "error_message", *BILL)
IDS = rows.Given.of(tasks, "id")
ATTEMPT_KEYS = rows.Given.of(attempts, "task_id", "number")
CLOSED = rows.Given.of(attempts, "task_id", "number", *WRITTEN, "unanswered", "credential", name="closed")
RESULTS = rows.Given.of(task_results, "task_id", "attempt", "body", "error_code", "error_message", name="results")
Decided = tuple[list[Resolution], tuple[Step, ...]]
"""What became of settlements, and the statements that write it."""


async def settle(
    connection: WriteConnection, settlements: Sequence[Settlement], *, now: datetime, shard: int = 0
) -> list[Resolution]:
    """Apply each settlement as far as it still may. One resolution each, in order.

    Of several for one task the later are decided by what the former left. `shard` is the settler's own, 0 to 15."""
    resolutions: dict[int, Resolution] = {}
    bookings: list[Booking] = []
    writes: tuple[Step, ...] = ()
    for positions in _rounds(settlements):
        await rows.execute_together(connection, *writes)
        settled, writes = await _decide_round(connection, [storable(settlements[i]) for i in positions], now)
        resolutions.update(zip(positions, settled, strict=False))
        bookings += [booking for resolution in settled for booking in resolution.bookings]
    # Booked once, at the end: the roll-up's rows are taken in one order in the whole transaction.
    sums = (*roll_up.booking(bookings, shard=shard), batch_sums.booking(bookings, shard=shard))
    await rows.execute_together(connection, *writes, *sums)
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
    if code is None and message is None:
        return settlement
    return replace(
        settlement,
        error_code=None if code is None else _plain(code)[:CODE_LENGTH],
        error_message=None if message is None else _plain(message)[:MESSAGE_LENGTH],
        otherwise=settlement.otherwise and storable(settlement.otherwise),
    )


def _plain(text: str) -> str:
    """Without what PostgreSQL's text cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


async def _decide_round(connection: WriteConnection, settlements: Sequence[Settlement], now: datetime) -> Decided:
    """Of settlements that name no task twice."""
    locked = await _lock_tasks(connection, [s.task_id for s in settlements])
    opened = await _read_attempts(connection, [(s.task_id, s.attempt) for s in settlements])
    kept = await _kept_local(connection, settlements)

    def decide(s: Settlement) -> Resolution:
        if s.task_id not in locked:
            return Resolution(settlement=s, task=False, attempt=False)
        if s.task_id in kept and leaves_home(s):
            return stays(s, decide)
        return resolve(s, locked[s.task_id], opened.get((s.task_id, s.attempt)), now=now)

    resolutions = await reservations.charge(connection, [decide(s) for s in settlements], locked, decide=decide)
    newer = await _abandon_newer(connection, [r.settlement for r in resolutions if r.task and r.late], locked, now)
    decided = [*resolutions, *newer]
    moved = [r for r in resolutions if r.task]
    changes = [r.settlement for r in moved]
    ended = [r for r in moved if r.settlement.state.ended]
    return decided, (
        closing([r.settlement for r in decided if r.attempt], now),
        transitions.moving([s for s in changes if s.reroute is None and not _unbatched(s)], now),
        transitions.rerouting([s for s in changes if s.reroute is not None], now),
        transitions.unbatching([s for s in changes if _unbatched(s)], now),
        keeping(ended),
        await deliveries.of_ends(connection, ended, locked, now=now),
    )


def _unbatched(settlement: Settlement) -> bool:
    return settlement.unbatched and settlement.state is TaskState.QUEUED


async def _lock_tasks(connection: WriteConnection, ids: Sequence[UUID]) -> dict[UUID, TaskRow]:
    found = (await rows.execute(connection, _locking, IDS, [(i,) for i in sorted(ids)])).all()
    return {row[0]: _task_row(*row) for row in found}


def _task_row(  # noqa: PLR0917 - one for each column
    task_id: UUID,
    project_id: UUID,
    key_id: str,
    model: str,
    label: str | None,
    state: str,
    fence: int,
    cancel_requested_at: datetime | None,
    charged_to: str | None,
    reserved_nano: int | None,
    reserved_tokens: int | None,
    callback_url: str | None,
    batch_id: UUID | None,
    watched: bool,
) -> TaskRow:
    """Of the columns of LOCKED and `watched`, by position: an attribute of a row takes ten times as long."""
    return TaskRow(
        id=task_id,
        project_id=project_id,
        key_id=key_id,
        model=model,
        label=label,
        state=TaskState(state),
        fence=fence,
        cancel_requested=cancel_requested_at is not None,
        charged_to=reservations.periods_of(charged_to),
        reserved_nano=reserved_nano or 0,
        reserved_tokens=reserved_tokens or 0,
        callback_url=callback_url,
        watched=bool(watched),
        batch_id=batch_id,
    )


def _locking(dialect: str) -> rows.Statement:
    return (
        sa.select(*(tasks.c[name] for name in LOCKED), webhooks.watching(tasks).label("watched"))
        .where(tasks.c.id.in_(sa.select(IDS.table(dialect).c.id)))
        .order_by(tasks.c.id)
        .with_for_update()
    )


async def _kept_local(connection: WriteConnection, settlements: Sequence[Settlement]) -> set[UUID]:
    """Those that are not bought elsewhere, whatever their model's fallbacks: lines of batches via local."""
    leaving = [s.task_id for s in settlements if leaves_home(s)]
    if not leaving:
        return set()
    return set((await rows.execute(connection, _keeping_local, IDS, [(i,) for i in sorted(leaving)])).scalars())


def _keeping_local(dialect: str) -> rows.Statement:
    named = tasks.c.id.in_(sa.select(IDS.table(dialect).c.id))
    return sa.select(tasks.c.id).where(named, tasks.c.batch_id.is_not(None), stays_local(tasks.c.batch_id))


async def _read_attempts(
    connection: WriteConnection, keys: Sequence[tuple[UUID, int]]
) -> dict[tuple[UUID, int], AttemptRow]:
    found = await rows.execute(connection, _reading, ATTEMPT_KEYS, keys)
    return {(task_id, number): _attempt_row(*of) for task_id, number, *of in found.all()}


def _attempt_row(
    upstream: str, outcome: str, started_at: datetime, upstream_id: str | None, unanswered: int, *bill: Any
) -> AttemptRow:
    return AttemptRow(
        upstream=upstream,
        outcome=AttemptOutcome(outcome),
        started_at=started_at,
        upstream_id=upstream_id,
        unanswered=unanswered,
        bill=Bill(**dict(zip(BILL, bill, strict=True))),
    )


def _reading(dialect: str) -> rows.Statement:
    given = ATTEMPT_KEYS.table(dialect)
    return sa.select(
        attempts.c.task_id, attempts.c.number, attempts.c.upstream, attempts.c.outcome, attempts.c.started_at,
        attempts.c.upstream_id, attempts.c.unanswered, *(attempts.c[name] for name in BILL),
    ).join(given, sa.and_(attempts.c.task_id == given.c.task_id, attempts.c.number == given.c.number))  # fmt: skip


def closing(closed: Sequence[Settlement], now: datetime) -> Step:
    """Also of one that stays open: its last error is kept, for whoever looks why the task waits."""
    values = [
        (
            s.task_id, s.attempt, s.outcome, None if s.outcome is AttemptOutcome.OPEN else now, s.http_status,
            s.error_code, s.error_message, *billed(s.bill), int(s.unanswered), s.credential,
        )
        for s in closed
    ]  # fmt: skip
    return Step(_closing_attempts, CLOSED, values)


def _closing_attempts(dialect: str) -> rows.Statement:
    given = CLOSED.table(dialect)
    return (
        sa.update(attempts)
        .where(
            attempts.c.task_id == given.c.task_id,
            attempts.c.number == given.c.number,
            sa.or_(attempts.c.outcome == AttemptOutcome.OPEN, attempts.c.outcome == AttemptOutcome.UNCERTAIN),
        )
        .values(
            {name: given.c[name] for name in WRITTEN}
            | {
                "unanswered": attempts.c.unanswered + given.c.unanswered,
                "credential": sa.func.coalesce(given.c.credential, attempts.c.credential),
            }
        )
    )


def keeping(ended: Sequence[Resolution]) -> Step:
    """`attempt` 0: the task ended without one, or between two."""
    values = []
    for resolution in ended:
        s = resolution.settlement
        code = None if s.result is not None else s.error_code or s.state.value
        values.append((s.task_id, s.attempt if resolution.attempt else 0, s.result, code, s.error_message))
    return Step(_keeping_results, RESULTS, values)


def _keeping_results(dialect: str) -> rows.Statement:
    return RESULTS.insert(dialect, task_results)


async def _abandon_newer(
    connection: WriteConnection, ended: Sequence[Settlement], locked: dict[UUID, TaskRow], now: datetime
) -> list[Resolution]:
    """Late answers end these tasks while they are queued: attempts refused for now will not be repeated."""
    if not ended:
        return []
    answered = {(s.task_id, s.attempt) for s in ended}
    open_of = await rows.execute(connection, _open_of, IDS, [(s.task_id,) for s in ended])
    left_open = [key for row in open_of.all() if (key := (row.task_id, row.number)) not in answered]
    found = await _read_attempts(connection, left_open)
    late = {s.task_id: s for s in ended}
    closed = [
        abandoned(replace(late[key[0]], attempt=key[1], bill=NOTHING_BILLED), locked[key[0]], attempt, now=now)
        for key, attempt in found.items()
    ]
    return await reservations.charge(connection, closed, locked)


def _open_of(dialect: str) -> rows.Statement:
    given = IDS.table(dialect)
    return sa.select(attempts.c.task_id, attempts.c.number).where(
        attempts.c.task_id.in_(sa.select(given.c.id)), attempts.c.outcome == AttemptOutcome.OPEN
    )
