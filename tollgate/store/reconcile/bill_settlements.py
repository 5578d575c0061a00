"""Uncertain attempts settled by a provider's bill: what it charged is their cost, what it does not list cost nothing.

Each is settled as a late answer to its own attempt (`domain.settling`): roll-up and budgets follow, and its task is
left alone. An attempt that was settled meanwhile is no longer uncertain, and nothing happens to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tollgate.domain.bill_file import TOKENS
from tollgate.domain.settling import Bill, Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import rows, settlements
from tollgate.store.database import Database, ReadConnection, WriteConnection
from tollgate.store.reconcile.bills import compared
from tollgate.store.reconcile.comparisons import Kind
from tollgate.store.schema import attempts

CHUNK = 200
"""Attempts a transaction settles: it holds their tasks' locks, and workers wait for none of them long."""
HOLDS_NOTHING = -1
"""No lease has this fence."""
SETTLED = (Kind.SETTLES, Kind.UNBILLED)
KEPT = ("http_status", "error_code", "error_message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of the uncertain attempts that a bill decides."""

    billed: int
    cost_nano: int
    """Of those billed: now their cost."""
    unbilled: int
    left: int
    """Settled by somebody else since they were compared."""


async def settle(database: Database, connection: ReadConnection, *, now: datetime) -> Settled:
    """Settle what `comparisons.compare` found to be settled. `connection` has its tables, and no transaction."""
    counts: Counter[str] = Counter()
    last = ""
    while page := await _page(connection, after=last):
        last = page[-1].request_id
        async with database.write() as writing:
            given = await _settlements(writing, page)
            resolutions = await settlements.settle(writing, given, now=now)
        for row, resolution in zip(page, resolutions, strict=True):
            counts[row.kind if resolution.attempt else "left"] += 1
            counts["cost_nano"] += (row.billed_nano or 0) if resolution.attempt else 0
    return Settled(
        billed=counts[Kind.SETTLES],
        cost_nano=counts["cost_nano"],
        unbilled=counts[Kind.UNBILLED],
        left=counts["left"],
    )


async def _page(connection: ReadConnection, *, after: str) -> Sequence[Any]:
    statement = (
        sa.select(compared)
        .where(compared.c.kind.in_(SETTLED), compared.c.request_id > after)
        .order_by(compared.c.request_id)
        .limit(CHUNK)
    )
    async with connection.begin():
        return (await connection.execute(statement)).all()


async def _settlements(connection: WriteConnection, page: Sequence[Any]) -> list[Settlement]:
    """They keep what is known of the error: why an attempt was uncertain is still of interest."""
    kinds = {name: attempts.c[name].type for name in ("task_id", "number")}
    given = rows.table_of(connection, kinds, [(row.task_id, row.number) for row in page])
    same = sa.and_(attempts.c.task_id == given.c.task_id, attempts.c.number == given.c.number)
    statement = sa.select(*(attempts.c[name] for name in ("task_id", "number", *KEPT))).join(given, same)
    found = {(row.task_id, row.number): row for row in (await connection.execute(statement)).all()}
    return [_settlement(row, known=found.get((row.task_id, row.number))) for row in page]


def _settlement(row: Any, *, known: Any) -> Settlement:
    tokens = {name: getattr(row, name) for name in TOKENS}
    told: dict[str, Any] = {name: getattr(known, name, None) for name in KEPT}
    return Settlement(
        task_id=row.task_id,
        fence=HOLDS_NOTHING,
        attempt=row.number,
        outcome=AttemptOutcome.FAILED,
        state=TaskState.FAILED,
        bill=Bill(cost_nano=row.billed_nano, **tokens),
        **told,
    )
