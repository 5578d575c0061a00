"""Budgets in the store's tests: made, filled, and computed anew from the tasks and attempts that fill them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any
from uuid import UUID

from tests.store import seeds
from tollgate.domain.budgets import AMOUNTS, NOTHING, Amounts, Budget, Period, charged
from tollgate.domain.ids import new_id
from tollgate.domain.prices import PriceTable
from tollgate.domain.settling import BILL, Bill
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.tasks import Key, NewTask
from tollgate.store import budgets, intake, reservations
from tollgate.store.database import Database, WriteConnection
from tollgate.store.foresight import Foresight
from tollgate.store.schema import attempts, budget_periods, tasks

PRICES = PriceTable([seeds.PRICE])
NANO, TOKENS = 740_000, 100
"""The most that `a_task` can come to: 10 tokens in for 2,000 each, 90 out for 8,000."""
RESERVED = Amounts(reserved_nano=NANO, reserved_tokens=TOKENS, reserved_tasks=1)
SPENT = Amounts(spent_nano=600_000, spent_tokens=150)
"""Of `seeds.BILL`."""
POSSIBLE = Bill(possible_cost_nano=NANO, possible_tokens=TOKENS)
IN_DOUBT = Amounts(uncertain_nano=NANO, uncertain_tokens=TOKENS)
PeriodKey = tuple[UUID, date]
OF_MONEY = (Period.DAY, Period.MONTH, Period.TOTAL)
IN_FLIGHT: dict[str, Any] = {"period": Period.IN_FLIGHT, "limit_nano": None}
"""Of a budget of tasks in flight, beside its `limit_tasks`."""


def a_task(key: Key, **changes: Any) -> NewTask:
    """One that reserves RESERVED."""
    return seeds.a_task(key, **{"max_tokens": 90, **changes})


async def a_budget(database: Database, key: Key, *, now: datetime = seeds.NOW, **changes: Any) -> UUID:
    """Of the project of `key`, in total, for 5 tasks' money; unless `changes` of Budget say otherwise."""
    plain = Budget(
        id=new_id(), project_id=key.project_id, key_id=None, period=Period.TOTAL, limit_nano=5 * NANO, limit_tokens=None
    )
    async with database.write() as connection:
        return (await budgets.put(connection, replace(plain, **changes), now=now)).id


async def submit(database: Database, *submissions: Sequence[NewTask], prices: PriceTable = PRICES) -> list[Any]:
    """The outcomes of `submissions`, all in one statement."""
    async with database.write() as connection:
        return await submit_in(connection, *submissions, prices=prices)


async def take_in(database: Database, foresight: Foresight, *submissions: Sequence[NewTask]) -> list[Any]:
    """The outcomes of `submissions`, as a gateway with this foresight takes them in."""
    given = [tuple(one) for one in submissions]
    return list(await intake.take_in(database, given, prices=PRICES, foresight=foresight))


async def submit_in(
    connection: WriteConnection, *submissions: Sequence[NewTask], prices: PriceTable = PRICES
) -> list[Any]:
    """The same in a transaction that is open already."""
    return list(await intake.submit(connection, [tuple(one) for one in submissions], prices=prices))


async def stands(database: Database, budget_id: UUID) -> dict[str, Amounts]:
    """By the first day of its periods that anything was ever submitted in."""
    return {
        row.starts_on.isoformat(): _amounts(row)
        for row in await seeds.rows_of(database, budget_periods)
        if row.budget_id == budget_id
    }


async def in_total(database: Database, budget_id: UUID) -> Amounts:
    return sum((await stands(database, budget_id)).values(), start=NOTHING)


async def kept(database: Database) -> dict[PeriodKey, Amounts]:
    return {(row.budget_id, row.starts_on): _amounts(row) for row in await seeds.rows_of(database, budget_periods)}


async def from_the_rows(database: Database) -> dict[PeriodKey, Amounts]:
    """What should stand in every period that a task names."""
    sums: defaultdict[PeriodKey, Amounts] = defaultdict(lambda: NOTHING)
    owners = {row.id: row for row in await seeds.rows_of(database, tasks)}
    for row in owners.values():
        for period in reservations.periods_of(row.charged_to):
            sums[period] += Amounts(
                reserved_nano=row.reserved_nano or 0,
                reserved_tokens=row.reserved_tokens or 0,
                reserved_tasks=int(not TaskState(row.state).ended),
            )
    for row in await seeds.rows_of(database, attempts):
        bill = Bill(**{name: getattr(row, name) for name in BILL})
        for period in reservations.periods_of(owners[row.task_id].charged_to):
            sums[period] += charged(AttemptOutcome(row.outcome), bill)
    return dict(sums)


def _amounts(row: Any) -> Amounts:
    return Amounts(**{name: getattr(row, name) for name in AMOUNTS})
