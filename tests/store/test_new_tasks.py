"""Plain tasks, inserted by one statement that commits by itself: each row by itself, none that a budget counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds, spending
from tests.store.test_intake import ids_of, named, stored
from tollgate.domain.budgets import Period
from tollgate.domain.tasks import NewTask
from tollgate.store import new_tasks
from tollgate.store.database import Database
from tollgate.store.schema import budgets, task_requests, tasks


async def insert_plain(database: Database, new: Sequence[NewTask]) -> set[UUID]:
    async with database.write_once() as connection:
        return await new_tasks.insert_plain(connection, new)


async def test_it_writes_what_a_transaction_writes(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    terms = {"request_id": "r", "custom_id": "名字 ' \" \\", "label": "night", "metadata": '{"a":1}', "max_tokens": 7}
    one, other = seeds.a_task(key, **terms), seeds.a_task(key, **{**terms, "request_id": "s"})
    assert await insert_plain(postgres, [one]) == {one.id}
    await seeds.submit(postgres, [other])
    own = {"id", "task_id", "request_id", "feed"}
    for table in (tasks, task_requests):
        plain, submitted = (
            {name: value for name, value in row._mapping.items() if name not in own}
            for row in sorted(await seeds.rows_of(postgres, table), key=lambda row: row[0] != one.id)
        )
        assert plain == submitted


async def test_what_a_budget_counts_is_left_to_who_reads_it(postgres: Database) -> None:
    free, of_key, of_project = [await seeds.a_key(postgres, project=name) for name in ("free", "b", "c")]
    beside = await seeds.a_key(postgres, project="b")
    await spending.a_budget(postgres, of_key, key_id=of_key.id)
    await spending.a_budget(postgres, of_project, period=Period.DAY)
    new = [seeds.a_task(key) for key in (free, of_key, of_project, beside)]
    assert await insert_plain(postgres, new) == {new[0].id, new[3].id}
    assert await stored(postgres) == {new[0].id, new[3].id}


async def test_a_request_id_that_is_taken_stays_with_its_task(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    first = named(key, "taken")
    await seeds.submit(postgres, [first])
    new = [named(key, "taken"), named(key, "twice"), named(key, "twice", body="b"), named(key, None)]
    inserted = await insert_plain(postgres, new)
    assert len(inserted) == 2
    assert inserted < {task.id for task in new[1:]}
    assert await stored(postgres) == {first.id, *inserted}


async def test_a_row_that_cannot_be_stored_takes_its_statement_with_it(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    with pytest.raises(Exception, match="too long"):
        await insert_plain(postgres, [named(key, "a"), seeds.a_task(key, model="m" * 129)])
    assert await stored(postgres) == set()


async def test_opposite_orders_of_the_same_request_ids_never_deadlock(postgres: Database) -> None:
    """Two gateways; one takes them in plainly and one in a transaction, or both plainly. With budgets of others about,
    of which the planner could make a join that changes the order of the rows."""
    key = await seeds.a_key(postgres)
    other = await seeds.a_key(postgres, project="other")
    await spending.a_budget(postgres, other)
    async with postgres.write() as connection:
        await connection.execute(sa.text("ANALYZE budgets"))
    for turn in range(8):
        names = [f"{turn}-{n}" for n in range(300)]
        forth, back = [[named(key, name) for name in order] for order in (names, names[::-1])]
        beside = insert_plain(postgres, back) if turn % 2 else _submit(postgres, back)
        plain, others = await asyncio.wait_for(asyncio.gather(insert_plain(postgres, forth), beside), timeout=30)
        assert not plain & others
        assert len(plain | others) == 300
    assert await seeds.size(postgres, tasks) == 8 * 300
    assert await seeds.size(postgres, budgets) == 1


async def _submit(database: Database, new: Sequence[NewTask]) -> set[UUID]:
    (outcome,) = await seeds.submit(database, new)
    return set(ids_of(outcome)) & {task.id for task in new}
