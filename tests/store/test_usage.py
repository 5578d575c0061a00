from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.settling import Counts
from tollgate.store import usage
from tollgate.store.database import Database
from tollgate.store.schema import usage_hourly
from tollgate.store.usage import UsageRow

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
BOOKINGS = (
    # hour, project, key, model, upstream, label, shard, cost
    (datetime(2026, 2, 28, 23, tzinfo=UTC), "acme", "k1", "m1", "u1", "", 0, 1),
    (datetime(2026, 2, 28, 23, tzinfo=UTC), "acme", "k1", "m1", "u1", "", 7, 2),
    (datetime(2026, 3, 1, 0, tzinfo=UTC), "acme", "k2", "m2", "u1", "red", 0, 4),
    (datetime(2026, 3, 1, 9, tzinfo=UTC), "acme", "k1", "m1", "u2", "red", 0, 8),
    (datetime(2026, 3, 1, 9, tzinfo=UTC), "globex", "k3", "m1", "u1", "", 0, 2**40),
)


async def book(database: Database) -> dict[str, UUID]:
    """BOOKINGS, with their cost in every count. Returns the projects' ids."""
    projects = {name: (await seeds.a_key(database, project=name)).project_id for name in ("acme", "globex")}
    async with database.write() as connection:
        for hour, project, key, model, upstream, label, shard, cost in BOOKINGS:
            counts = dict.fromkeys(Counts.__dataclass_fields__, cost)
            await connection.execute(
                sa.insert(usage_hourly).values(
                    hour=hour, project_id=projects[project], key_id=key, model=model, upstream=upstream, label=label,
                    shard=shard, **counts,
                )
            )  # fmt: skip
    return projects


async def summarise(database: Database, *by: str, project_id: UUID | None = None, **options: Any) -> list[UsageRow]:
    period = {"since": START, "until": END, **options}
    async with database.read() as connection:
        return await usage.summarise(connection, by=by, project_id=project_id, **period)


def short(found: Sequence[UsageRow]) -> dict[tuple[str, ...], int]:
    return {tuple(row.group.values()): row.counts.cost_nano for row in found}


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (("hour",), {("2026-02-28 23:00",): 3, ("2026-03-01 00:00",): 4, ("2026-03-01 09:00",): 2**40 + 8}),
        (("day",), {("2026-02-28",): 3, ("2026-03-01",): 2**40 + 12}),
        (("month",), {("2026-02",): 3, ("2026-03",): 2**40 + 12}),
        (("project",), {("acme",): 15, ("globex",): 2**40}),
        (("key",), {("k1",): 11, ("k2",): 4, ("k3",): 2**40}),
        (("model",), {("m1",): 2**40 + 11, ("m2",): 4}),
        (("upstream",), {("u1",): 2**40 + 7, ("u2",): 8}),
        (("label",), {("",): 2**40 + 3, ("red",): 12}),
        (("model", "day"), {("m1", "2026-02-28"): 3, ("m1", "2026-03-01"): 2**40 + 8, ("m2", "2026-03-01"): 4}),
        ((), {(): 2**40 + 15}),
    ],
)
async def test_usage_is_summed_by(database: Database, by: tuple[str, ...], expected: dict[Any, int]) -> None:
    await book(database)
    found = await summarise(database, *by)
    assert short(found) == expected
    assert list(short(found)) == sorted(expected)
    assert all(set(vars_of(row.counts)) == {row.counts.cost_nano} for row in found)


def vars_of(counts: Counts) -> list[int]:
    return [getattr(counts, name) for name in Counts.__dataclass_fields__]


def test_every_dimension_has_its_test() -> None:
    assert usage.DIMENSIONS == ("hour", "day", "month", "project", "key", "model", "upstream", "label")


async def test_a_project_sees_its_own_usage_only(database: Database) -> None:
    projects = await book(database)
    assert short(await summarise(database, "project", project_id=projects["acme"])) == {("acme",): 15}


async def test_usage_of_one_key(database: Database) -> None:
    await book(database)
    assert short(await summarise(database, "model", key_id="k1")) == {("m1",): 11}


async def test_the_start_is_inside_and_the_end_is_not(database: Database) -> None:
    await book(database)
    since, until = datetime(2026, 3, 1, 0, tzinfo=UTC), datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert short(await summarise(database, "hour", since=since, until=until)) == {("2026-03-01 00:00",): 4}


async def test_hours_are_utc_whatever_the_servers_time_zone(postgres: Database) -> None:
    await book(postgres)
    async with postgres.read() as connection:
        await connection.exec_driver_sql("SET TIME ZONE 'Asia/Shanghai'")
        found = await usage.summarise(connection, by=("day",), project_id=None, since=START, until=END)
    assert short(found) == {("2026-02-28",): 3, ("2026-03-01",): 2**40 + 12}


async def test_no_usage_sums_to_nothing(database: Database) -> None:
    assert await summarise(database, "model") == []
    assert await summarise(database) == [UsageRow(group={}, counts=Counts())]


async def test_what_was_settled_is_what_usage_tells(database: Database) -> None:
    key = await seeds.a_key(database)
    for label in ("a", "b"):
        await seeds.settle(database, seeds.success(await seeds.running(database, key, label=label)))
    (row,) = await summarise(database, "key", "model")
    assert row.group == {"key": key.id, "model": "glm-4.7"}
    assert row.counts == Counts(
        tasks_succeeded=2, attempts=2, prompt_tokens=200, cached_tokens=40, completion_tokens=100, cost_nano=1_200_000
    )
