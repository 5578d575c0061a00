"""The lines of a batch's input become tasks, a step at a time.

A step commits tasks, bodies, invalid lines and the place in the file together, guarded by the place that was read
before: two gateways that read one file insert no line twice, and who comes after a dead one goes on where it stood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import BatchState
from tollgate.domain.tasks import NewTask
from tollgate.store import batch_course, batch_lines, labels, rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import LINE_STANDS, QUEUED_BY_ID, batches, invalid_lines, task_requests, tasks

DUPLICATE = "duplicate_custom_id"
TOO_MANY_LABELS = "too_many_labels"
DELETED_AT_ONCE = 5_000
MAX_LINE = 2**63 - 1
"""More than any file has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidLine:
    """A line that becomes no task."""

    line: int
    code: str
    message: str
    custom_id: str | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Up to a thousand lines, and where they begin and end in the file."""

    lines: Sequence[NewTask]
    invalid: Sequence[InvalidLine]
    before_bytes: int
    after_bytes: int
    after_lines: int
    """Lines before `after_bytes`, blank ones too."""
    last: bool = False
    """The file ends there."""


INVALID_LINES = rows.Given.of(invalid_lines, "batch_id", "line", "custom_id", "code", "message", "field")


async def waiting(connection: ReadConnection, *, stale: datetime) -> list[UUID]:
    """Batches to be taken in that nobody has worked on since `stale`; short ones first: they are soon done."""
    idle = sa.or_(batches.c.taken_at.is_(None), batches.c.taken_at < stale)
    statement = (
        sa.select(batches.c.id)
        .where(batches.c.ended_at.is_(None), batches.c.state == BatchState.VALIDATING, idle)
        .order_by(batches.c.input_bytes - batches.c.taken_bytes, batches.c.id)
    )
    return list((await connection.execute(statement)).scalars())


async def take_in(connection: WriteConnection, batch_id: UUID, step: Step, *, now: datetime) -> bool:
    """Insert a step. False, and nothing: another gateway was here, or the batch is not taken in any more."""
    if not await _lock(connection, batch_id, at=step.before_bytes):
        return False
    labelled, invalid = await _with_labels(connection, step)
    inserted = await batch_lines.insert(connection, labelled)
    invalid += [_duplicate(task) for task in labelled if task.line not in inserted]
    await _keep_invalid(connection, batch_id, invalid)
    statement = (
        sa.update(batches)
        .where(batches.c.id == batch_id)
        .values(
            taken_bytes=step.after_bytes,
            taken_lines=step.after_lines,
            taken_at=now,
            accepted=batches.c.accepted + len(inserted),
            invalid=batches.c.invalid + len(invalid),
        )
    )
    await connection.execute(statement)
    if step.last:
        await _close(connection, batch_id, now=now)
    return True


async def _lock(connection: WriteConnection, batch_id: UUID, *, at: int) -> bool:
    statement = (
        sa.select(batches.c.id)
        .where(batches.c.id == batch_id, batches.c.state == BatchState.VALIDATING, batches.c.taken_bytes == at)
        .with_for_update(key_share=True)
    )
    return (await connection.execute(statement)).first() is not None


async def _with_labels(connection: WriteConnection, step: Step) -> tuple[Sequence[NewTask], list[InvalidLine]]:
    """Without the lines whose labels are too many for the project, which are invalid."""
    invalid = list(step.invalid)
    used = list(dict.fromkeys((task.project_id, task.label) for task in step.lines if task.label is not None))
    if not used:
        return step.lines, invalid
    _, surplus = await labels.note(connection, used)
    if not surplus:
        return step.lines, invalid
    await labels.forget(connection, surplus)
    error = labels.too_many()
    invalid += [
        InvalidLine(
            line=task.line or 0, custom_id=task.custom_id, code=TOO_MANY_LABELS, message=str(error), field="label"
        )
        for task in step.lines
        if (task.project_id, task.label) in surplus
    ]
    return [task for task in step.lines if (task.project_id, task.label) not in surplus], invalid


def _duplicate(task: NewTask) -> InvalidLine:
    message = repeated(task.custom_id)
    return InvalidLine(
        line=task.line or 0, custom_id=task.custom_id, code=DUPLICATE, message=message, field="custom_id"
    )


def repeated(custom_id: str | None) -> str:
    """What is said of a line whose custom_id is not the first of its batch."""
    return f"custom_id {custom_id!r} stands in a line before; each line needs its own"


async def _keep_invalid(connection: WriteConnection, batch_id: UUID, invalid: Sequence[InvalidLine]) -> None:
    values = [(batch_id, one.line, one.custom_id, one.code, one.message, one.field) for one in invalid]
    if values:
        await rows.execute(connection, _keeping_invalid, INVALID_LINES, values)


def _keeping_invalid(dialect: str) -> rows.Statement:
    return INVALID_LINES.insert(dialect, invalid_lines)


async def _close(connection: WriteConnection, batch_id: UUID, *, now: datetime) -> None:
    """All lines were read. One without a task, or strict with an invalid line, stays as it is: `refuse` ends it."""
    statement = (
        sa.update(batches)
        .where(
            batches.c.id == batch_id,
            batches.c.accepted > 0,
            sa.or_(sa.not_(batches.c.strict), batches.c.invalid == 0),
        )
        .values(state=BatchState.IN_PROGRESS, in_progress_at=now, total=batches.c.accepted + batches.c.invalid)
    )
    await connection.execute(statement)


async def cut_short(connection: WriteConnection, batch_id: UUID, *, code: str, message: str, now: datetime) -> bool:
    """The rest of the input cannot be read: the batch is what was taken in. False: nothing was.

    `total` stays: the lines that are missing show."""
    statement = (
        sa.update(batches)
        .where(batches.c.id == batch_id, batches.c.state == BatchState.VALIDATING)
        .where(batches.c.accepted > 0, sa.not_(batches.c.strict))
        .values(
            state=BatchState.IN_PROGRESS, in_progress_at=now, error_code=code, error_message=message,
        )
        .returning(batches.c.id)
    )  # fmt: skip
    return (await connection.execute(statement)).first() is not None


async def refuse(connection: WriteConnection, batch_id: UUID, *, code: str, message: str, now: datetime) -> bool:
    """End a batch that cannot be taken in, of which nothing ran, and write who is to be told: its queued lines go, some
    thousands at a time. False: there may be more of them.

    Its error and its invalid lines stay, and lines that ended already, cancelled one by one or expired: they are in the
    accounts. True and nothing, where somebody else ended it, or cancels it."""
    statement = (
        sa.select(batches.c.project_id, batches.c.callback_url)
        .where(batches.c.id == batch_id, batches.c.state == BatchState.VALIDATING)
        .with_for_update(key_share=True)
    )
    batch = (await connection.execute(statement)).first()
    if batch is None:
        return True
    gone = await _delete_some(connection, batch_id)
    state = BatchState.VALIDATING if gone else BatchState.FAILED
    await connection.execute(
        sa.update(batches)
        .where(batches.c.id == batch_id)
        .values(
            state=state, ended_at=now if state.ended else None, taken_at=now, accepted=batches.c.accepted - gone,
            error_code=code, error_message=message,
        )
    )  # fmt: skip
    if state.ended:
        await batch_course.tell(connection, batch_id, batch.project_id, state, callback_url=batch.callback_url, now=now)
    return state.ended


async def _delete_some(connection: WriteConnection, batch_id: UUID) -> int:
    chosen = (
        sa.select(tasks.c.id)
        .where(LINE_STANDS, tasks.c.batch_id == batch_id, QUEUED_BY_ID)
        .order_by(tasks.c.line)
        .limit(DELETED_AT_ONCE)
        .with_for_update()
    )
    ids = list((await connection.execute(chosen)).scalars())
    if ids:
        given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in ids])
        await connection.execute(sa.delete(task_requests).where(task_requests.c.task_id.in_(sa.select(given.c.id))))
        await connection.execute(sa.delete(tasks).where(tasks.c.id.in_(sa.select(given.c.id))))
    return len(ids)


async def invalid_page(
    connection: ReadConnection, batch_id: UUID, *, after: int = 0, until: int = MAX_LINE, limit: int
) -> list[InvalidLine]:
    """In the order of the input, from the line after `after`."""
    statement = (
        sa.select(*(invalid_lines.c[name] for name in ("line", "code", "message", "custom_id", "field")))
        .where(invalid_lines.c.batch_id == batch_id, invalid_lines.c.line > after, invalid_lines.c.line <= until)
        .order_by(invalid_lines.c.line)
        .limit(limit)
    )
    return [InvalidLine(**row._mapping) for row in (await connection.execute(statement)).all()]
