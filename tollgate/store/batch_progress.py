"""How fast a batch goes, and what its lines fail of. Bounded reads by index, however long the batch is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import Batch
from tollgate.store.database import ReadConnection
from tollgate.store.schema import LINE_ENDED, LINE_FAILED, invalid_lines, task_results, tasks

LAST_ENDS = 1_000
LATELY = timedelta(minutes=10)
"""What was before, a pause or a first run, says nothing of the speed now."""
LOOKED_AT = 5_000
"""Failed lines that are counted by their errors, and as many invalid ones."""
SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonError:
    """What lines fail of, with one of them."""

    code: str
    count: int
    line: int
    message: str | None
    task_id: UUID | None
    """None: the line is invalid, and became no task."""


async def lines_per_second(connection: ReadConnection, batch: Batch, *, now: datetime) -> float | None:
    """By the last LAST_ENDS lines that ended within LATELY. None: none has."""
    since = max(now - LATELY, batch.created_at)
    last = (
        sa.select(tasks.c.ended_at)
        .where(LINE_ENDED, tasks.c.batch_id == batch.id, tasks.c.ended_at > since)
        .order_by(tasks.c.ended_at.desc())
        .limit(LAST_ENDS)
        .subquery()
    )
    count, first = (await connection.execute(sa.select(sa.func.count(), sa.func.min(last.c.ended_at)))).one()
    over_s: float = (now - (first if count == LAST_ENDS else since)).total_seconds()
    return count / max(over_s, 1.0) if count else None


async def common_errors(connection: ReadConnection, batch_id: UUID) -> list[CommonError]:
    """The commonest first. Exact up to LOOKED_AT lines of each kind; of more, the first ones."""
    failed = (
        sa.select(tasks.c.id, tasks.c.line)
        .where(LINE_FAILED, tasks.c.batch_id == batch_id)
        .order_by(tasks.c.line)
        .limit(LOOKED_AT)
        .subquery()
    )
    of_tasks = (
        sa.select(task_results.c.error_code, sa.func.count(), sa.func.min(failed.c.line))
        .join(failed, failed.c.id == task_results.c.task_id)
        .group_by(task_results.c.error_code)
    )
    invalid = (
        sa.select(invalid_lines.c.code, invalid_lines.c.line)
        .where(invalid_lines.c.batch_id == batch_id)
        .order_by(invalid_lines.c.line)
        .limit(LOOKED_AT)
        .subquery()
    )
    of_lines = sa.select(invalid.c.code, sa.func.count(), sa.func.min(invalid.c.line)).group_by(invalid.c.code)
    found = [(row, True) for row in (await connection.execute(of_tasks)).all()]
    found += [(row, False) for row in (await connection.execute(of_lines)).all()]
    found.sort(key=lambda one: (-one[0][1], one[0][2]))
    return [
        await (_failed if ran else _invalid)(connection, batch_id, code=code, count=count, line=line)
        for (code, count, line), ran in found[:SHOWN]
    ]


async def _failed(connection: ReadConnection, batch_id: UUID, *, code: str, count: int, line: int) -> CommonError:
    statement = (
        sa.select(tasks.c.id, task_results.c.error_message)
        .join(task_results, task_results.c.task_id == tasks.c.id)
        .where(LINE_FAILED, tasks.c.batch_id == batch_id, tasks.c.line == line)
    )
    row = (await connection.execute(statement)).first()
    message, task_id = (row.error_message, row.id) if row else (None, None)
    return CommonError(code=code, count=count, line=line, message=message, task_id=task_id)


async def _invalid(connection: ReadConnection, batch_id: UUID, *, code: str, count: int, line: int) -> CommonError:
    statement = sa.select(invalid_lines.c.message).where(
        invalid_lines.c.batch_id == batch_id, invalid_lines.c.line == line
    )
    message = (await connection.execute(statement)).scalar()
    return CommonError(code=code, count=count, line=line, message=message, task_id=None)
