"""The hot questions use their index, however PostgreSQL plans them.

The plans are those of the store's own statements, as the server ran them (its module auto_explain),
on a table of some ten thousand rows with fresh statistics. Each is asked for twice: planned with the
parameters' values, and without them, as a prepared statement is after some uses.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds
from tollgate.domain.fallbacks import Reroute
from tollgate.domain.ids import new_id
from tollgate.domain.retention import ALL_TEXTS, Texts
from tollgate.domain.settling import Known, Settlement
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.domain.tasks import Key
from tollgate.domain.webhooks import DeliveryState
from tollgate.store import (
    announce,
    batch_erasing,
    batch_results,
    claims,
    deliveries,
    erasing,
    intake,
    leases,
    measurements,
    queues,
    retention,
    roll_up,
    sending,
    settlements,
    shards,
    successes,
    tasks,
    usage,
)
from tollgate.store import waiting as waiting_store
from tollgate.store.batch_results import SOME, Which
from tollgate.store.database import Database, WriteConnection
from tollgate.store.intake import NO_PRICES
from tollgate.store.queues import Queue
from tollgate.store.retention import Kept
from tollgate.store.tasks import Filter

NEW_DATABASES = True
"""A planner also reads the size of the files, in which the rows of earlier tests once were."""
ROUTES = ("a/m", "b/m", "c/m")
ENDED, WAITING, RUNNING, FEEDS = 24_000, 9_000, 60, 20
BATCH = UUID(int=7)
ENDING = (
    "UPDATE tasks SET state = 'succeeded', ended_at = created_at",
    "INSERT INTO task_results (task_id, attempt, body) SELECT id, 1, '{}' FROM tasks",
    "INSERT INTO attempts (task_id, number, fence, worker_id, upstream, upstream_model, request_id, outcome, tries,"
    " started_at, ended_at) SELECT id, 1, 1, id, 'a', 'm', id, 'succeeded', 1, created_at, created_at FROM tasks",
    "INSERT INTO usage_daily (day, project_id, key_id, model, upstream, label, shard)"
    " SELECT date '2025-01-01' + d, p.id, 'k', 'm', 'u', 'l' || l, d / 425 * 3"
    " FROM generate_series(0, 429) d, generate_series(1, 5) l, projects p",
    "INSERT INTO usage_daily_totals (day, project_id, model, upstream, shard)"
    " SELECT date '2025-01-01' + d, p.id, 'm' || m, 'u', 0"
    " FROM generate_series(0, 429) d, generate_series(1, 5) m, projects p",
)
OF_BATCH = (
    # All of them, of which one in fifty failed.
    "INSERT INTO batches (id, project_id, key_id, digest, state, endpoint, input_bytes, priority, window_s,"
    " created_at, expires_at) SELECT '{batch}', project_id, id, '', 'in_progress', '/v1/chat/completions', 0, 'bulk',"
    " 1, created_at, created_at FROM api_keys",
    "UPDATE tasks SET batch_id = '{batch}', line = l.n, ended_at = ended_at + l.n * interval '1 ms',"
    " state = CASE WHEN l.n % 50 = 0 THEN 'failed' ELSE 'succeeded' END"
    " FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM tasks) l WHERE l.id = tasks.id",
)
DELIVERIES = (
    # One in fifty failed, one in a hundred waits, for twenty hosts; the rest was delivered.
    "INSERT INTO webhook_deliveries"
    " (id, project_id, url, host, task_id, event, state, not_before, created_at, ended_at, first_tried_at)"
    " SELECT id, project_id, 'https://h.example/', 'h' || n % 20 || '.example', id, 'task.succeeded',"
    " CASE WHEN n % 97 = 7 THEN 'pending' WHEN n % 50 = 1 THEN 'failed' ELSE 'delivered' END, created_at, created_at,"
    " CASE WHEN n % 97 = 7 THEN NULL ELSE created_at + n * interval '1 s' END, created_at"
    " FROM (SELECT *, row_number() OVER (ORDER BY id) AS n FROM tasks) AS numbered"
)
ROLL_UPS = ("usage_hourly", "usage_daily", "usage_daily_totals")
HOT = ("tasks", "attempts", "task_requests", "task_results", "webhook_deliveries", *ROLL_UPS)
Plan = dict[str, Any]


@pytest.fixture(params=["fresh", "stale"])
async def crowd(request: pytest.FixtureRequest, postgres: Database) -> Crowd:
    """Three projects: most tasks ended, thousands wait in three routes, some run under a dead worker.

    With "stale" statistics the planner has not heard yet of those that wait."""
    async with postgres.write() as connection:
        for table in ("tasks", "attempts", "task_requests", "task_results", "webhook_deliveries"):
            await connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    keys = [await seeds.a_key(postgres, project=f"p{n}") for n in range(3)]
    ended = await many(postgres, keys, ENDED, request_id=True)
    async with postgres.write() as connection:
        for statement in (*ENDING, DELIVERIES):
            await connection.exec_driver_sql(statement)
    await analyze(postgres)
    waiting = await many(postgres, keys, WAITING, request_id=False)
    worker_id = new_id()
    async with postgres.write() as connection:
        await leases.register(connection, worker_id, name="w", lanes=("cloud",), now=seeds.NOW)
        await claims.claim(connection, waiting[:RUNNING], worker_id=worker_id, now=seeds.later(60))
        await leases.bury(connection, worker_id)
        await leases.register(connection, successor := new_id(), name="w", lanes=("cloud",), now=seeds.NOW)
        await connection.exec_driver_sql(
            "INSERT INTO usage_hourly (hour, project_id, key_id, model, upstream, label, shard)"
            " SELECT timestamptz '2026-01-01' + h * interval '1 hour', p.id, 'k', 'm', 'u', 'l' || l, 0"
            " FROM generate_series(0, 2000) h, generate_series(1, 5) l, projects p"
        )
    if request.param == "fresh":
        await analyze(postgres)
    return Crowd(postgres, keys[0], ended=ended, waiting=waiting, worker_id=worker_id, successor=successor)


@pytest.fixture
async def lines(postgres: Database) -> Crowd:
    """A batch whose lines have ended."""
    key = await seeds.a_key(postgres)
    ended = await many(postgres, [key] * 3, WAITING, request_id=False)
    async with postgres.write() as connection:
        for statement in (*ENDING[:3], *OF_BATCH):
            await connection.exec_driver_sql(statement.replace("{batch}", str(BATCH)))
    await analyze(postgres)
    return Crowd(postgres, key, ended=ended, waiting=[], worker_id=new_id(), successor=new_id())


async def analyze(database: Database) -> None:
    async with database.write() as connection:
        await connection.exec_driver_sql("ANALYZE")


class Crowd:
    """The store full of tasks, and a way to see how it answers."""

    def __init__(
        self,
        database: Database,
        key: Key,
        *,
        ended: list[UUID],
        waiting: list[UUID],
        worker_id: UUID,
        successor: UUID,
    ) -> None:
        self.database = database
        self.key = key
        self.ended = ended
        self.waiting = waiting
        self.worker_id = worker_id
        self.successor = successor

    async def plans_of(self, question: Callable[[WriteConnection], Awaitable[object]], *, mode: str) -> list[Plan]:
        """The plans of all statements that `question` runs."""
        messages: list[str] = []
        async with self.database.write() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None

            def keep(_connection: object, message: Any) -> None:
                messages.append(message.message)

            for command in (
                "LOAD 'auto_explain'",
                "SET LOCAL auto_explain.log_min_duration = 0",
                "SET LOCAL auto_explain.log_analyze = on",
                "SET LOCAL auto_explain.log_format = json",
                f"SET LOCAL plan_cache_mode = {mode}",
                "SET LOCAL client_min_messages = log",
            ):
                await connection.exec_driver_sql(command)
            raw.add_log_listener(keep)
            savepoint = await connection.begin_nested()
            await question(connection)
            # The driver tells its listeners a little later: one more round trip, and they know.
            await savepoint.rollback()
            raw.remove_log_listener(keep)
        plans = [json.loads(message[message.index("{") :])["Plan"] for message in messages if "plan:" in message]
        # The driver's own questions about types are not ours.
        return [plan for plan in plans if not any(n.get("Relation Name", "").startswith("pg_") for n in nodes(plan))]


async def many(database: Database, keys: list[Key], count: int, *, request_id: bool) -> list[UUID]:
    new = [
        seeds.a_task(
            keys[n % 3],
            route=ROUTES[n % 3],
            lane="cloud.bulk" if n % 2 else "cloud.interactive",
            feed=UUID(int=n // 6 % FEEDS),
            not_before=seeds.later(n % 7),
            request_id=f"r{n}" if request_id else None,
            deadline=seeds.later(3600 + n),
        )
        for n in range(count)
    ]
    async with database.write() as connection:
        # On a busy machine so many take longer to prepare than a transaction may be idle.
        await connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        await intake.submit(connection, [tuple(new)])
    return [task.id for task in new]


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scans(plans: list[Plan]) -> list[str]:
    """The tables that are read from cover to cover."""
    found = [node for plan in plans for node in nodes(plan)]
    tables = [node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"]
    return [name for name in tables if name in HOT]


def indexes(plans: list[Plan]) -> set[str]:
    return {node["Index Name"] for plan in plans for node in nodes(plan) if "Index Name" in node}


def most_rows(plans: list[Plan]) -> int:
    """Rows the widest scan touched, with those it then threw away."""
    found = [node for plan in plans for node in nodes(plan) if "Scan" in node["Node Type"]]
    touched = [(node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in found]
    return max(int(rows) for rows in touched)


def kept_a_day(key: Key) -> Kept:
    return Kept(project_id=key.project_id, texts=Texts.RESULTS, keep_s=86_400, erased_to=None)


async def erase_lines(crowd: Crowd, connection: WriteConnection) -> None:
    """Of a batch that is made of the crowd's own tasks: in the middle of it."""
    batch_id, owner = new_id(), crowd.key
    await connection.exec_driver_sql(
        "INSERT INTO batches (id, project_id, key_id, digest, state, endpoint, input_bytes, priority, window_s, total,"
        " taken_lines, erased_lines, created_at, expires_at, ended_at, erase_asked_at)"
        f" VALUES ('{batch_id}', '{owner.project_id}', '{owner.id}', '', 'completed', '', 1, 'bulk', 1, 40, 40, 10,"
        " now(), now(), now(), now())"
    )
    lines = ", ".join(f"('{task_id}'::uuid, {line})" for line, task_id in enumerate(crowd.ended[:40], 1))
    await connection.exec_driver_sql(
        f"UPDATE tasks SET batch_id = '{batch_id}', line = v.line, superseded = v.line % 10 = 0"
        f" FROM (VALUES {lines}) AS v (id, line) WHERE tasks.id = v.id"
    )
    await batch_erasing.step(connection, batch_id, now=seeds.NOW, limit=20)


