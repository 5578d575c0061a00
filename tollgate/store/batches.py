"""Batches as their owners see them: made, read, listed, paused, resumed, cancelled, asked to try again.

Every change is one guarded UPDATE. `batch_intake` brings their lines in, `batch_course` ends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import NO_SUMS, Batch, BatchState, NewBatch, PauseCode, Via
from tollgate.domain.budgets import EPOCH, Period
from tollgate.domain.errors import InvalidRequestError, NotFoundError, RequestIdConflictError
from tollgate.domain.ids import new_id
from tollgate.domain.states import Priority
from tollgate.store import batch_course, batch_pauses, batch_sums, rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import LINE_FAILED, RUNNING, batches, budget_periods, budgets, task_requests, tasks

MAX_RETRY_WINDOW_S = 30 * 86_400


COLUMNS = tuple(f.name for f in fields(Batch) if f.name in batches.c)
SHOWN = batches.c.erase_asked_at.is_(None)
"""It was not deleted."""
NEW = tuple(f.name for f in fields(NewBatch))


async def add(connection: WriteConnection, new: NewBatch) -> tuple[Batch, bool]:
    """Make it, with the budget that its max_cost is. With a request_id that is known: the batch it made then, and
    False. Raises RequestIdConflictError where that was another one."""
    value = [*(getattr(new, name) for name in NEW), BatchState.VALIDATING]
    insert = rows.insert(connection, batches, (*NEW, "state"), [value]).on_conflict_do_nothing(
        index_elements=["project_id", "request_id"], index_where=sa.text("request_id IS NOT NULL")
    )
    made = (await connection.execute(insert.returning(batches.c.id))).scalar()
    if made is None:
        return await _known(connection, new), False
    if new.max_cost_nano is not None:
        await _limit(connection, new.id, new.project_id, new.max_cost_nano, now=new.created_at)
    return await find(connection, new.id, project_id=new.project_id), True


async def _known(connection: ReadConnection, new: NewBatch) -> Batch:
    statement = sa.select(batches.c.id, batches.c.digest, batches.c.erase_asked_at).where(
        batches.c.project_id == new.project_id, batches.c.request_id == new.request_id
    )
    row = (await connection.execute(statement)).one()
    if row.digest != new.digest:
        raise RequestIdConflictError(new.request_id or "", task_id=str(row.id))
    if row.erase_asked_at is not None:
        raise InvalidRequestError(
            f"request_id: {new.request_id!r} made a batch that was deleted since", field="request_id",
            allowed="one that was not used before",
        )  # fmt: skip
    return await find(connection, row.id, project_id=new.project_id)


async def _limit(
    connection: WriteConnection, batch_id: UUID, project_id: UUID, limit_nano: int, *, now: datetime
) -> None:
    """Set the limit of the batch's own budget, made if it is not there."""
    columns = ("id", "project_id", "batch_id", "period", "limit_nano", "created_at")
    value = (new_id(), project_id, batch_id, Period.TOTAL, limit_nano, now)
    insert = rows.insert(connection, budgets, columns, [value])
    statement = insert.on_conflict_do_update(
        index_elements=["batch_id"],
        index_where=sa.text("batch_id IS NOT NULL"),
        set_={"limit_nano": insert.excluded.limit_nano},
    ).returning(budgets.c.id)
    budget_id = (await connection.execute(statement)).scalar_one()
    begin = rows.insert(connection, budget_periods, ("budget_id", "starts_on"), [(budget_id, EPOCH)])
    await connection.execute(begin.on_conflict_do_nothing())


async def repeated(connection: ReadConnection, new: NewBatch, *, since: datetime) -> Batch | None:
    """A batch of the same file, asked for in the same words since then: its client had no answer, and asks again."""
    statement = (
        sa.select(batches.c.id)
        .where(
            batches.c.input_file_id == new.input_file_id,
            batches.c.key_id == new.key_id,
            batches.c.digest == new.digest,
            batches.c.created_at >= since,
            SHOWN,
        )
        .order_by(batches.c.id)
        .limit(1)
    )
    found = (await connection.execute(statement)).scalar()
    return None if found is None else await find(connection, found, project_id=new.project_id)


async def find(connection: ReadConnection, batch_id: UUID, *, project_id: UUID) -> Batch:
    """Raises NotFoundError for another project's too."""
    found = await _read(connection, batches.c.id == batch_id, batches.c.project_id == project_id, SHOWN)
    if not found:
        raise NotFoundError("batch", str(batch_id))
    return found[0]


async def by_ids(connection: ReadConnection, ids: Sequence[UUID]) -> dict[UUID, Batch]:
    """Of whichever project."""
    return {batch.id: batch for batch in await _read(connection, batches.c.id.in_(sorted(ids)))} if ids else {}


async def page(
    connection: ReadConnection,
    *,
    project_id: UUID,
    limit: int,
    after: UUID | None = None,
    states: Sequence[BatchState] | None = None,
) -> list[Batch]:
    """Up to `limit`, newest first, older than `after`."""
    conditions = [batches.c.project_id == project_id, SHOWN]
    if after is not None:
        conditions.append(batches.c.id < after)
    if states is not None:
        conditions.append(batches.c.state.in_(states))
    return await _read(connection, *conditions, limit=limit)


async def _read(
    connection: ReadConnection, *conditions: sa.ColumnElement[bool], limit: int | None = None
) -> list[Batch]:
    statement = (
        sa.select(*(batches.c[name] for name in COLUMNS)).where(*conditions).order_by(batches.c.id.desc()).limit(limit)
    )
    found = [_batch(row) for row in (await connection.execute(statement)).all()]
    sums = await batch_sums.read(connection, [batch.id for batch in found])
    running = await _running(connection, [batch.id for batch in found if not batch.state.ended])
    return [replace(b, sums=sums.get(b.id, NO_SUMS), running=running.get(b.id, 0)) for b in found]


