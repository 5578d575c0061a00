"""Lines of batches reserve in budgets when they are about to be told to workers, in the same transaction.

A line that does not fit stays queued, and not told. Where nothing is under way that could make room in the budget that
is full, its batch is paused, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.batches import PauseCode
from tollgate.domain.errors import BudgetExceededError
from tollgate.domain.prices import PriceTable
from tollgate.domain.values import value
from tollgate.store import batch_pauses, reservations, rows
from tollgate.store.database import WriteConnection
from tollgate.store.reservations import Plan
from tollgate.store.schema import tasks

COLUMNS = (
    "id", "project_id", "key_id", "batch_id", "model", "route", "prompt_tokens_estimate", "max_tokens",
    "assumed_max_tokens",
)  # fmt: skip
IDS = rows.Given.of(tasks, "id")


@value
class Line:
    """A `reservations.Purchase`."""

    id: UUID
    project_id: UUID
    key_id: str
    batch_id: UUID
    model: str
    route: str
    prompt_tokens_estimate: int
    max_tokens: int | None
    assumed_max_tokens: int
    created_at: datetime
    """When it is told: the day of its budgets, and of its price."""

    @property
    def most_completion_tokens(self) -> int:
        return self.assumed_max_tokens if self.max_tokens is None else self.max_tokens

    @property
    def most_tokens(self) -> int:
        return self.prompt_tokens_estimate + self.most_completion_tokens


async def reserve(
    connection: WriteConnection, ids: Sequence[UUID], *, prices: PriceTable, now: datetime, batch: bool = False
) -> set[UUID]:
    """Reserve for lines that hold nothing yet. Returns those without room, which are not announced any more. `batch`:
    they are bought at the batch price."""
    if not ids:
        return set()
    found = (await rows.execute(connection, _reading, IDS, [(i,) for i in ids])).all()
    lines = [Line(**row._mapping, created_at=now) for row in found]
    plan = await reservations.plan(connection, {i: [line] for i, line in enumerate(lines)}, prices=prices, batch=batch)
    refused = {line.id for i, line in enumerate(lines) if i in plan.refused}
    await reservations.keep(connection, plan, {line.id for line in lines} - refused)
    if refused:
        await _keep_back(connection, refused)
        await _pause(connection, lines, plan, now=now)
    return refused


def _reading(dialect: str) -> rows.Statement:
    return (
        sa.select(*(tasks.c[name] for name in COLUMNS))
        .where(tasks.c.id.in_(sa.select(IDS.table(dialect).c.id)))
        .order_by(tasks.c.line)
    )


async def _keep_back(connection: WriteConnection, refused: set[UUID]) -> None:
    """They were marked, and locked, in this transaction."""
    await rows.execute(connection, _unmarking, IDS, [(i,) for i in sorted(refused)])


def _unmarking(dialect: str) -> rows.Statement:
    return sa.update(tasks).where(tasks.c.id.in_(sa.select(IDS.table(dialect).c.id))).values(announced_at=None)


async def _pause(connection: WriteConnection, lines: Sequence[Line], plan: Plan, *, now: datetime) -> None:
    """The batches of which nothing fits, where nothing is under way that could make room."""
    fits = {line.batch_id for i, line in enumerate(lines) if i not in plan.refused}
    for batch_id, position in _first_refused(lines, plan).items():
        code = _code(plan, position)
        if code is not None and batch_id not in fits:
            why = _why(plan, position, now)
            await batch_pauses.begin(connection, batch_id, code=code, why=why, now=now, wait=False)


def _why(plan: Plan, position: int, now: datetime) -> str:
    why = str(plan.refused[position])
    resets_on = plan.full[position][0].period.resets_on(now.astimezone(UTC).date()) if position in plan.full else None
    return why if resets_on is None else f"{why}. It goes on by itself on {resets_on}, 00:00 UTC"


def _first_refused(lines: Sequence[Line], plan: Plan) -> Mapping[UUID, int]:
    return {lines[i].batch_id: i for i in sorted(plan.refused, reverse=True)}


def _code(plan: Plan, position: int) -> PauseCode | None:
    """None: there will be room by itself. Tasks in flight end; and where a budget is full, what holds some of it may
    come to less than it holds."""
    if position not in plan.full:
        return PauseCode.UNPRICED
    budget, stands = plan.full[position]
    if not isinstance(plan.refused[position], BudgetExceededError) or stands.reserved_tasks > 0:
        return None
    return PauseCode.BUDGET if budget.batch_id is None else PauseCode.MAX_COST
