"""Reserving as tasks are inserted, by what is foreseen of their budgets: whatever is not so is read. PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds, spending
from tests.store.spending import NANO, PRICES, RESERVED
from tests.store.test_reservations import is_accepted
from tollgate.domain.budgets import Period
from tollgate.domain.errors import BudgetExceededError, InvalidRequestError
from tollgate.domain.ids import new_id
from tollgate.domain.tasks import Accepted, Key, NewTask
from tollgate.store import budgets, labels, periods
from tollgate.store.database import Database
from tollgate.store.foresight import MOST_PASSES, Foresight
from tollgate.store.schema import task_requests, tasks


@dataclass(slots=True)
class Gateway:
    """Takes tasks in, as a process that has seen this before."""

    database: Database
    foresight: Foresight = field(default_factory=Foresight)

    async def submit(self, *submissions: Sequence[NewTask]) -> list[Any]:
        return await spending.take_in(self.database, self.foresight, *submissions)

    def foresees(self, *new: NewTask) -> bool:
        """Now, or after a while."""
        return any(self.foresight.of(new, prices=PRICES) is not None for _ in range(MOST_PASSES + 1))


async def experienced(database: Database, key: Key) -> Gateway:
    """One that has read the budgets of `key`."""
    gateway = Gateway(database)
    (outcome,) = await gateway.submit([spending.a_task(key)])
    assert is_accepted(outcome)
    assert gateway.foresees(spending.a_task(key))
    return gateway


async def stands(database: Database, budget_id: UUID) -> int:
    """How many tasks of this file's kind are reserved, as the period and as their rows say."""
    total, should = await spending.in_total(database, budget_id), await spending.from_the_rows(database)
    assert sum(amounts.nano for (of, _), amounts in should.items() if of == budget_id) == total.nano
    assert total.nano == total.reserved_tasks * NANO
    return total.reserved_tasks