def _batch(row: Any) -> Batch:
    told = dict(row._mapping)
    code = told.pop("paused_code")
    return Batch(
        **{
            **told,
            "state": BatchState(told["state"]),
            "via": Via(told["via"]),
            "priority": Priority(told["priority"]),
            "paused_code": PauseCode(code) if code else None,
        }
    )


async def _running(connection: ReadConnection, ids: Sequence[UUID]) -> dict[UUID, int]:
    """By the index of what runs, however long the batches are."""
    if not ids:
        return {}
    statement = (
        sa.select(tasks.c.batch_id, sa.func.count())
        .where(tasks.c.state == RUNNING, tasks.c.worker_id.is_not(None), tasks.c.batch_id.in_(ids))
        .group_by(tasks.c.batch_id)
    )
    return {row[0]: row[1] for row in (await connection.execute(statement)).all()}


async def pause(connection: WriteConnection, batch_id: UUID, *, code: PauseCode, why: str, now: datetime) -> bool:
    """Begin no more lines. False: it is paused already, or has ended, or is being cancelled."""
    paused = await batch_pauses.begin(connection, batch_id, code=code, why=why, now=now)
    if paused:
        await batch_pauses.take_back(connection, batch_id)
    return paused


async def resume(connection: WriteConnection, batch: Batch, *, max_cost_nano: int | None = None, now: datetime) -> None:
    """Go on, with another max_cost where one is given. A batch that is not paused goes on as it does."""
    changed: dict[str, Any] = dict(batch_pauses.NO_PAUSE)
    if max_cost_nano is not None:
        changed["max_cost_nano"] = max_cost_nano
        room = max(0, max_cost_nano - await _uncounted(connection, batch))
        await _limit(connection, batch.id, batch.project_id, room, now=now)
    await connection.execute(sa.update(batches).where(batches.c.id == batch.id).values(changed))
    if batch.paused_at is not None:
        await batch_pauses.take_back(connection, batch.id)


async def _uncounted(connection: ReadConnection, batch: Batch) -> int:
    """Nano-units that its lines cost, or may have, before it had a limit: they stand in no budget of its."""
    counted = sa.func.coalesce(sa.func.sum(budget_periods.c.spent_nano + budget_periods.c.uncertain_nano), 0)
    statement = sa.select(counted).join_from(budget_periods, budgets).where(budgets.c.batch_id == batch.id)
    return (
        batch.sums.cost_nano + batch.sums.possible_cost_nano - int((await connection.execute(statement)).scalar_one())
    )


async def cancel(connection: WriteConnection, batch_id: UUID, *, now: datetime) -> bool:
    """Begin no more lines, end those that are queued, ask workers for those that run. False: it has ended, or is
    being cancelled already."""
    asked = (
        sa.update(batches)
        .where(
            batches.c.id == batch_id,
            batches.c.state.in_([BatchState.VALIDATING, BatchState.IN_PROGRESS]),
        )
        .values(
            state=BatchState.CANCELLING, cancelling_at=now, retry_asked_at=None, **batch_pauses.NO_PAUSE,
        )
        .returning(batches.c.id)
    )  # fmt: skip
    if (await connection.execute(asked)).first() is None:
        return False
    await batch_course.stop_running(connection, batch_id, now=now)
    return True


RETRIED = (BatchState.IN_PROGRESS, BatchState.COMPLETED, BatchState.EXPIRED, BatchState.CANCELLED)


async def retry(connection: WriteConnection, batch: Batch, *, now: datetime) -> None:
    """Try the lines again that failed, were cancelled or expired; of a batch that was cancelled while it was taken in,
    take in the rest. The window begins anew.

    Raises InvalidRequestError where there are none, or it is being cancelled or taken in."""
    unread = batch.in_progress_at is None
    if batch.state is BatchState.FAILED or (batch.state is BatchState.CANCELLED and unread and batch.strict):
        raise InvalidRequestError("no line of this batch was begun: make another batch of its file", field="batch_id")
    if batch.sums.tasks_failed == 0 and batch.state in RETRIED and not unread:
        raise InvalidRequestError("no line of this batch has failed", field="batch_id")
    if batch.state in RETRIED and not unread:
        await _require_prompts(connection, batch.id)
    expires_at = now + timedelta(seconds=min(batch.window_s, MAX_RETRY_WINDOW_S))
    again = (
        sa.update(batches)
        .where(batches.c.id == batch.id, batches.c.state.in_(RETRIED), SHOWN)
        .values(
            state=BatchState.VALIDATING if unread else BatchState.IN_PROGRESS, ended_at=None, cancelling_at=None,
            taken_at=None, retry_asked_at=now, expires_at=expires_at, output_file_id=None, error_file_id=None,
        )
        .returning(batches.c.id)
    )  # fmt: skip
    if (await connection.execute(again)).first() is None:
        raise InvalidRequestError(f"the batch is {batch.state}: retry it when that is over", field="batch_id")


async def _require_prompts(connection: ReadConnection, batch_id: UUID) -> None:
    """Of at least one line that failed. Looked for from the last: the first are the first to be erased."""
    statement = (
        sa.select(tasks.c.id)
        .join(task_requests, task_requests.c.task_id == tasks.c.id)
        .where(LINE_FAILED, tasks.c.batch_id == batch_id)
        .order_by(tasks.c.line.desc())
        .limit(1)
    )
    if (await connection.execute(statement)).first() is None:
        raise InvalidRequestError("the prompts of the lines that failed were erased", field="batch_id")
