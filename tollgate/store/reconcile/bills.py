"""A provider's bill in the database: temporary tables, filled from its charges a chunk at a time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import sqlalchemy as sa

from tollgate.domain.bill_file import TOKENS, BadLine, Charge
from tollgate.store import rows
from tollgate.store.database import ReadConnection
from tollgate.store.schema import Instant, required

CHUNK = 2_000
"""Lines a statement takes."""
TEMPORARY = sa.MetaData()

charged = sa.Table(
    "reconcile_charged",
    TEMPORARY,
    required("request_id", sa.Text),
    sa.Column("task_id", sa.Uuid, comment="null: no request_id of ours"),
    sa.Column("number", sa.Integer),
    required("cost_nano", sa.BigInteger),
    *(sa.Column(name, sa.BigInteger) for name in TOKENS),
    sa.Column("created", Instant),
    prefixes=["TEMPORARY"],
    comment="a row a charge",
)
COLUMNS = tuple(column.name for column in charged.c)

billed = sa.Table(
    "reconcile_billed",
    TEMPORARY,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("task_id", sa.Uuid),
    sa.Column("number", sa.Integer),
    required("times", sa.Integer),
    required("cost_nano", sa.BigInteger),
    *(sa.Column(name, sa.BigInteger) for name in TOKENS),
    prefixes=["TEMPORARY"],
    comment="a row a request_id: the sums of its charges",
)

compared = sa.Table(
    "reconcile_compared",
    TEMPORARY,
    sa.Column("request_id", sa.Text, primary_key=True),
    required("kind", sa.String(16)),
    sa.Column("task_id", sa.Uuid),
    sa.Column("number", sa.Integer),
    sa.Column("started_at", Instant),
    sa.Column("times", sa.Integer),
    sa.Column("billed_nano", sa.BigInteger, comment="null: not in the bill"),
    sa.Column("booked_nano", sa.BigInteger),
    sa.Column("possible_nano", sa.BigInteger),
    *(sa.Column(name, sa.BigInteger) for name in TOKENS),
    prefixes=["TEMPORARY"],
    comment="what does not stand equal there and here",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What was read of a bill. The times are those of its charges, None if some have none."""

    charges: int
    cost_nano: int
    first_created: datetime | None
    last_created: datetime | None
    bad: int
    first_bad: tuple[BadLine, ...]


@contextlib.asynccontextmanager
async def tables(connection: ReadConnection) -> AsyncIterator[None]:
    """The temporary tables, while the block runs. They are `connection`'s own, and go with it when it is closed."""
    async with connection.begin():
        await connection.run_sync(TEMPORARY.create_all, checkfirst=False)
    try:
        yield
    finally:
        await connection.invalidate()


async def load(connection: ReadConnection, charges: Iterable[Charge | BadLine], *, limit: int) -> Loaded:
    """Fill `charged` and `billed`; `limit` bounds `first_bad` only."""
    bad = 0
    first_bad: list[BadLine] = []
    async with connection.begin():
        for chunk in _chunks(charges):
            wrong = [one for one in chunk if isinstance(one, BadLine)]
            bad += len(wrong)
            first_bad += wrong[: limit - len(first_bad)]
            await _insert(connection, [one for one in chunk if isinstance(one, Charge)])
        await _sum_up(connection)
        summary = (await connection.execute(_summary())).one()
    dated = summary.dated == summary.charges
    return Loaded(
        charges=summary.charges,
        cost_nano=int(summary.cost_nano),
        first_created=summary.first_created if dated else None,
        last_created=summary.last_created if dated else None,
        bad=bad,
        first_bad=tuple(first_bad),
    )


def _chunks(charges: Iterable[Charge | BadLine]) -> Iterator[list[Charge | BadLine]]:
    source = iter(charges)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


async def _insert(connection: ReadConnection, charges: list[Charge]) -> None:
    if not charges:
        return
    values = []
    for one in charges:
        task_id, number = one.attempt or (None, None)
        tokens = (one.prompt_tokens, one.cached_tokens, one.completion_tokens)
        values.append((one.request_id, task_id, number, one.cost_nano, *tokens, one.created))
    await connection.execute(rows.insert(connection, charged, COLUMNS, values))


async def _sum_up(connection: ReadConnection) -> None:
    sums = {name: sa.func.sum(charged.c[name]) for name in ("cost_nano", *TOKENS)}
    named = (charged.c.request_id, charged.c.task_id, charged.c.number)
    source = sa.select(*named, sa.func.count(), *sums.values()).group_by(*named)
    await connection.execute(sa.insert(billed).from_select([column.name for column in billed.c], source))
    # PostgreSQL has no statistics of a temporary table until it is told to make them.
    await connection.exec_driver_sql(f"ANALYZE {billed.name}")


def _summary() -> sa.Select[int, int, int, datetime, datetime]:
    return sa.select(
        sa.func.count().label("charges"),
        sa.func.count(charged.c.created).label("dated"),
        sa.func.coalesce(sa.func.sum(charged.c.cost_nano), 0).label("cost_nano"),
        sa.func.min(charged.c.created).label("first_created"),
        sa.func.max(charged.c.created).label("last_created"),
    )
