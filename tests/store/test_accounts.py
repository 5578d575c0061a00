"""The law of the accounts: whatever happened, the roll-up is the sum over attempts and tasks."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds
from tollgate.domain.settling import BILL, NO_COUNTS, Bill, Counts, Settlement, contribution
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import cancels
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.schema import USAGE_COUNTS, attempts, tasks, usage_hourly

Group = tuple[Any, ...]
STEPS = 120
SETTLEMENTS = (seeds.success, seeds.failure, seeds.refusal, seeds.doubt)


@dataclass(slots=True)
class Walk:
    """A random sequence of what workers, announcers and owners do, over a few tasks."""

    database: Database
    random: random.Random
    ids: list[UUID]
    project_id: UUID
    leases: list[Claimed] = field(default_factory=list)
    """Every lease ever given, lost ones too: their answers may come at any time."""
    now: datetime = seeds.NOW

    async def step(self) -> None:
        self.now = seeds.later((self.now - seeds.NOW).total_seconds() + self.random.choice((1, 60, 1500)))
        await self.random.choice((self.claim, self.settle, self.settle, self.rescue, self.cancel))()

    async def claim(self) -> None:
        chosen = self.random.sample(self.ids, 6)
        self.leases += await seeds.claim(self.database, *chosen, now=self.now)

    async def settle(self) -> None:
        """Answers of leases held and lost, several of one task among them."""
        chosen = self.random.choices(self.leases, k=4) if self.leases else []
        given = [self.answer(task) for task in chosen]
        await seeds.settle(self.database, *given, now=self.now, shard=self.random.randrange(16))

    def answer(self, task: Claimed) -> Settlement:
        n = self.random.randrange(1, 1_000)
        settlement = self.random.choice(SETTLEMENTS)(task, not_before=self.now)
        if settlement.outcome is AttemptOutcome.SUCCEEDED:
            cost = self.random.choice((None, n * 7))
            estimated = self.random.random() < 0.2
            bill = Bill(
                prompt_tokens=n,
                cached_tokens=n // 2,
                completion_tokens=n,
                engine_us=self.random.choice((None, n * 10**9)),
                cost_nano=cost,
                cost_estimated=estimated,
            )
            return seeds.success(task, bill=bill)
        return settlement

    async def rescue(self) -> None:
        """What a dead worker was running may have been billed."""
        if self.leases:
            task = self.random.choice(self.leases[-6:])
            await seeds.settle(self.database, seeds.doubt(task, not_before=self.now), now=self.now)

    async def cancel(self) -> None:
        if self.random.random() < 0.3:
            async with self.database.write() as connection:
                chosen = self.random.choice(self.ids)
                await cancels.cancel(connection, chosen, project_id=self.project_id, now=self.now)


async def roll_up(database: Database) -> dict[Group, Counts]:
    sums: defaultdict[Group, Counts] = defaultdict(lambda: NO_COUNTS)
    for row in await seeds.rows_of(database, usage_hourly):
        group = (row.hour, row.project_id, row.key_id, row.model, row.label)
        sums[group] += Counts(**{name: getattr(row, name) for name in USAGE_COUNTS})
    return {group: counts for group, counts in sums.items() if counts != NO_COUNTS}


async def from_the_rows(database: Database) -> dict[Group, Counts]:
    sums: defaultdict[Group, Counts] = defaultdict(lambda: NO_COUNTS)
    owners = {row.id: row for row in await seeds.rows_of(database, tasks)}
    for row in await seeds.rows_of(database, attempts):
        bill = Bill(**{name: getattr(row, name) for name in BILL})
        sums[_group(owners[row.task_id], row.started_at)] += contribution(AttemptOutcome(row.outcome), bill)
    for row in owners.values():
        if row.ended_at is not None:
            succeeded = int(row.state == TaskState.SUCCEEDED)
            sums[_group(row, row.ended_at)] += Counts(tasks_succeeded=succeeded, tasks_failed=1 - succeeded)
    return {group: counts for group, counts in sums.items() if counts != NO_COUNTS}


def _group(task: Any, at: datetime) -> Group:
    return at.replace(minute=0, second=0), task.project_id, task.key_id, task.model, task.label or ""


@pytest.mark.parametrize("seed", range(6))
async def test_the_roll_up_is_the_sum_over_attempts_and_tasks(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    key = await seeds.a_key(database)
    new = [seeds.a_task(key, label=chance.choice((None, "a", "b")), deadline=seeds.later(10**7)) for _ in range(12)]
    await seeds.submit(database, new)
    walk = Walk(database=database, random=chance, ids=[task.id for task in new], project_id=key.project_id)
    for _ in range(STEPS):
        await walk.step()
    assert await roll_up(database) == await from_the_rows(database)
    await nothing_is_left_open(database)


async def nothing_is_left_open(database: Database) -> None:
    """An ended task has no open attempt."""
    ended = {row.id for row in await seeds.rows_of(database, tasks) if row.ended_at is not None}
    assert ended
    assert [a for a in await seeds.rows_of(database, attempts) if a.task_id in ended and a.outcome == "open"] == []