Question = Callable[[Crowd, WriteConnection], Awaitable[object]]
ROWS = {"overdue": WAITING, "newest answers": measurements.WALKED}
"""That a question may read, where it is more than for most."""
QUEUE = Queue(route=ROUTES[0], lane="cloud.bulk")
QUESTIONS: dict[str, tuple[Question, set[str]]] = {
    "take due": (
        lambda _, c: announce.take_due(c, {QUEUE: 50}, now=seeds.later(60), prices=NO_PRICES),
        {"ix_tasks_due"},
    ),
    "take due after a feed": (
        lambda _, c: announce.take_due(
            c, {QUEUE: 10}, now=seeds.later(60), after={QUEUE: UUID(int=FEEDS - 3)}, prices=NO_PRICES
        ),
        {"ix_tasks_due"},
    ),
    "walk the queues": (lambda _, c: queues.read(c), {"ix_tasks_due"}),
    # With stale statistics any index of the few queued rows it expects is as good to the planner.
    "overdue": (
        lambda _, c: announce.overdue(c, now=seeds.later(3700), limit=50),
        {"ix_tasks_deadline", "ix_tasks_due"},
    ),
    "give back": (lambda crowd, c: announce.unannounce(c, crowd.waiting[-50:]), {"pk_tasks"}),
    "claim": (
        lambda crowd, c: claims.claim(c, crowd.waiting[-50:], worker_id=crowd.successor, now=seeds.later(60)),
        {"pk_tasks"},
    ),
    "settle": (
        lambda crowd, c: settlements.settle(c, [stale(id_) for id_ in crowd.waiting[:50]], now=seeds.NOW),
        {"pk_tasks"},
    ),
    "settle as foreseen": (
        lambda crowd, c: successes.settle(
            c, [foreseen(id_, crowd.key) for id_ in crowd.waiting[:50]], now=seeds.NOW, shard=0
        ),
        {"pk_tasks", "pk_attempts"},
    ),
    "send elsewhere": (
        lambda crowd, c: settlements.settle(c, [leaving(id_) for id_ in crowd.waiting[-50:]], now=seeds.NOW),
        {"pk_tasks"},
    ),
    "those that wait": (lambda crowd, c: waiting_store.read(c, crowd.waiting[-50:]), {"pk_tasks"}),
    "repeat a submission": (
        lambda crowd, c: intake.submit(
            c, [tuple(seeds.a_task(crowd.key, request_id=f"r{n}") for n in range(0, 150, 3))]
        ),
        {"uq_tasks_project_id_request_id"},
    ),
    "page": (
        lambda crowd, c: tasks.page(
            c, project_id=crowd.key.project_id, where=Filter(), limit=50, after=crowd.ended[12_000]
        ),
        {"ix_tasks_project_id_id"},
    ),
    "look for what is kept no longer": (
        lambda crowd, c: retention.look(
            c, kept_a_day(crowd.key), after=crowd.ended[9_000], now=datetime.now(UTC) + timedelta(days=2), limit=300
        ),
        {"ix_tasks_project_id_id"},
    ),
    "erase texts": (lambda crowd, c: erasing.erase(c, crowd.ended[:50], ALL_TEXTS), {"pk_task_results"}),
    # Of lines of batches there are no statistics here: any index that begins with the batch is as good.
    "erase lines of a batch": (erase_lines, {"uq_tasks_batch_id_line", "uq_tasks_batch_id_custom_id"}),
    "tasks by id": (
        lambda crowd, c: tasks.by_ids(c, crowd.waiting[:50], project_id=crowd.key.project_id),
        {"pk_tasks"},
    ),
    "newest answers": (
        lambda crowd, c: measurements.answers(
            c, project_id=crowd.key.project_id, models=["glm-4.7"], now=datetime.now(UTC), most=100
        ),
        {"ix_tasks_project_id_id"},
    ),
    "ended among": (lambda crowd, c: tasks.ended_among(c, crowd.waiting[:200]), {"pk_tasks"}),
    "orphans": (lambda _, c: leases.orphans(c, limit=500), {"ix_tasks_worker_id"}),
    "orphans but some": (
        lambda crowd, c: leases.orphans(c, limit=500, without=crowd.waiting[:5]),
        {"ix_tasks_worker_id"},
    ),
    "forget dead workers": (lambda _, c: leases.forget_dead(c, seen_before=seeds.later(1)), {"ix_tasks_worker_id"}),
    "cancelled of": (lambda crowd, c: leases.cancelled_of(c, crowd.worker_id), {"ix_tasks_worker_id"}),
    "usage of a project": (
        lambda crowd, c: usage.summarise(
            c, by=("day",), project_id=crowd.key.project_id, since=seeds.later(-86_400), until=seeds.NOW
        ),
        {"ix_usage_hourly_project_id_hour", "pk_usage_hourly"},
    ),
    "days of a project": (
        lambda crowd, c: usage.summarise(
            c, by=("day", "model"), project_id=crowd.key.project_id, since=seeds.later(-86_400 * 7), until=seeds.NOW
        ),
        {"ix_usage_daily_totals_project_id_day", "pk_usage_daily_totals"},
    ),
    "labels of a project": (
        lambda crowd, c: usage.summarise(
            c, by=("label",), project_id=crowd.key.project_id, since=seeds.later(-86_400 * 7), until=seeds.NOW
        ),
        {"ix_usage_daily_project_id_day", "pk_usage_daily"},
    ),
    "hosts that something is due for": (
        lambda _, c: sending.hosts_due(c, now=seeds.later(60)),
        {"ix_webhook_deliveries_due"},
    ),
    "claim deliveries": (
        lambda _, c: sending.claim(c, {"h7.example": 8}, limit=8, now=seeds.later(60), master=seeds.MASTER),
        {"ix_webhook_deliveries_due"},
    ),
    "settle deliveries": (
        lambda crowd, c: sending.settle(c, [tried(id_) for id_ in crowd.ended[:50]]),
        {"pk_webhook_deliveries"},
    ),
    "forget deliveries": (
        lambda _, c: sending.forget(c, DeliveryState.DELIVERED, ended_before=seeds.later(9_000), limit=50),
        {"ix_webhook_deliveries_ended"},
    ),
    "deliveries that wait": (
        lambda _, c: deliveries.waiting(c, now=seeds.later(60)),
        {"ix_webhook_deliveries_due"},
    ),
    "deliveries of a project": (
        lambda crowd, c: deliveries.page(
            c, project_id=crowd.key.project_id, where=deliveries.Filter(), limit=50, after=crowd.ended[12_000]
        ),
        {"ix_webhook_deliveries_project_id_id", "pk_webhook_deliveries"},
    ),
    "failed deliveries of a project": (
        lambda crowd, c: deliveries.page(
            c,
            project_id=crowd.key.project_id,
            where=deliveries.Filter(state=DeliveryState.FAILED),
            limit=50,
        ),
        {"ix_webhook_deliveries_project_id_failed"},
    ),
    "deliveries of a task": (
        lambda crowd, c: deliveries.page(
            c, project_id=crowd.key.project_id, where=deliveries.Filter(task_id=crowd.ended[7]), limit=50
        ),
        {"ix_webhook_deliveries_task_id"},
    ),
    "merge the past": (
        lambda _, c: shards.merge(c, roll_up.DAILY, now=seeds.later(86_400), limit=50),
        {"ix_usage_daily_sharded", "pk_usage_daily"},
    ),
}
OF_LINES: dict[str, tuple[Question, set[str]]] = {
    "tasks of a batch": (
        lambda crowd, c: tasks.page(
            c, project_id=crowd.key.project_id, where=Filter(batch_id=BATCH), limit=50, after=crowd.ended[4_000]
        ),
        {"uq_tasks_batch_id_line"},
    ),
    "failed tasks of a batch": (
        lambda crowd, c: tasks.page(
            c,
            project_id=crowd.key.project_id,
            where=Filter(batch_id=BATCH, states=frozenset({TaskState.FAILED})),
            limit=50,
        ),
        {"ix_tasks_batch_id_failed"},
    ),
    "results of a batch": (
        lambda _, c: batch_results.by_line(c, BATCH, which=Which.ALL, after=4_000, until=10**9, rows=SOME),
        {"uq_tasks_batch_id_line"},
    ),
    "results of a batch that succeeded": (
        lambda _, c: batch_results.by_line(
            c, BATCH, which=Which.SUCCEEDED, after=4_000, until=10**9, rows=SOME, with_input=True
        ),
        {"uq_tasks_batch_id_line"},
    ),
    "results of a batch that failed": (
        lambda _, c: batch_results.by_line(
            c, BATCH, which=Which.FAILED, after=4_000, until=10**9, rows=SOME, ended=True
        ),
        {"ix_tasks_batch_id_failed"},
    ),
    "results of a batch as they ended": (
        lambda _, c: batch_results.by_end(
            c, BATCH, which=Which.SUCCEEDED, after=(seeds.later(4), 4_000), until=seeds.later(3_600), rows=SOME
        ),
        {"ix_tasks_batch_id_ended_at"},
    ),
}


