"""Batches in the store's tests: made, taken in, told to workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from tests.store import ledgers, seeds, spending
from tollgate.domain.batches import Batch, NewBatch, Via
from tollgate.domain.ids import new_id
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, Priority, TaskState
from tollgate.domain.tasks import Key, NewTask
from tollgate.store import announce, batch_intake, batches
from tollgate.store.batch_course import QueuedLine
from tollgate.store.batch_intake import InvalidLine, Step
from tollgate.store.database import Database
from tollgate.store.queues import Queue

LANE = "cloud.bulk"
QUEUE = Queue(route=seeds.ROUTE, lane=LANE)
BYTES_A_LINE = 100
WINDOW_S = 86_400


async def made(database: Database, key: Key, *, total: int = 3, **changes: Any) -> Batch:
    """A batch at NOW of which nothing is taken in yet."""
    plain = NewBatch(
        id=new_id(),
        project_id=key.project_id,
        key_id=key.id,
        request_id=None,
        digest="0" * 64,
        endpoint="/v1/chat/completions",
        name="prompts.jsonl",
        input_file_id=new_id(),
        input_bytes=total * BYTES_A_LINE,
        total=total,
        delete_input=False,
        via=Via.DIRECT,
        priority=Priority.BULK,
        strict=False,
        defaults=None,
        max_cost_nano=None,
        metadata=None,
        callback_url=None,
        window_s=WINDOW_S,
        created_at=seeds.NOW,
        expires_at=seeds.later(WINDOW_S),
    )
    async with database.write() as connection:
        return (await batches.add(connection, replace(plain, **changes)))[0]


def a_line(key: Key, batch: Batch, line: int, **changes: Any) -> NewTask:
    """One that reserves `spending.RESERVED` where a budget counts it."""
    plain: dict[str, Any] = {
        "batch_id": batch.id, "line": line, "feed": batch.id, "custom_id": f"line-{line}", "lane": LANE,
        "deadline": batch.expires_at, "retry_until": batch.expires_at,
    }  # fmt: skip
    return spending.a_task(key, **{**plain, **changes})


def a_step(lines: Sequence[NewTask] = (), invalid: Sequence[int] = (), *, at: int = 0, last: bool = True) -> Step:
    """Of `lines` and lines that are invalid, `at` lines after the file's beginning."""
    after = at + len(lines) + len(invalid)
    return Step(
        lines=lines,
        invalid=[InvalidLine(line=line, code="invalid_json", message="the line is not JSON") for line in invalid],
        before_bytes=at * BYTES_A_LINE,
        after_bytes=after * BYTES_A_LINE,
        after_lines=after,
        last=last,
    )


async def take_in(database: Database, batch: Batch, step: Step, *, now: datetime = seeds.NOW) -> bool:
    async with database.write() as connection:
        return await batch_intake.take_in(connection, batch.id, step, now=now)


async def taken_in(database: Database, key: Key, *, count: int = 3, **changes: Any) -> tuple[Batch, list[UUID]]:
    """A batch in progress, and the ids of its lines."""
    of_lines = {name: changes.pop(name) for name in ("route", "max_tokens", "not_before") if name in changes}
    batch = await made(database, key, total=count, **changes)
    new = [a_line(key, batch, line, **of_lines) for line in range(1, count + 1)]
    for start in range(0, count, 1_000):
        step = a_step(new[start : start + 1_000], at=start, last=start + 1_000 >= count)
        assert await take_in(database, batch, step)
    return await found(database, batch), [task.id for task in new]


async def found(database: Database, batch: Batch) -> Batch:
    """As it is now."""
    async with database.read() as connection:
        return await batches.find(connection, batch.id, project_id=batch.project_id)


async def tell(
    database: Database, *, limit: int = 100, now: datetime = seeds.NOW, prices: Any = spending.PRICES
) -> list[UUID]:
    """What an announcer's round tells of the queue."""
    async with database.write() as connection:
        taken = await announce.take_due(connection, {QUEUE: limit}, now=now, prices=prices)
    return list(taken[QUEUE].ids)


def cancelled(line: QueuedLine) -> Settlement:
    """As the beat ends a queued line of a batch that is being cancelled."""
    return replace(expired(line.id), fence=line.fence, attempt=line.attempt, state=TaskState.CANCELLED)


def expired(task_id: UUID) -> Settlement:
    """Of a line that never ran."""
    return Settlement(
        task_id=task_id, fence=0, attempt=1, held=TaskState.QUEUED, outcome=AttemptOutcome.ABANDONED,
        state=TaskState.EXPIRED, error_code="over",
    )  # fmt: skip


async def differing(database: Database) -> set[str]:
    """The names of the checks that found a difference, but for that of workers: these tests' are made up."""
    return set(await ledgers.differing(database)) - {"workers-of-running-tasks"}
