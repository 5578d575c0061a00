"""The hot questions about batches use their indexes, beside fifty thousand queued lines and years of batches.

As `test_plans`, whose way of asking this is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import pytest

from tests.store import batch_seeds, seeds, spending
from tests.store.test_plans import Crowd, Plan, analyze, indexes, most_rows, nodes
from tollgate.domain.batches import Batch, PauseCode
from tollgate.domain.ids import new_id
from tollgate.store import (
    announce,
    batch_course,
    batch_intake,
    batch_progress,
    batches,
    claims,
    intake,
    leases,
    settlements,
)
from tollgate.store.database import Database, WriteConnection

QUEUED, ENDED, BATCHES = 50_000, 30_000, 4_000
TABLES = ("tasks", "batches", "budgets", "budget_periods")
"""Those that grow by what waits, or by the years. Of others the planner may well read all where a thousandth is asked
for: here they are short."""
OTHERS = ("attempts", "task_requests", "task_results", "invalid_lines")
NEW_DATABASES = True
"""A planner also reads the size of the files, in which the rows of earlier tests once were."""
AS_ID = "lpad(to_hex({} + n), 32, '0')::uuid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """One whose lines wait, under a max_cost, some of them begun; one that ended with failures; one that is read."""

    crowd: Crowd
    waiting: Batch
    lines: list[UUID]
    over: Batch
    strict: Batch


async def copies(
    connection: WriteConnection, table: str, *, of: str, count: int, first_id: int, **changes: str
) -> None:
    """`count` more rows like that with this id; `changes` are SQL, in which n counts from 1."""
    found = await connection.exec_driver_sql(
        f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
    )
    changes = {"id": AS_ID.format(first_id), **changes}
    columns = [name for (name,) in found if name not in changes]
    await connection.exec_driver_sql(
        f"INSERT INTO {table} ({', '.join((*changes, *columns))}) SELECT {', '.join((*changes.values(), *columns))}"
        f" FROM {table}, generate_series(1, {count}) AS n WHERE id = '{of}'"
    )


@pytest.fixture(params=["fresh", "stale"])
async def many(request: pytest.FixtureRequest, postgres: Database) -> Batches:
    """With "stale" statistics the planner has not heard yet of what waits."""
    async with postgres.write() as connection:
        for table in (*TABLES, *OTHERS):
            await connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    key = await seeds.a_key(postgres)
    over, done = await batch_seeds.taken_in(postgres, key, count=1)
    await batch_seeds.tell(postgres)
    await seeds.settle(postgres, *(seeds.failure(task) for task in await seeds.claim(postgres, *done)))
    async with postgres.write() as connection:
        line = {"line": "n + 1", "custom_id": "'c' || n", "ended_at": "ended_at + n * interval '10 ms'"}
        await copies(connection, "tasks", of=str(done[0]), count=ENDED, first_id=2**40, **line)
        await connection.exec_driver_sql("UPDATE tasks SET state = 'succeeded' WHERE line % 100 <> 1")
        await connection.exec_driver_sql(
            "INSERT INTO task_results (task_id, attempt, error_code) SELECT id, 1, '1210' FROM tasks"
            " ON CONFLICT DO NOTHING"
        )
        await connection.exec_driver_sql(
            "INSERT INTO task_requests (task_id, body) SELECT id, '{}' FROM tasks ON CONFLICT DO NOTHING"
        )
        ended = {"state": "'completed'", "ended_at": "created_at", "input_file_id": AS_ID.format(2**41)}
        await copies(connection, "batches", of=str(over.id), count=BATCHES, first_id=2**41, **ended)
        await connection.exec_driver_sql(
            "INSERT INTO budgets (id, project_id, batch_id, period, limit_nano, created_at)"
            f" SELECT id, project_id, id, 'total', 1, created_at FROM batches WHERE id <> '{over.id}'"
        )
        await connection.exec_driver_sql(
            "INSERT INTO budget_periods (budget_id, starts_on) SELECT id, '1970-01-01' FROM budgets"
        )
    await analyze(postgres)
    waiting, lines = await batch_seeds.taken_in(postgres, key, count=60, max_cost_nano=50 * spending.NANO)
    async with postgres.write() as connection:
        line = {"line": "n + 60", "custom_id": "'c' || n", "not_before": "not_before + interval '1 ms'"}
        await copies(connection, "tasks", of=str(lines[0]), count=QUEUED, first_id=2**42, **line)
        for n in range(40):  # paused ones, of a line each
            await copies(connection, "batches", of=str(waiting.id), count=1, first_id=2**43 + n, paused_at="created_at")
            paused = f"'{UUID(int=2**43 + n + 1)}'"
            row = {"batch_id": paused, "feed": paused}
            await copies(connection, "tasks", of=str(lines[0]), count=1, first_id=2**44 + n, **row)
    await batch_seeds.tell(postgres, limit=40)
    worker_id = new_id()
    async with postgres.write() as connection:
        await leases.register(connection, worker_id, name="w", lanes=("cloud",), now=seeds.NOW)
        held = await claims.claim(connection, lines[:20], worker_id=worker_id, now=seeds.NOW)
        await settlements.settle(connection, [seeds.refusal(task) for task in held[:5]], now=seeds.NOW)
    strict = await batch_seeds.made(postgres, key, strict=True, total=400)
    first = [batch_seeds.a_line(key, strict, n) for n in range(1, 300)]
    await batch_seeds.take_in(postgres, strict, batch_seeds.a_step(first, [*range(300, 390)], last=False))
    if request.param == "fresh":
        await analyze(postgres)
    over = await batch_seeds.found(postgres, over)
    crowd = Crowd(postgres, key, ended=done, waiting=lines, worker_id=worker_id, successor=new_id())
    return Batches(crowd=crowd, waiting=waiting, lines=lines, over=over, strict=strict)


def scanning(plans: list[Plan]) -> list[Plan]:
    """What reads the tables that matter."""
    return [node for plan in plans for node in nodes(plan) if node.get("Relation Name") in TABLES]


def due(limit: int, *, after_s: float) -> Callable[[Batches, WriteConnection], Awaitable[object]]:
    return lambda _, c: announce.take_due(
        c, {batch_seeds.QUEUE: limit}, now=seeds.later(after_s), prices=spending.PRICES
    )


async def try_again(batches_: Batches, connection: WriteConnection) -> bool:
    at = seeds.later(9_000)
    await batches.retry(connection, batches_.over, now=at)
    return await batch_course.try_again(connection, batches_.over.id, before=at, now=at)


Question = Callable[[Batches, WriteConnection], Awaitable[object]]
QUESTIONS: dict[str, tuple[Question, set[str], int]] = {
    "tell lines": (due(10, after_s=1), {"ix_tasks_due"}, 300),
    "tell lines where few have room": (due(200, after_s=60), {"ix_tasks_begun"}, 2_100),
    "claim lines": (
        lambda b, c: claims.claim(c, b.lines[20:40], worker_id=b.crowd.worker_id, now=seeds.NOW), {"pk_tasks"}, 100,
    ),
    "settle lines": (
        lambda b, c: settlements.settle(c, [batch_seeds.expired(i) for i in b.lines[40:]], now=seeds.NOW),
        {"pk_tasks"}, 300,
    ),
    "pause": (
        lambda b, c: batches.pause(c, b.waiting.id, code=PauseCode.OWNER, why="asked", now=seeds.NOW),
        {"ix_tasks_due"}, 10_000,
    ),
    "raise max_cost": (
        lambda b, c: batches.resume(c, b.waiting, max_cost_nano=10**12, now=seeds.NOW), {"uq_budgets_batch_id"}, 100,
    ),
    "cancel": (lambda b, c: batches.cancel(c, b.waiting.id, now=seeds.NOW), {"ix_tasks_worker_id"}, 300),
    "queued lines": (lambda b, c: batch_course.queued(c, b.waiting.id, limit=200), {"ix_tasks_due"}, 300),
    "retry": (lambda b, c: batches.retry(c, b.over, now=seeds.later(9_000)), {"pk_batches"}, 100),
    "try again": (try_again, {"ix_tasks_batch_id_failed"}, 1_000),
    "open batches": (lambda _, c: batch_course.open_batches(c), {"ix_batches_open"}, 100),
    "end": (lambda b, c: batch_course.end(c, b.over.id, now=seeds.NOW), {"pk_batches"}, 100),
    "find": (
        lambda b, c: batches.find(c, b.waiting.id, project_id=b.crowd.key.project_id),
        {"pk_batches", "ix_batches_project_id_id"}, 300,
    ),
    "page": (
        lambda b, c: batches.page(c, project_id=b.crowd.key.project_id, limit=50, after=UUID(int=2**41 + 2_000)),
        {"ix_batches_project_id_id", "pk_batches"}, 300,
    ),
    "speed": (
        lambda b, c: batch_progress.lines_per_second(c, b.over, now=seeds.later(300)),
        {"ix_tasks_batch_id_ended_at"}, 1_000,
    ),
    "errors": (lambda b, c: batch_progress.common_errors(c, b.over.id), {"ix_tasks_batch_id_failed"}, 5_000),
    "wait to be read": (lambda _, c: batch_intake.waiting(c, stale=seeds.later(60)), {"ix_batches_open"}, 100),
    "take in": (
        lambda b, c: batch_intake.take_in(
            c, b.strict.id,
            batch_seeds.a_step([batch_seeds.a_line(b.crowd.key, b.strict, n) for n in range(390, 400)], at=389),
            now=seeds.NOW,
        ),
        {"pk_batches"}, 300,
    ),
    "refuse": (
        lambda b, c: batch_intake.refuse(c, b.strict.id, code="c", message="m", now=seeds.NOW),
        {"uq_tasks_batch_id_line"}, 700,
    ),
    "submit beside the budgets of batches": (
        lambda b, c: intake.submit(c, [(spending.a_task(b.crowd.key),)], prices=spending.PRICES),
        {"ix_budgets_project_id"}, 50,
    ),
}  # fmt: skip


@pytest.mark.timeout(300)
async def test_no_hot_question_about_batches_scans_a_table(many: Batches, subtests: pytest.Subtests) -> None:
    for mode in ("force_custom_plan", "force_generic_plan"):
        for name, (question, expected, most) in QUESTIONS.items():
            plans = await many.crowd.plans_of(lambda c, ask=question: ask(many, c), mode=mode)  # type: ignore[misc]
            with subtests.test(msg=f"{name}, {mode}"):
                assert "Seq Scan" not in {node["Node Type"] for node in scanning(plans)}
                assert expected & indexes(plans)
                assert most_rows([{**node, "Plans": ()} for node in scanning(plans)]) <= most
