"""The models, the migrations and the Python enums say the same on both databases."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from tests.store import seeds
from tollgate.domain.batches import BatchState, Via
from tollgate.domain.errors import SettingsError
from tollgate.domain.ids import new_id
from tollgate.domain.states import AttemptOutcome, OnUncertain, Priority, Role, TaskState
from tollgate.domain.upstream_batches import UpstreamBatchState
from tollgate.store import migrate
from tollgate.store.database import Database
from tollgate.store.reconcile import days
from tollgate.store.reconcile.checks import find
from tollgate.store.schema import (
    BUDGET_PERIODS,
    LANES,
    api_keys,
    budget_periods,
    budgets,
    masters,
    metadata,
    projects,
    tasks,
    usage_hourly,
)

MIGRATION_LOCK = 7_465_217_001
"""As in migrations/env.py, which only Alembic can import."""
PROJECT = Path(__file__).parents[2]
Result = TypeVar("Result")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a table, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


@pytest.fixture
async def empty(empty_url: str) -> AsyncIterator[Database]:
    connected = Database.connect(empty_url)
    try:
        yield connected
    finally:
        await connected.close()


async def read(database: Database, question: Callable[[sa.Connection], Result]) -> Result:
    async with database.read() as connection:
        return await connection.run_sync(question)


async def execute(database: Database, *statements: str) -> None:
    async with database.write() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


def checks(connection: sa.Connection) -> dict[str, str]:
    """Name -> condition of every CHECK, as the database tells it."""
    inspector = sa.inspect(connection)
    found = [check for table in inspector.get_table_names() for check in inspector.get_check_constraints(table)]
    return {str(check["name"]): check["sqltext"] for check in found}


def compare(connection: sa.Connection) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


async def test_the_models_are_what_the_migrations_make(database: Database) -> None:
    assert await read(database, compare) == []


async def test_a_difference_would_be_seen(database: Database) -> None:
    await execute(database, "DROP INDEX ix_tasks_due", "ALTER TABLE labels ADD COLUMN stray INTEGER DEFAULT 3")
    assert {step[0] for step in await read(database, compare)} == {"add_index", "remove_column"}


async def test_the_checks_of_the_models_are_those_of_the_migrations(empty: Database) -> None:
    # Autogenerate does not see CHECKs: those that the metadata makes are compared as the database tells them.
    async with empty.write() as connection:
        await connection.run_sync(metadata.create_all)
    modelled = await read(empty, checks)
    async with empty.write() as connection:
        await connection.run_sync(metadata.drop_all)
    await migrate.upgrade(empty)
    assert await read(empty, checks) == modelled
    assert len(modelled) > 10


@pytest.mark.parametrize(
    ("check", "values"),
    [
        ("ck_tasks_state", TaskState),
        ("ck_tasks_on_uncertain", OnUncertain),
        ("ck_tasks_lane", LANES),
        ("ck_attempts_outcome", AttemptOutcome),
        ("ck_api_keys_role", Role),
        ("ck_batches_state", BatchState),
        ("ck_batches_via", Via),
        ("ck_batches_priority", Priority),
        ("ck_upstream_batches_state", UpstreamBatchState),
        ("ck_budgets_period", BUDGET_PERIODS),
    ],
)
async def test_the_enums_are_those_of_the_checks(
    database: Database, check: str, values: Iterable[StrEnum | str]
) -> None:
    condition = (await read(database, checks))[check]
    assert sorted(re.findall(r"'([^']+)'", condition)) == sorted(str(value) for value in values)


def move(connection: sa.Connection, direction: Callable[[Config, str], None], revision: str) -> None:
    config = migrate.config()
    config.attributes["connection"] = connection
    direction(config, revision)


async def test_upgrade_and_downgrade_come_back_to_an_empty_database(empty: Database) -> None:
    assert await migrate.upgrade(empty) == (None, migrate.head())
    assert set(metadata.tables) < set(await read(empty, lambda c: sa.inspect(c).get_table_names()))
    async with empty.write() as connection:
        await connection.run_sync(lambda c: move(c, command.downgrade, "base"))
    assert await read(empty, lambda c: sa.inspect(c).get_table_names()) == ["alembic_version"]
    assert await migrate.upgrade(empty) == (None, migrate.head())
    assert await read(empty, compare) == []


async def test_days_are_filled_from_the_hours_that_there_were(empty: Database) -> None:
    async with empty.write() as connection:
        await connection.run_sync(lambda c: move(c, command.upgrade, "0002"))
    midnight, project_id = datetime(2026, 3, 1, tzinfo=UTC), new_id()
    of = {"project_id": project_id, "model": "m", "upstream": "u"}
    async with empty.write() as connection:
        await connection.execute(sa.insert(projects).values(id=project_id, name="acme", created_at=midnight))
        for n in range(60):
            hour, label = midnight + timedelta(hours=n % 30), f"l{n % 2}"
            row = {"hour": hour, "key_id": "k", "label": label, "shard": n % 16, "cost_nano": 10**n % 997, **of}
            await connection.execute(sa.insert(usage_hourly).values(**row))
    assert await migrate.upgrade(empty) == ("0002", migrate.head())
    async with empty.read() as connection:
        found = [await find(connection, check, limit=1) for check in days.CHECKS]
    assert [(one.checked, one.differences) for one in found] == [(4, 0), (2, 0)]


async def test_tasks_that_were_open_are_counted_in_their_budgets(empty: Database) -> None:
    async with empty.write() as connection:
        await connection.run_sync(lambda c: move(c, command.upgrade, "0004"))
    now, project_id, budget_id = datetime(2026, 3, 1, tzinfo=UTC), new_id(), new_id()
    period = {"budget_id": budget_id, "starts_on": now.date()}
    named = f"{new_id().hex}@1970-01-01,{budget_id.hex}@2026-03-01"
    async with empty.write() as connection:
        for table, row in (
            (projects, {"id": project_id, "name": "acme", "created_at": now}),
            (masters, {"fingerprint": "m", "created_at": now}),
            (budgets, {"id": budget_id, "project_id": project_id, "period": "day", "limit_nano": 7, "created_at": now}),
            (budget_periods, {**period, "reserved_nano": 5}),
            (budget_periods, {**period, "starts_on": now.date() - timedelta(days=1), "spent_nano": 3}),
        ):
            await connection.execute(sa.insert(table).values(**row))
        owner = {"id": "k", "project_id": project_id, "name": "k", "role": "user", "master": "m", "version": 1}
        await connection.execute(sa.insert(api_keys).values(**owner, created_at=now))
        common = {
            "project_id": project_id,
            "key_id": "k",
            "digest": "",
            "model": "m",
            "route": "u/m",
            "created_at": now,
        }
        common |= {"lane": "cloud.bulk", "prompt_tokens_estimate": 1, "charged_to": named}
        common |= dict.fromkeys(("not_before", "deadline", "retry_until"), now)
        worker = {"worker_id": new_id()}
        states: tuple[tuple[str, dict[str, Any]], ...] = (
            ("queued", {"reserved_nano": 2}),
            ("running", {"reserved_nano": 3, **worker}),
            ("succeeded", {"ended_at": now}),
        )
        for state, more in states:
            await connection.execute(sa.insert(tasks).values(id=new_id(), state=state, **common, **more))
    assert await migrate.upgrade(empty) == ("0004", migrate.head())
    found = {row.starts_on.day: row for row in await seeds.rows_of(empty, budget_periods)}
    assert [(found[day].reserved_tasks, found[day].reserved_nano, found[day].spent_nano) for day in (1, 28)] == [
        (2, 5, 0),
        (0, 0, 3),
    ]
    async with empty.write() as connection:
        await connection.run_sync(lambda c: move(c, command.downgrade, "0004"))
        kept = (await connection.exec_driver_sql("SELECT limit_nano FROM budgets")).scalars().all()
        periods = (await connection.exec_driver_sql("SELECT count(*) FROM budget_periods")).scalar()
    assert (kept, periods) == ([7], 2)


async def test_a_second_upgrade_changes_nothing(database: Database) -> None:
    assert await migrate.upgrade(database) == (migrate.head(), migrate.head())


async def test_a_failed_upgrade_leaves_nothing(empty: Database) -> None:
    await execute(empty, "CREATE TABLE task_results (id INTEGER)")
    with pytest.raises(sa.exc.DBAPIError, match="already exists"):
        await migrate.upgrade(empty)
    assert await read(empty, lambda c: sa.inspect(c).get_table_names()) == ["task_results"]


async def test_a_current_database_is_accepted(database: Database) -> None:
    await migrate.require_current(database)


async def test_a_database_without_a_history_is_refused(empty: Database) -> None:
    with pytest.raises(SettingsError, match=r"revision none.*run `tollgate migrate`"):
        await migrate.require_current(empty)


async def test_a_half_migrated_database_is_refused(empty: Database) -> None:
    await execute(empty, "CREATE TABLE tasks (id INTEGER)")
    with pytest.raises(SettingsError, match=r"table 'tasks' but no migration history"):
        await migrate.require_current(empty)


async def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    await execute(database, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match=r"revision 9999.*newer"):
        await migrate.require_current(database)


def alembic(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TOLLGATE_DATABASE_URL": url}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "alembic", *arguments],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


async def test_alembic_upgrade_head_works_as_its_users_expect(empty_url: str) -> None:
    done = await asyncio.to_thread(alembic, empty_url, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    database = Database.connect(empty_url)
    try:
        await migrate.require_current(database)
    finally:
        await database.close()


async def test_two_upgrades_at_once_both_end_well(empty_postgres_url: str) -> None:
    database = Database.connect(empty_postgres_url)
    try:
        async with database.write() as connection:
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            both = [
                asyncio.create_task(asyncio.to_thread(alembic, empty_postgres_url, "upgrade", "head")) for _ in "ab"
            ]
            await seeds.until_waiting(database, count=2)
        for done in await asyncio.wait_for(asyncio.gather(*both), timeout=60):
            assert done.returncode == 0, done.stderr
        assert await read(database, compare) == []
    finally:
        await database.close()


async def test_alembic_finds_nothing_outstanding(database_url: str) -> None:
    done = await asyncio.to_thread(alembic, database_url, "check")
    assert done.returncode == 0, done.stdout + done.stderr


async def test_alembic_refuses_to_print_what_it_would_do(empty_url: str) -> None:
    done = await asyncio.to_thread(alembic, empty_url, "upgrade", "head", "--sql")
    assert done.returncode != 0
    assert "without --sql" in done.stderr
