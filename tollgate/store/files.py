"""The rows of files. Their bytes are the gateway's (`gateway.files`), under the same ids.

Always within one project: another's file is not there. One that has expired is not there either.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import BatchState
from tollgate.domain.errors import FileInUseError, NotFoundError
from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import batches, files

GRACE = timedelta(minutes=1)
"""From a file's expiry to its removal: a batch that was made of it in its last moment is seen by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as its project sees it."""

    id: UUID
    project_id: UUID
    key_id: str | None
    """Who brought it; None: a batch made it."""
    filename: str
    purpose: str
    bytes: int
    lines: int | None
    """Not blank; None: of a view."""
    sha256: str | None
    """None: it is a view of the results of `batch_id`, and has no bytes of its own."""
    batch_id: UUID | None
    created_at: datetime
    expires_at: datetime | None
    """None: never."""


COLUMNS = tuple(File.__dataclass_fields__)
IDS = rows.Given.of(files, "id")
READ_FROM = sa.and_(
    batches.c.input_file_id == files.c.id,
    batches.c.state == sa.literal(BatchState.VALIDATING, sa.String(16), literal_execute=True),
)
"""Joins batches that still need the bytes."""


async def add(connection: WriteConnection, one: File) -> None:
    await connection.execute(sa.insert(files).values({name: getattr(one, name) for name in COLUMNS}))


async def find(
    connection: ReadConnection, file_id: UUID, *, project_id: UUID, now: datetime, hold: bool = False
) -> File:
    """With `hold` it cannot be deleted before the transaction has ended. Raises NotFoundError."""
    statement = _select(project_id=project_id, now=now).where(files.c.id == file_id)
    row = (await connection.execute(statement.with_for_update(read=True) if hold else statement)).first()
    if row is None:
        raise NotFoundError("file", str(file_id))
    return File(**row._mapping)


async def page(
    connection: ReadConnection,
    *,
    project_id: UUID,
    now: datetime,
    limit: int,
    purpose: str | None = None,
    after: UUID | None = None,
    oldest_first: bool = False,
) -> list[File]:
    """Up to `limit` files, by their ids, which sort by time; from the one past `after`."""
    statement = _select(project_id=project_id, now=now)
    if purpose is not None:
        statement = statement.where(files.c.purpose == purpose)
    if after is not None:
        statement = statement.where(files.c.id > after if oldest_first else files.c.id < after)
    statement = statement.order_by(files.c.id if oldest_first else files.c.id.desc()).limit(limit)
    return [File(**row._mapping) for row in (await connection.execute(statement)).all()]


async def remove(connection: WriteConnection, file_id: UUID, *, project_id: UUID, now: datetime) -> File:
    """Returns it as it was; its bytes are the caller's to delete, after the commit.

    Raises NotFoundError, and FileInUseError while a batch is read from it."""
    statement = _select(project_id=project_id, now=now).where(files.c.id == file_id).with_for_update()
    row = (await connection.execute(statement)).first()
    if row is None:
        raise NotFoundError("file", str(file_id))
    reading = sa.select(batches.c.id).select_from(files.join(batches, READ_FROM)).where(files.c.id == file_id)
    batch_id = (await connection.execute(reading.limit(1))).scalar()
    if batch_id is not None:
        raise FileInUseError(str(file_id), batch_id=str(batch_id))
    await connection.execute(sa.delete(files).where(files.c.id == file_id))
    return File(**row._mapping)


async def remove_expired(connection: WriteConnection, *, now: datetime, limit: int) -> list[UUID]:
    """Up to `limit` of all projects, those longest over first, but for what a batch is still read from.

    Returns their ids: their bytes are the caller's to delete, after the commit."""
    expired = (
        sa.select(files.c.id)
        .where(files.c.expires_at <= now - GRACE, ~sa.exists().where(READ_FROM))
        .order_by(files.c.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    removed = await connection.execute(sa.delete(files).where(files.c.id.in_(expired)).returning(files.c.id))
    return list(removed.scalars())


async def known(connection: ReadConnection, ids: Collection[UUID]) -> set[UUID]:
    """Those of `ids` that have a row, in whichever project."""
    return set((await rows.execute(connection, _known, IDS, [(i,) for i in ids])).scalars())


def _known(dialect: str) -> rows.Statement:
    return sa.select(files.c.id).where(files.c.id.in_(sa.select(IDS.table(dialect).c.id)))


def _select(*, project_id: UUID, now: datetime) -> sa.Select[Any]:
    lasts = sa.or_(files.c.expires_at.is_(None), files.c.expires_at > now)
    return sa.select(*(files.c[name] for name in COLUMNS)).where(files.c.project_id == project_id, lasts)
