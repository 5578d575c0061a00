"""A provider's bill beside the attempts: every way a line can stand, and what `settle` makes of the uncertain ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tests.store.ledgers import a_budget, differing, submit
from tollgate.domain.bill_file import BadLine, Charge
from tollgate.domain.budgets import Period
from tollgate.domain.ids import new_id
from tollgate.domain.settling import Bill, Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store.claims import Claimed, upstream_request_id
from tollgate.store.database import Database
from tollgate.store.reconcile import bill_settlements, bills, comparisons, snapshots
from tollgate.store.reconcile.bill_settlements import Settled
from tollgate.store.reconcile.bills import Loaded
from tollgate.store.reconcile.comparisons import Comparison, Expected, Kind
from tollgate.store.schema import attempts, budget_periods, tasks, usage_hourly

COST = 600_000
POSSIBLE = 700_000
DAY = Expected(since=seeds.later(-3600), until=seeds.later(86_400))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Six tasks that ran: 0 and 1 succeeded, 2 failed, 3 and 4 are uncertain, 5 is open."""

    database: Database
    ids: tuple[str, ...]
    """Their request_ids."""

    def charge(self, position: int, cost_nano: int = COST, **more: Any) -> Charge:
        return Charge(request_id=self.ids[position], cost_nano=cost_nano, **more)


@pytest.fixture
async def world(database: Database) -> World:
    key = await seeds.a_key(database)
    await a_budget(database, key, period=Period.DAY, of_key=False)
    ids = await submit(database, key, count=6, deadline=seeds.later(9_000))
    worker_id = await seeds.a_worker(database, new_id())
    leased = {one.id: one for one in await seeds.claim(database, *ids, worker_id=worker_id)}
    in_order: list[Claimed] = [leased[one] for one in ids]
    lost = Bill(possible_cost_nano=POSSIBLE, possible_tokens=90)
    await seeds.settle(
        database,
        seeds.success(in_order[0]),
        seeds.success(in_order[1]),
        seeds.failure(in_order[2]),
        seeds.doubt(in_order[3], bill=lost),
        seeds.doubt(in_order[4], bill=lost),
        now=seeds.later(60),
    )
    return World(database=database, ids=tuple(upstream_request_id(one, 1) for one in ids))


async def against(
    world: World,
    *lines: Charge | BadLine,
    expected: Expected = DAY,
    limit: int = 20,
    apply: bool = False,
) -> tuple[Loaded, Comparison, Settled | None]:
    """As `tollgate reconcile --bill` does it."""
    async with world.database.hold() as connection, bills.tables(connection):
        loaded = await bills.load(connection, iter(lines), limit=limit)
        async with snapshots.snapshot(connection):
            comparison = await comparisons.compare(connection, loaded, expected=expected, limit=limit)
        settled = None
        if apply:
            settled = await bill_settlements.settle(world.database, connection, now=seeds.later(7_200))
    return loaded, comparison, settled


def kinds(comparison: Comparison) -> dict[Kind, int]:
    """How many of each kind that there is."""
    return {kind: group.count for kind, group in comparison.groups.items() if group.count}


def named(comparison: Comparison, kind: Kind) -> list[str]:
    return [entry.request_id for entry in comparison.groups[kind].first]


async def test_what_is_billed_as_it_is_booked_is_equal(world: World) -> None:
    loaded, comparison, _ = await against(world, world.charge(0), world.charge(1))
    assert (loaded.charges, loaded.cost_nano, loaded.bad) == (2, 2 * COST, 0)
    assert kinds(comparison) == {Kind.EQUAL: 2, Kind.UNBILLED: 2}
    equal = comparison.groups[Kind.EQUAL]
    assert (equal.billed_nano, equal.booked_nano) == (2 * COST, 2 * COST)
    assert comparison.upstreams == ["zhipu"]


async def test_every_way_a_line_can_stand(world: World) -> None:
    stranger = Charge(request_id="not-of-tollgate", cost_nano=11)
    absent = Charge(request_id=upstream_request_id(new_id(), 1), cost_nano=12)
    lines = (world.charge(0, COST + 1), world.charge(2, 40), world.charge(3, 50), world.charge(5, 60), stranger, absent)
    _, comparison, _ = await against(world, *lines)
    assert kinds(comparison) == {
        Kind.OTHER_COST: 1,
        Kind.SETTLES: 1,
        Kind.WITHOUT_COST: 1,
        Kind.UNKNOWN: 2,
        Kind.OPEN: 1,
        Kind.NOT_BILLED: 1,
        Kind.UNBILLED: 1,
    }
    assert [named(comparison, kind)[0] for kind in (Kind.OTHER_COST, Kind.WITHOUT_COST, Kind.SETTLES, Kind.OPEN)] == [
        world.ids[position] for position in (0, 2, 3, 5)
    ]
    assert set(named(comparison, Kind.UNKNOWN)) == {stranger.request_id, absent.request_id}
    assert named(comparison, Kind.NOT_BILLED) == [world.ids[1]]
    assert named(comparison, Kind.UNBILLED) == [world.ids[4]]
    groups = comparison.groups
    assert (groups[Kind.OTHER_COST].billed_nano, groups[Kind.OTHER_COST].booked_nano) == (COST + 1, COST)
    assert (groups[Kind.SETTLES].billed_nano, groups[Kind.SETTLES].possible_nano) == (50, POSSIBLE)
    assert (groups[Kind.UNKNOWN].billed_nano, groups[Kind.NOT_BILLED].booked_nano) == (23, COST)
    assert comparison.differs


