"""What came of comparing a bill, read out: request_ids of one kind, their sums, and the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.store.database import ReadConnection
from tollgate.store.reconcile.bills import billed, compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A request_id of the bill or of an attempt; amounts in nano-units."""

    request_id: str
    task_id: UUID | None
    number: int | None
    started_at: datetime | None
    times: int | None
    """How often it was billed."""
    billed_nano: int | None
    booked_nano: int | None
    possible_nano: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Request_ids of one kind: how many, the sums of their amounts, and the first of them."""

    count: int
    billed_nano: int
    booked_nano: int
    possible_nano: int = 0
    first: Sequence[Entry] = ()


ENTRY = tuple(field.name for field in fields(Entry))


async def of_kind(connection: ReadConnection, kind: str, *, limit: int) -> Group:
    """What was kept as `kind`; `limit` bounds `first` only."""
    return await _group(connection, sa.select(compared).where(compared.c.kind == kind), limit=limit)


async def repeated(connection: ReadConnection, source: sa.Select[Any], *, limit: int) -> Group:
    """Of `source`, which has the columns of an Entry: what was billed more than once."""
    return await _group(connection, source.where(billed.c.times > 1), limit=limit)


async def equal(connection: ReadConnection) -> Group:
    """What stands in the bill and was not kept: it is the same there and here."""
    kept = sa.select(sa.literal(1)).where(compared.c.request_id == billed.c.request_id).exists()
    statement = sa.select(sa.func.count(), _total(billed.c.cost_nano)).where(sa.not_(kept))
    count, nano = (await connection.execute(statement)).one()
    return Group(count=count, billed_nano=int(nano), booked_nano=int(nano))


async def _group(connection: ReadConnection, chosen: sa.Select[Any], *, limit: int) -> Group:
    rows = chosen.subquery("chosen")
    there, here, perhaps = (_total(rows.c[name]) for name in ("billed_nano", "booked_nano", "possible_nano"))
    sums = (await connection.execute(sa.select(sa.func.count(), there, here, perhaps))).one()
    first = sa.select(*(rows.c[name] for name in ENTRY)).order_by(rows.c.request_id).limit(limit)
    return Group(
        count=sums[0],
        billed_nano=int(sums[1]),
        booked_nano=int(sums[2]),
        possible_nano=int(sums[3]),
        first=[Entry(**row._mapping) for row in (await connection.execute(first)).all()],
    )


def _total(column: Any) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)
