"""Deleting a batch: nobody is shown it from then on, and the texts of its lines go a step at a time.

Its row stays, and what its lines came to: the accounts name them. A step commits the lines it erased with the place
that it came to, so who comes after a dead one goes on there.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import BatchState
from tollgate.domain.errors import NotFoundError, StillOpenError
from tollgate.domain.retention import ALL_TEXTS
from tollgate.store import erasing
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.erasing import AT_ONCE
from tollgate.store.schema import LINE_STANDS, LINE_SUPERSEDED, batches, files, invalid_lines, tasks

ASKED = sa.and_(batches.c.erase_asked_at.is_not(None), batches.c.erased_at.is_(None))
OWN_TEXTS = (
    "name", "defaults", "metadata", "callback_url", "error_message", "input_file_id", "output_file_id", "error_file_id",
)  # fmt: skip


async def ask(connection: WriteConnection, batch_id: UUID, *, project_id: UUID, now: datetime) -> None:
    """Delete it, with its input file, unless another batch is made of that, and the views of its results.

    Raises NotFoundError, and StillOpenError before its end."""
    statement = (
        sa.select(batches.c.state, batches.c.input_file_id)
        .where(batches.c.id == batch_id, batches.c.project_id == project_id, batches.c.erase_asked_at.is_(None))
        .with_for_update(key_share=True)
    )
    row = (await connection.execute(statement)).first()
    if row is None:
        raise NotFoundError("batch", str(batch_id))
    if not BatchState(row.state).ended:
        raise StillOpenError("batch", str(batch_id), state=row.state)
    forgotten = dict.fromkeys(OWN_TEXTS)
    await connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(erase_asked_at=now, **forgotten))
    await connection.execute(sa.delete(files).where(files.c.batch_id == batch_id))
    if row.input_file_id is not None:
        await _remove_input(connection, row.input_file_id)


async def _remove_input(connection: WriteConnection, file_id: UUID) -> None:
    """Locked first: a batch that is made of it at this moment is seen then."""
    await connection.execute(sa.select(files.c.id).where(files.c.id == file_id).with_for_update())
    used = sa.exists().where(batches.c.input_file_id == files.c.id)
    await connection.execute(sa.delete(files).where(files.c.id == file_id, ~used))


async def asked(connection: ReadConnection) -> list[UUID]:
    """Batches that were deleted, and of whose lines something may be left."""
    return list((await connection.execute(sa.select(batches.c.id).where(ASKED).order_by(batches.c.id))).scalars())


async def step(connection: WriteConnection, batch_id: UUID, *, now: datetime, limit: int = AT_ONCE) -> bool:
    """Erase the next `limit` lines. Whether there may be more of them; False too: somebody else is at it."""
    statement = (
        sa.select(batches.c.erased_lines, batches.c.taken_lines)
        .where(batches.c.id == batch_id, ASKED)
        .with_for_update(key_share=True, skip_locked=True)
    )
    row = (await connection.execute(statement)).first()
    if row is None:
        return False
    last = row.erased_lines + limit
    await _erase_lines(connection, batch_id, after=row.erased_lines, last=last)
    more = last < row.taken_lines
    place = {"erased_lines": last} if more else {"erased_lines": row.taken_lines, "erased_at": now}
    await connection.execute(sa.update(batches).where(batches.c.id == batch_id).values(place))
    return bool(more)


async def _erase_lines(connection: WriteConnection, batch_id: UUID, *, after: int, last: int) -> None:
    """Also those that were tried again since, and those that became no task."""
    ids: list[UUID] = []
    for of_index in (LINE_STANDS, LINE_SUPERSEDED):
        within = (tasks.c.batch_id == batch_id, tasks.c.line > after, tasks.c.line <= last)
        ids += (await connection.execute(sa.select(tasks.c.id).where(of_index, *within))).scalars()
    await erasing.erase(connection, ids, ALL_TEXTS)
    invalid = (invalid_lines.c.batch_id == batch_id, invalid_lines.c.line > after, invalid_lines.c.line <= last)
    # Their rows stay: the batch says how many there are, and `reconcile` counts them.
    await connection.execute(sa.update(invalid_lines).where(*invalid).values(message="", field=None))
