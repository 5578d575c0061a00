"""What was measured: the newest answers of a project's model, and the speed of routes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds
from tollgate.domain import ids
from tollgate.domain.estimates import Speed
from tollgate.domain.experience import Sample
from tollgate.domain.settling import Bill
from tollgate.domain.tasks import Key
from tollgate.store import leases, measurements
from tollgate.store.database import Database
from tollgate.store.leases import RouteLoad, WorkerRow


async def answered(database: Database, key: Key, *, tokens: int, seconds: float = 2.0, **changes: Any) -> None:
    claimed = await seeds.running(database, key, **changes)
    bill = Bill(prompt_tokens=100, cached_tokens=20, completion_tokens=tokens, cost_nano=1)
    await seeds.settle(database, seeds.success(claimed, bill=bill), now=seeds.later(seconds))


async def answers(database: Database, key: Key, *models: str, most: int = 1_000) -> list[Sample]:
    async with database.read() as connection:
        return await measurements.answers(
            connection, project_id=key.project_id, models=models or ("glm-4.7",), now=datetime.now(UTC), most=most
        )


async def test_an_answer_is_told_with_what_was_estimated_and_how_long_it_took(database: Database) -> None:
    key = await seeds.a_key(database)
    await answered(database, key, tokens=10, seconds=1.5, prompt_tokens_estimate=130)
    await answered(database, key, tokens=20)
    assert sorted(await answers(database, key)) == [Sample(100, 10, 20, 2.0), Sample(100, 130, 10, 1.5)]


async def test_the_time_of_an_engine_is_told_where_there_is_one(database: Database) -> None:
    key = await seeds.a_key(database)
    for engine_us in (None, 2**40):
        claimed = await seeds.running(database, key)
        bill = Bill(prompt_tokens=100, completion_tokens=10, engine_us=engine_us)
        await seeds.settle(database, seeds.success(claimed, bill=bill), now=seeds.later(1))
    assert {sample.engine_us for sample in await answers(database, key)} == {0, 2**40}


async def test_only_answers_of_the_projects_own_model_count(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    await answered(database, other, tokens=1)
    await answered(database, key, tokens=2, model="glm-other")
    await answered(database, key, tokens=3, model="alias")
    failed = await seeds.running(database, key)
    await seeds.settle(database, seeds.failure(failed))
    await seeds.queued(database, key)
    unknown = await seeds.running(database, key)
    await seeds.settle(database, seeds.success(unknown, bill=Bill()))
    assert await answers(database, key) == []
    assert [sample.completion_tokens for sample in await answers(database, key, "glm-4.7", "alias")] == [3]


async def test_the_newest_count_up_to_a_number(database: Database) -> None:
    key = await seeds.a_key(database)
    for n in range(5):
        await answered(database, key, tokens=n)
    assert {sample.completion_tokens for sample in await answers(database, key, most=3)} == {4, 3, 2}


async def test_lines_that_just_came_in_do_not_hide_the_answers_of_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "WALKED", 10)  # five thousand in earnest
    key, now = await seeds.a_key(database), datetime.now(UTC)
    await answered(database, key, tokens=7, id=ids.first_of(now - timedelta(hours=2)))
    await answered(database, key, tokens=8, id=ids.first_of(now - timedelta(days=2)))
    await seeds.queued(database, key, count=50)
    assert {sample.completion_tokens for sample in await answers(database, key)} == {7, 8}
    monkeypatch.setattr(measurements, "AGES", (timedelta(0),))
    assert await answers(database, key) == [], "they are behind fifty tasks that have no answer"


def worker(**load: tuple[int, int]) -> WorkerRow:
    return WorkerRow(
        id=UUID(int=0), name="w", lanes=("cloud.bulk",), load={route: RouteLoad(*one) for route, one in load.items()},
        heartbeat=1, dead=False, started_at=seeds.NOW, seen_at=seeds.NOW,
    )  # fmt: skip


def test_the_speed_of_a_route_is_that_of_all_its_workers() -> None:
    assert measurements.speeds([worker(a=(20, 3), b=(0, 1)), worker(a=(5, 4))]) == {
        "a": Speed(settled_per_s=20 / leases.SETTLED_WITHIN_S + 5 / leases.SETTLED_WITHIN_S, free=7, workers=2),
        "b": Speed(settled_per_s=0.0, free=1, workers=1),
    }
    assert measurements.speeds([]) == {}
