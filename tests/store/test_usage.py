from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds
from tollgate.domain.settling import Booking, Counts
from tollgate.store import roll_up, rows, shards, usage
from tollgate.store.database import Database
from tollgate.store.schema import USAGE_COUNTS
from tollgate.store.usage import Asked, UsageRow, parts

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
            booking = Booking(
                hour=hour, project_id=projects[project], key_id=key, model=model, upstream=upstream, label=label,
                counts=Counts(**dict.fromkeys(Counts.__dataclass_fields__, cost)),
            )  # fmt: skip
            await rows.execute_together(connection, *roll_up.booking([booking], shard=shard))
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


@pytest.mark.parametrize("seed", range(3))
async def test_days_tell_what_their_hours_would(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    owners = {name: (await seeds.a_key(database, project=name)).project_id for name in ("acme", "globex")}
    booked = [a_booking(chance, owners) for _ in range(150)]
    async with database.write() as connection:
        for chunk in (booked[:50], booked[50:100], booked[100:]):
            await rows.execute_together(connection, *roll_up.booking(chunk, shard=chance.randrange(3)))
        await shards.merge(connection, chance.choice(roll_up.ROLL_UPS), now=START + timedelta(days=3))
    for _ in range(60):
        by = chance.sample(usage.DIMENSIONS, chance.randrange(4))
        since, until = (START + timedelta(minutes=30 * n) for n in sorted(chance.sample(range(-10, 5 * 48), 2)))
        project, key_id = chance.choice((None, *owners)), chance.choice((None, None, "k1"))
        asked: dict[str, Any] = {"since": since, "until": until, "key_id": key_id}
        found = await summarise(database, *by, project_id=owners[project] if project else None, **asked)
        assert found == by_hand(booked, by, owners=owners, project=project, **asked)


def a_booking(chance: random.Random, owners: dict[str, UUID]) -> Booking:
    return Booking(
        hour=START + timedelta(hours=chance.randrange(5 * 24)),
        project_id=owners[chance.choice(("acme", "globex"))],
        key_id=chance.choice(("k1", "k2")),
        model=chance.choice(("m1", "m2")),
        upstream=chance.choice(("", "u1")),
        label=chance.choice(("", "red", "blue")),
        counts=Counts(**{name: chance.randrange(2**40) for name in Counts.__dataclass_fields__}),
    )


def by_hand(
    booked: list[Booking], by: list[str], *, owners: dict[str, UUID], project: str | None, key_id: str | None,
    since: datetime, until: datetime,
) -> list[UsageRow]:  # fmt: skip
    """Booking by booking, each in its hour."""
    names = {project_id: name for name, project_id in owners.items()}
    sums: defaultdict[tuple[str, ...], Counts] = defaultdict(Counts)
    if not by:
        sums[()] = Counts()
    for one in booked:
        words = {
            "hour": f"{one.hour:%Y-%m-%d %H:00}", "day": f"{one.hour:%Y-%m-%d}", "month": f"{one.hour:%Y-%m}",
            "project": names[one.project_id], "key": one.key_id, "model": one.model, "upstream": one.upstream,
            "label": one.label,
        }  # fmt: skip
        if since <= one.hour < until and project in (None, words["project"]) and key_id in (None, one.key_id):
            sums[tuple(words[name] for name in by)] += one.counts
    return [UsageRow(group=dict(zip(by, words, strict=True)), sums=astuple(sums[words])) for words in sorted(sums)]


@pytest.mark.parametrize(
    ("by", "since", "until", "expected"),
    [
        ("day", "01-01T00", "01-03T00", ["usage_daily_totals 01-01 01-03"]),
        ("month,model", "01-01T00", "01-03T00", ["usage_daily_totals 01-01 01-03"]),
        ("day,label", "01-01T00", "01-03T00", ["usage_daily 01-01 01-03"]),
        ("key", "01-01T00", "01-03T00", ["usage_daily 01-01 01-03"]),
        ("hour,key", "01-01T00", "01-03T00", ["usage_hourly 01-01T00 01-03T00"]),
        ("day", "01-01T05", "01-02T23", ["usage_hourly 01-01T05 01-02T23"]),
        ("day", "01-01T05", "01-02T00", ["usage_hourly 01-01T05 01-02T00"]),
        (
            "day",
            "01-01T05",
            "01-03T07",
            [
                "usage_daily_totals 01-02 01-03",
                "usage_hourly 01-01T05 01-02T00",
                "usage_hourly 01-03T00 01-03T07",
            ],
        ),
    ],
)
def test_whole_days_are_read_by_day_and_the_edges_by_hour(by: str, since: str, until: str, expected: list[str]) -> None:
    start, end = (datetime.fromisoformat(f"2026-{text}+00:00") for text in (since, until))
    asked = Asked(by=by.split(","), since=start, until=end, project_id=None, key_id=None)
    assert [f"{part.table.name} {short_time(part.start)} {short_time(part.end)}" for part in parts(asked)] == expected


def short_time(at: date) -> str:
    return at.strftime("%m-%dT%H" if isinstance(at, datetime) else "%m-%d")


def test_one_keys_usage_is_not_in_the_totals() -> None:
    asked = Asked(by=["day"], since=START, until=END, project_id=None, key_id="k1")
    assert [part.table.name for part in parts(asked)] == ["usage_daily"]


def test_the_total_is_over_all_groups() -> None:
    found = [UsageRow(group={}, sums=tuple(range(n, n + 12))) for n in (0, 100)]
    assert usage.total(found) == tuple(range(100, 124, 2))
    assert usage.total([]) == (0,) * len(USAGE_COUNTS)


def test_sums_stand_in_the_order_of_counts() -> None:
    assert tuple(Counts.__dataclass_fields__) == USAGE_COUNTS


async def test_no_usage_sums_to_nothing(database: Database) -> None:
    assert await summarise(database, "model") == []
    assert await summarise(database) == [UsageRow(group={}, sums=(0,) * len(USAGE_COUNTS))]


async def test_what_was_settled_is_what_usage_tells(database: Database) -> None:
    key = await seeds.a_key(database)
    for label in ("a", "b"):
        await seeds.settle(database, seeds.success(await seeds.running(database, key, label=label)))
    (row,) = await summarise(database, "key", "model")
    assert row.group == {"key": key.id, "model": "glm-4.7"}
    assert row.counts == Counts(
        tasks_succeeded=2, attempts=2, prompt_tokens=200, cached_tokens=40, completion_tokens=100, cost_nano=1_200_000
    )