async def test_a_call_that_cost_nothing_there_and_here_is_equal(world: World) -> None:
    _, comparison, _ = await against(world, world.charge(0), world.charge(1), world.charge(2, 0))
    assert kinds(comparison)[Kind.EQUAL] == 3


async def test_charges_of_one_request_id_are_summed_up_and_told(world: World) -> None:
    twice = (world.charge(0, COST // 2), world.charge(1), world.charge(0, COST // 2), world.charge(1))
    _, comparison, _ = await against(world, *twice)
    assert named(comparison, Kind.OTHER_COST) == [world.ids[1]]
    assert kinds(comparison)[Kind.EQUAL] == 1
    assert [(entry.request_id, entry.times) for entry in comparison.repeated.first] == [
        (world.ids[0], 2),
        (world.ids[1], 2),
    ]
    assert (comparison.repeated.count, comparison.repeated.billed_nano) == (2, 3 * COST)


async def test_bad_lines_are_counted_and_the_first_are_told(world: World) -> None:
    bad = [BadLine(number=n, reason="odd") for n in range(2, 7)]
    loaded, _, _ = await against(world, *bad, world.charge(0), limit=2)
    assert (loaded.charges, loaded.bad, [line.number for line in loaded.first_bad]) == (1, 5, [2, 3])


async def test_only_attempts_of_the_time_are_expected_in_the_bill(world: World) -> None:
    later = Expected(since=seeds.later(3600), until=seeds.later(7200))
    _, comparison, _ = await against(world, world.charge(0), expected=later)
    assert kinds(comparison) == {Kind.EQUAL: 1}


async def test_only_attempts_of_the_bills_upstreams_are_expected_in_it(world: World) -> None:
    elsewhere = sa.update(attempts).where(attempts.c.request_id.in_(world.ids[1:5])).values(upstream="local")
    async with world.database.write() as connection:
        await connection.execute(elsewhere)
    _, comparison, _ = await against(world, world.charge(0))
    assert kinds(comparison) == {Kind.EQUAL: 1}
    named_one = Expected(since=DAY.since, until=DAY.until, upstream="local")
    _, comparison, _ = await against(world, world.charge(0), expected=named_one)
    assert kinds(comparison) == {Kind.EQUAL: 1, Kind.NOT_BILLED: 1, Kind.UNBILLED: 2}


CREATED = {"early": seeds.later(-1), "late": seeds.later(61), "too_early": seeds.later(59)}


@pytest.mark.parametrize(
    ("created", "expected", "kind"),
    [
        (("early", "late"), Expected(), Kind.UNBILLED),
        (("early", "too_early"), Expected(), Kind.UNSETTLED),
        (("late", "late"), Expected(), Kind.UNSETTLED),
        (("late", "late"), Expected(since=DAY.since), Kind.UNBILLED),
        (("too_early", "too_early"), Expected(until=DAY.until), Kind.UNSETTLED),
        (("early", "early"), Expected(until=DAY.until), Kind.UNBILLED),
        ((None, "late"), Expected(), Kind.UNSETTLED),
        ((None, None), DAY, Kind.UNBILLED),
    ],
)
async def test_what_a_bill_does_not_list_is_unbilled_only_where_it_is_complete(
    world: World, created: Sequence[str | None], expected: Expected, kind: Kind
) -> None:
    charges = [world.charge(position, created=CREATED[at] if at else None) for position, at in enumerate(created)]
    _, comparison, _ = await against(world, *charges, expected=expected)
    assert kinds(comparison) == {Kind.EQUAL: 2, kind: 2}
    assert comparison.differs is (kind is Kind.UNBILLED)


@pytest.mark.parametrize("lines", ["a bad line", "nobody's bill"])
async def test_a_bill_that_was_not_read_whole_or_is_not_ours_makes_nothing_unbilled(world: World, lines: str) -> None:
    stranger = Charge(request_id="stranger", cost_nano=1)
    given = [BadLine(number=2, reason="odd"), world.charge(0)] if lines == "a bad line" else [stranger]
    _, comparison, settled = await against(world, *given, apply=True)
    assert kinds(comparison)[Kind.UNSETTLED] == 2
    assert settled == Settled(billed=0, cost_nano=0, unbilled=0, left=0)


async def test_apply_settles_uncertain_attempts_by_the_bill(world: World) -> None:
    lines = (world.charge(0), world.charge(1), world.charge(3, 30, prompt_tokens=8, completion_tokens=9))
    _, _, settled = await against(world, *lines, world.charge(3, 20, prompt_tokens=1), apply=True)
    assert settled == Settled(billed=1, cost_nano=50, unbilled=1, left=0)
    rows = {row.request_id: row for row in await seeds.rows_of(world.database, attempts)}
    billed, unbilled = rows[world.ids[3]], rows[world.ids[4]]
    assert (billed.outcome, billed.cost_nano, billed.prompt_tokens, billed.completion_tokens) == ("failed", 50, 9, 9)
    assert (billed.possible_cost_nano, billed.error_code) == (None, "no_answer")
    assert (unbilled.outcome, unbilled.cost_nano, unbilled.possible_cost_nano) == ("failed", None, None)


async def test_roll_up_and_budgets_follow_what_is_applied_and_the_tasks_do_not(world: World) -> None:
    before = await seeds.rows_of(world.database, tasks)
    lines = [world.charge(0), world.charge(1), world.charge(3, 50)]
    await against(world, *lines, apply=True)
    assert await differing(world.database) == {}
    booked = await seeds.rows_of(world.database, usage_hourly)
    assert sum(row.cost_nano for row in booked) == 2 * COST + 50
    assert sum(row.attempts_uncertain + row.possible_cost_nano for row in booked) == 0
    (period,) = await seeds.rows_of(world.database, budget_periods)
    assert (period.spent_nano, period.uncertain_nano, period.uncertain_tokens) == (2 * COST + 50, 0, 0)
    assert await seeds.rows_of(world.database, tasks) == before


async def test_a_second_apply_finds_all_equal(world: World) -> None:
    lines = [world.charge(0), world.charge(1), world.charge(3, 50)]
    await against(world, *lines, apply=True)
    _, comparison, settled = await against(world, *lines, apply=True)
    assert kinds(comparison) == {Kind.EQUAL: 3}
    assert not comparison.differs
    assert settled == Settled(billed=0, cost_nano=0, unbilled=0, left=0)


async def test_an_attempt_that_was_settled_meanwhile_is_left_alone(world: World) -> None:
    """Its answer came between the comparison and the settling."""
    async with world.database.hold() as connection, bills.tables(connection):
        loaded = await bills.load(connection, iter([world.charge(3, 50)]), limit=1)
        async with snapshots.snapshot(connection):
            await comparisons.compare(connection, loaded, expected=Expected(), limit=1)
        await answered(world, position=3)
        settled = await bill_settlements.settle(world.database, connection, now=seeds.later(7_200))
    assert settled == Settled(billed=0, cost_nano=0, unbilled=0, left=1)
    costs = {row.request_id: row.cost_nano for row in await seeds.rows_of(world.database, attempts)}
    assert costs[world.ids[3]] == COST
    assert await differing(world.database) == {}


async def answered(world: World, *, position: int) -> None:
    """A late answer to the attempt."""
    row = next(row for row in await seeds.rows_of(world.database, attempts) if row.request_id == world.ids[position])
    late = Settlement(
        task_id=row.task_id,
        fence=row.fence,
        attempt=1,
        outcome=AttemptOutcome.SUCCEEDED,
        state=TaskState.SUCCEEDED,
        bill=seeds.BILL,
        result="{}",
    )
    await seeds.settle(world.database, late, now=seeds.later(90))


async def test_more_than_a_chunk_is_loaded_and_settled(database: Database) -> None:
    count = 2 * bill_settlements.CHUNK + 7
    key = await seeds.a_key(database)
    leased = await seeds.claim(database, *await seeds.queued(database, key, count=count))
    await seeds.settle(database, *(seeds.doubt(one) for one in leased))
    world = World(database=database, ids=tuple(one.upstream_request_id for one in leased))

    def lines() -> Iterator[Charge]:
        for _ in range(bills.CHUNK // count + 2):
            yield from (world.charge(position, 1) for position in range(count))

    loaded, comparison, settled = await against(world, *lines(), apply=True)
    assert loaded.charges > bills.CHUNK
    assert comparison.groups[Kind.SETTLES].count == count
    assert settled is not None
    assert (settled.billed, settled.cost_nano) == (count, loaded.charges)


async def test_the_times_of_the_charges_are_kept_if_all_have_one(world: World) -> None:
    dated: list[datetime | None] = [seeds.later(5), seeds.later(1)]
    loaded, _, _ = await against(world, *(world.charge(n, created=at) for n, at in enumerate(dated)))
    assert (loaded.first_created, loaded.last_created) == (seeds.later(1), seeds.later(5))


async def test_an_empty_bill_settles_nothing(world: World) -> None:
    loaded, comparison, settled = await against(world, apply=True)
    assert (loaded.charges, loaded.cost_nano, loaded.first_created) == (0, 0, None)
    assert kinds(comparison) == {Kind.NOT_BILLED: 2, Kind.UNSETTLED: 2}
    assert settled == Settled(billed=0, cost_nano=0, unbilled=0, left=0)