async def test_what_is_foreseen_is_reserved_in_one_statement(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    of_project = await spending.a_budget(postgres, key, period=Period.MONTH)
    of_key = await spending.a_budget(postgres, key, key_id=key.id, limit_nano=None, limit_tokens=10**6)
    gateway = await experienced(postgres, key)
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        new = [spending.a_task(key), spending.a_task(key)]
        assert await gateway.submit(new[:1], new[1:]) == [(Accepted(id=task.id),) for task in new]
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert len(asked) == 1
    assert [await stands(postgres, budget_id) for budget_id in (of_project, of_key)] == [3, 3]
    assert await spending.stands(postgres, of_project) == {"2026-03-01": RESERVED + RESERVED + RESERVED}


async def test_neighbours_without_a_budget_reserve_nothing(postgres: Database) -> None:
    key, other = await seeds.a_key(postgres), await seeds.a_key(postgres, project="other")
    budget_id = await spending.a_budget(postgres, key)
    gateway = await experienced(postgres, key)
    free = spending.a_task(other)
    assert all(map(is_accepted, await gateway.submit([free], [spending.a_task(key)])))
    row = await seeds.row(postgres, free.id)
    assert (row.reserved_nano, row.reserved_tokens, row.charged_to) == (None, None, None)
    assert await stands(postgres, budget_id) == 2


async def test_without_room_it_is_refused_as_ever_and_read_until_there_is_room(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key, limit_nano=3 * NANO)
    gateway = await experienced(postgres, key)
    fits, refused = await gateway.submit([spending.a_task(key)], [spending.a_task(key), spending.a_task(key)])
    assert is_accepted(fits)
    assert isinstance(refused, BudgetExceededError)
    assert refused.left == {"cost": "0.00074"}
    assert await seeds.size(postgres, tasks) == await stands(postgres, budget_id) == 2
    assert not gateway.foresees(spending.a_task(key))
    assert is_accepted((await gateway.submit([spending.a_task(key)]))[0])
    assert gateway.foresees(spending.a_task(key))


async def test_the_last_unit_can_be_reserved_and_no_more(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key, limit_nano=2 * NANO, limit_tokens=3 * spending.TOKENS - 1)
    gateway = await experienced(postgres, key)
    assert [is_accepted((await gateway.submit([spending.a_task(key)]))[0]) for _ in range(2)] == [True, False]
    assert await stands(postgres, budget_id) == 2


async def test_a_budget_that_is_new_counts(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    await spending.a_budget(postgres, key)
    gateway = await experienced(postgres, key)
    new = await spending.a_budget(postgres, key, key_id=key.id, limit_nano=NANO)
    outcomes = [(await gateway.submit([spending.a_task(key)]))[0] for _ in range(2)]
    assert [is_accepted(outcome) for outcome in outcomes] == [True, False]
    assert outcomes[1].budget_id == str(new)


async def test_a_limit_in_money_that_is_new_refuses_what_has_no_price(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    await spending.a_budget(postgres, key, limit_nano=None, limit_tokens=10**6)
    gateway = await experienced(postgres, key)
    outcomes = []
    for _ in range(2):
        outcomes += await gateway.submit([spending.a_task(key, route="zhipu/unpriced")])
        await spending.a_budget(postgres, key, limit_nano=10**12, limit_tokens=10**6)
    assert is_accepted(outcomes[0])
    assert isinstance(outcomes[1], BudgetExceededError)


async def test_what_is_not_as_foreseen_is_not_tried_again_at_once(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key)
    gateway = await experienced(postgres, key)
    async with postgres.write() as connection:
        await budgets.remove(connection, budget_id)
    assert [await transactions_of(gateway, spending.a_task(key)) for _ in range(3)] == [2, 1, 1]


async def test_repeats_are_not_taken_in_twice_each_time(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    await spending.a_budget(postgres, key, limit_nano=10**12)
    gateway = await experienced(postgres, key)
    repeated = spending.a_task(key, request_id="request-1")
    await gateway.submit([repeated])
    made = [await transactions_of(gateway, replace(repeated, id=new_id()), spending.a_task(key)) for _ in range(99)]
    assert 99 < sum(made) < 99 + 7, "ever less often"


async def transactions_of(gateway: Gateway, *new: NewTask) -> int:
    """How many it takes to take `new` in, all of them accepted."""
    begun = 0

    def note(_connection: Any) -> None:
        nonlocal begun
        begun += 1

    sa.event.listen(sa.Engine, "begin", note)
    try:
        assert all(map(is_accepted, await gateway.submit(*([task] for task in new))))
    finally:
        sa.event.remove(sa.Engine, "begin", note)
    return begun


async def test_a_budget_that_is_gone_counts_nothing(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    gone, left = await spending.a_budget(postgres, key), await spending.a_budget(postgres, key, period=Period.DAY)
    gateway = await experienced(postgres, key)
    async with postgres.write() as connection:
        await budgets.remove(connection, gone)
    task = spending.a_task(key)
    assert is_accepted((await gateway.submit([task]))[0])
    assert (await seeds.row(postgres, task.id)).charged_to == f"{left.hex}@2026-03-01"
    assert await stands(postgres, left) == 2


async def test_a_raised_limit_is_heeded_without_being_read(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key, limit_nano=NANO)
    gateway = await experienced(postgres, key)
    await spending.a_budget(postgres, key, limit_nano=2 * NANO)
    assert is_accepted((await gateway.submit([spending.a_task(key)]))[0])
    assert await stands(postgres, budget_id) == 2


async def test_the_next_period_begins(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key, period=Period.DAY, limit_nano=NANO)
    gateway = await experienced(postgres, key)
    tomorrow = seeds.NOW + timedelta(days=1)
    assert is_accepted((await gateway.submit([spending.a_task(key, created_at=tomorrow)]))[0])
    assert await stands(postgres, budget_id) == 2
    assert len(await spending.stands(postgres, budget_id)) == 2


async def test_a_repeat_reserves_nothing_and_its_neighbour_what_it_should(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key)
    gateway = await experienced(postgres, key)
    first = spending.a_task(key, request_id="request-1")
    await gateway.submit([first])
    again, fresh = spending.a_task(key, request_id="request-1"), spending.a_task(key)
    assert await gateway.submit([again], [fresh]) == [
        (Accepted(id=first.id, duplicate=True),),
        (Accepted(id=fresh.id),),
    ]
    assert await stands(postgres, budget_id) == 3


async def test_a_repeat_teaches_nothing_of_its_own_budgets(postgres: Database) -> None:
    key, other = await seeds.a_key(postgres), await seeds.a_key(postgres, project="other")
    for one in (key, other):
        await spending.a_budget(postgres, one)
    gateway = await experienced(postgres, key)
    repeated = spending.a_task(key, request_id="request-1")
    await gateway.submit([repeated])
    await gateway.submit([replace(repeated, id=new_id())], [spending.a_task(other)])
    assert gateway.foresees(spending.a_task(other))


async def test_one_label_too_many_reserves_nothing(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MAX_LABELS", 1)
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key)
    gateway = await experienced(postgres, key)
    accepted, refused = await gateway.submit([spending.a_task(key, label="a")], [spending.a_task(key, label="b")])
    assert is_accepted(accepted)
    assert isinstance(refused, InvalidRequestError)
    assert await stands(postgres, budget_id) == await seeds.size(postgres, tasks) == 2


async def test_a_model_without_a_price_is_refused(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key)
    gateway = await experienced(postgres, key)
    unpriced, accepted = await gateway.submit([spending.a_task(key, route="zhipu/unknown")], [spending.a_task(key)])
    assert isinstance(unpriced, BudgetExceededError)
    assert is_accepted(accepted)
    assert await stands(postgres, budget_id) == 2


async def test_tasks_in_flight_are_always_read_for_what_is_left_is_told(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    await spending.a_budget(postgres, key, key_id=key.id, limit_tasks=3, **spending.IN_FLIGHT)
    gateway = Gateway(postgres)
    left = [(await gateway.submit([spending.a_task(key)]))[0][0].in_flight_left for _ in range(3)]
    assert left == [2, 1, 0]


async def test_gateways_at_once_cannot_overshoot(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key, limit_nano=9 * NANO)
    gateways = [await experienced(postgres, key) for _ in range(4)]
    outcomes = await asyncio.gather(*(gateways[n % 4].submit([spending.a_task(key)]) for n in range(16)))
    assert sum(is_accepted(outcome) for (outcome,) in outcomes) == 5
    assert await stands(postgres, budget_id) == await seeds.size(postgres, tasks) == 9


async def test_gateways_with_the_same_request_ids_never_wait_in_a_ring(postgres: Database) -> None:
    """Each waits for a task of the other's, and both for the budget's period."""
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key, limit_nano=10**12)
    await spending.a_budget(postgres, key, limit_nano=10**12, period=Period.DAY)
    gateways = [await experienced(postgres, key) for _ in range(4)]

    async def submit(gateway: Gateway, turn: int) -> None:
        new = [spending.a_task(key, request_id=f"request-{turn}-{n}") for n in range(6)]
        mixed = new[turn % 6 :] + new[: turn % 6]
        assert all(map(is_accepted, await gateway.submit(*([task] for task in mixed))))

    async with asyncio.timeout(60):
        for turn in range(10):
            await asyncio.gather(*(submit(gateway, turn) for gateway in gateways))
    assert await stands(postgres, budget_id) == 4 + 60


async def test_it_is_as_foreseen_also_after_a_wait_for_the_period(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key)
    gateway = await experienced(postgres, key)
    async with postgres.write() as connection:
        await spending.submit_in(connection, [spending.a_task(key)])
        submitting = asyncio.create_task(gateway.submit([spending.a_task(key)]))
        await seeds.until_waiting(postgres)
    assert is_accepted((await submitting)[0])
    assert not gateway.foresight.misses
    assert await stands(postgres, budget_id) == 3


async def test_a_label_is_foreseen_once_it_was_seen(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    await spending.a_budget(postgres, key)
    gateway = await experienced(postgres, key)
    assert not gateway.foresees(spending.a_task(key, label="a"))
    await gateway.submit([spending.a_task(key, label="a")])
    assert gateway.foresees(spending.a_task(key, label="a"))
    assert not gateway.foresees(spending.a_task(key, label="b"))


async def test_no_period_is_locked_while_a_task_is_waited_for(postgres: Database) -> None:
    """Others lock tasks first, and then periods: they would wait for each other."""
    key = await seeds.a_key(postgres)
    budget_id = await spending.a_budget(postgres, key)
    gateway = await experienced(postgres, key)
    before, taken = (spending.a_task(key, request_id=f"request-{n}") for n in range(2))
    await gateway.submit([taken])
    async with postgres.write() as connection:
        await connection.execute(sa.delete(task_requests).where(task_requests.c.task_id == taken.id))
        await connection.execute(sa.delete(tasks).where(tasks.c.id == taken.id))
        again = replace(taken, id=new_id())
        submitting = asyncio.create_task(gateway.submit([before], [again]))
        await seeds.until_waiting(postgres)
        async with asyncio.timeout(10):
            await periods.lock(connection, await spending.kept(postgres))
    assert await submitting == [(Accepted(id=before.id),), (Accepted(id=again.id),)]
    assert (await spending.in_total(postgres, budget_id)).reserved_tasks == 4, "one of them was removed by hand"


async def test_on_sqlite_budgets_are_read(sqlite: Database) -> None:
    key = await seeds.a_key(sqlite)
    budget_id = await spending.a_budget(sqlite, key, limit_nano=2 * NANO)
    gateway = await experienced(sqlite, key)
    outcomes = [(await gateway.submit([spending.a_task(key)]))[0] for _ in range(2)]
    assert [is_accepted(outcome) for outcome in outcomes] == [True, False]
    assert await stands(sqlite, budget_id) == 2


def test_an_unknown_payer_is_taken_to_have_no_budget() -> None:
    assert Foresight().of([], prices=PRICES) is None
