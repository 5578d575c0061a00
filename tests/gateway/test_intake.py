"""Submits at once: what each shares with its neighbours is a statement, not an outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import pytest

from gateway.fleet import Fleet
from gateway.intake import Intake
from gateway.prices import PriceBook
from tests.garbage import nothing_left
from tests.gateway.gate import Gate
from tests.store import seeds, spending
from tests.store.test_intake import stored
from tollgate.broker.publisher import Publisher
from tollgate.domain.admission import Limits
from tollgate.domain.errors import BudgetExceededError, RequestIdConflictError, StoreUnavailableError
from tollgate.domain.tasks import Accepted, Key, NewTask, TaskRequest
from tollgate.store import budgets, new_tasks
from tollgate.store.database import Database


@dataclass
class Told:
    """Stands for the publisher."""

    ids: list[UUID] = field(default_factory=list)

    def announce(self, lane: str, hints: Mapping[str, Sequence[UUID]]) -> None:
        for ids in hints.values():
            self.ids += ids


@dataclass
class House:
    database: Database
    told: Told
    intake: Intake
    plain: list[int]
    """How many tasks each plain statement was given."""

    async def submit(self, key: Key, **changes: Any) -> Accepted:
        return await self.intake.submit_one(asked(**changes), key=key)


def asked(*, prompt: str = "hello", **changes: Any) -> TaskRequest:
    body = {"model": "glm-4.7", "messages": [{"role": "user", "content": prompt}]}
    return TaskRequest(model="glm-4.7", body=body, **changes)


@pytest.fixture
async def house(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    services, told, plain = gate.services, Told(), list[int]()
    prices = PriceBook(services.database)
    await prices.start()
    insert_plain = new_tasks.insert_plain

    async def noted(connection: Any, new: Sequence[NewTask]) -> set[UUID]:
        plain.append(len(new))
        return await insert_plain(connection, new)

    monkeypatch.setattr(new_tasks, "insert_plain", noted)
    intake = Intake(
        services.database,
        cast("Publisher", told),
        catalog=services.catalog,
        limits=Limits(),
        prices=prices,
        fleet=Fleet(services.database, services.catalog),
    )
    yield House(services.database, told, intake, plain)
    await intake.drain()
    await prices.stop()


async def test_each_gets_its_own_outcome_and_each_new_task_is_told_once(house: House) -> None:
    key = await seeds.a_key(house.database)
    under_a_budget = await seeds.a_key(house.database, project="budgeted")
    budget_id = await spending.a_budget(house.database, under_a_budget, limit_nano=10**12)
    first = await house.submit(key, request_id="taken")
    submits = [
        house.submit(key),
        house.submit(key, request_id="taken"),
        house.submit(key, request_id="taken", prompt="another"),
        house.submit(key, request_id="twice"),
        house.submit(key, request_id="twice"),
        house.submit(under_a_budget),
        house.submit(key, label="night"),
    ]
    free, again, conflict, *twice, budgeted, labelled = await asyncio.gather(*submits, return_exceptions=True)
    assert isinstance(conflict, RequestIdConflictError)
    assert conflict.task_id == str(first.id)
    assert again == Accepted(id=first.id, duplicate=True)
    accepted = [one for one in (free, *twice, budgeted, labelled) if isinstance(one, Accepted)]
    assert sorted(one.duplicate for one in accepted) == [False] * 4 + [True]
    new = {first.id, *(one.id for one in accepted)}
    assert len(new) == 5
    assert await stored(house.database) == new
    assert sorted(house.told.ids) == sorted(new)
    assert (await spending.in_total(house.database, budget_id)).reserved_tasks == 1


@pytest.mark.parametrize("refused", [RequestIdConflictError, BudgetExceededError, StoreUnavailableError])
async def test_what_is_refused_leaves_no_prompt_behind(
    house: House, refused: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many are, of clients that try again, and the collector comes seldom."""
    key = await seeds.a_key(house.database)
    changes = {"request_id": "taken"} if refused is RequestIdConflictError else {}
    await house.submit(key, **changes)
    if refused is BudgetExceededError:
        await spending.a_budget(house.database, key, limit_nano=1)
    if refused is StoreUnavailableError:
        gone = Database.connect("postgresql://nobody:password@127.0.0.1:1/nothing")
        for name in ("write", "write_once"):
            monkeypatch.setattr(house.database, name, getattr(gone, name))

    async def submit() -> type[Exception] | None:
        try:
            await house.submit(key, prompt="another", **changes)
        except Exception as error:
            return type(error)
        return None

    await submit()
    with nothing_left(NewTask, TaskRequest):
        assert set(await asyncio.gather(*(submit() for _ in range(5)))) == {refused}
        await house.intake.drain()


async def test_what_is_plain_goes_together_and_the_rest_is_decided(house: House) -> None:
    if house.database.dialect == "sqlite":
        await house.submit(await seeds.a_key(house.database))
        assert house.plain == []
        return
    key = await seeds.a_key(house.database)
    await asyncio.gather(*(house.submit(key) for _ in range(20)))
    assert sum(house.plain) == 20
    assert len(house.plain) < 20
    house.plain.clear()
    await house.submit(key, label="new")
    await house.intake.submit_all([asked(), asked()], key=key)
    assert house.plain == []  # a label needs a place first, a list is taken whole or not at all
    await house.submit(key, label="new")
    assert house.plain == [1]


async def test_a_payer_with_a_budget_is_met_once_and_one_whose_budget_goes_is_plain_again(house: House) -> None:
    if house.database.dialect == "sqlite":
        return
    key = await seeds.a_key(house.database)
    budget_id = await spending.a_budget(house.database, key, limit_nano=10**12)
    for _ in range(3):
        await house.submit(key)
    assert house.plain == [1]
    async with house.database.write() as connection:
        await budgets.remove(connection, budget_id)
    for _ in range(3):
        await house.submit(key)
    assert len(house.plain) >= 2
    assert len(house.told.ids) == 6