def tried(delivery_id: UUID) -> sending.Tried:
    state = DeliveryState.DELIVERED
    return sending.Tried(id=delivery_id, tries=1, state=state, not_before=seeds.NOW, ended_at=seeds.NOW)


def stale(task_id: UUID) -> Settlement:
    claimed = claims.Claimed(
        id=task_id, fence=1, attempt=1, tries=0, endpoint="chat", model="m", route="a/m", lane="cloud.bulk", body="{}",
        deadline=seeds.NOW, retry_until=seeds.NOW, on_uncertain=OnUncertain.RETRY, prompt_tokens_estimate=1,
        max_tokens=None, assumed_max_tokens=1, attempt_started_at=seeds.NOW,
    )  # fmt: skip
    return seeds.success(claimed)


def foreseen(task_id: UUID, key: Key) -> Settlement:
    """Of a task that its worker holds no longer."""
    known = Known(
        project_id=key.project_id, key_id=key.id, model="m", label=None, batch_id=None, upstream="a",
        attempt_started_at=seeds.NOW,
    )  # fmt: skip
    return replace(stale(task_id), known=known)


def leaving(task_id: UUID) -> Settlement:
    """Of a task that waits for a route that nobody can call."""
    there = Reroute(
        route="b/m",
        lane="cloud.bulk",
        mode="direct",
        on_uncertain=OnUncertain.RETRY,
        reserved_nano=1,
        reserved_tokens=1,
    )
    return Settlement(
        task_id=task_id, fence=0, attempt=1, held=TaskState.QUEUED, outcome=AttemptOutcome.OPEN, state=TaskState.QUEUED,
        not_before=seeds.NOW, reroute=there,
    )  # fmt: skip


@pytest.mark.timeout(300)
async def test_no_hot_question_scans_a_table(crowd: Crowd, subtests: pytest.Subtests) -> None:
    await require_indexes(crowd, QUESTIONS, subtests)


async def test_the_lines_of_a_batch_are_read_by_its_indexes(lines: Crowd, subtests: pytest.Subtests) -> None:
    await require_indexes(lines, OF_LINES, subtests)


async def require_indexes(
    crowd: Crowd, questions: dict[str, tuple[Question, set[str]]], subtests: pytest.Subtests
) -> None:
    for mode in ("force_custom_plan", "force_generic_plan"):
        for name, (question, expected) in questions.items():
            plans = await crowd.plans_of(lambda connection, ask=question: ask(crowd, connection), mode=mode)  # type: ignore[misc]
            with subtests.test(msg=f"{name}, {mode}"):
                assert scans(plans) == []
                assert expected & indexes(plans)
                assert most_rows(plans) <= ROWS.get(name, 600)
