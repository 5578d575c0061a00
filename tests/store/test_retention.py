"""What a project keeps for a time is due so long after its end; see tests/worker/test_erasing.py for the walk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.store import seeds
from tests.store.test_batch_erasing import a_batch, a_file
from tollgate.domain.ids import first_of
from tollgate.domain.retention import Texts
from tollgate.domain.tasks import Key
from tollgate.store import keys, retention
from tollgate.store.database import Database
from tollgate.store.retention import Kept, Look
from tollgate.store.schema import batches as batch_table
from tollgate.store.schema import files as file_table

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def kept(key: Key, *, days: int = 30, texts: Texts = Texts.RESULTS, erased_to: UUID | None = None) -> Kept:
    return Kept(project_id=key.project_id, texts=texts, keep_s=days * 86_400, erased_to=erased_to)


def submitted(at: datetime, n: int = 0) -> UUID:
    """The id of a task of then."""
    return UUID(int=first_of(at).int + n)


async def tasks_of(database: Database, key: Key, *ended: datetime | None) -> list[UUID]:
    """Of 100 days ago, in this order; each ended then, or is still open."""
    ids = [submitted(NOW - 100 * DAY, n) for n in range(len(ended))]
    await seeds.submit(database, [seeds.a_task(key, id=i) for i in ids])
    leased = {one.id: one for one in await seeds.claim(database, *ids)}
    for task_id, at in zip(ids, ended, strict=True):
        if at is not None:
            await seeds.settle(database, seeds.success(leased[task_id]), now=at)
    return ids


async def look(database: Database, what: Kept, *, after: UUID | None = None) -> Look:
    async with database.read() as connection:
        return await retention.look(connection, what, after=after, now=NOW)


async def test_what_ended_so_long_ago_is_due_and_nothing_else(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    ended: Sequence[datetime | None] = (NOW - 31 * DAY, NOW - 30 * DAY, NOW - 29 * DAY, None, NOW - 31 * DAY)
    ids = await tasks_of(database, key, *ended)
    found = await look(database, kept(key))
    assert found.due == [ids[0], ids[1], ids[4]]
    assert (found.last, found.all_due_to, found.all_due, found.more) == (ids[4], ids[1], False, False)
    assert (await look(database, kept(other))).due == []


async def test_what_was_submitted_lately_is_not_even_looked_at(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key, id=submitted(NOW - 29 * DAY))
    await seeds.settle(database, seeds.success(task), now=NOW - 60 * DAY)
    found = await look(database, kept(key))
    assert (found.due, found.all_due_to) == ([], None)


async def test_a_place_that_was_come_to_never_goes_back(database: Database) -> None:
    key = await seeds.a_key(database)
    async with database.write() as connection:
        await retention.change(connection, key.project_id, {Texts.RESULTS: 3600})
        for days in (9, 5, 7):
            await retention.note(connection, kept(key), erased_to=submitted(NOW - days * DAY))
        (found,) = await retention.read(connection)
    assert found == Kept(
        project_id=key.project_id, texts=Texts.RESULTS, keep_s=3600, erased_to=submitted(NOW - 5 * DAY)
    )


async def test_a_change_leaves_the_other_as_it_is_and_null_is_for_ever(database: Database) -> None:
    key = await seeds.a_key(database)
    await seeds.a_key(database, project="other")

    async def change(values: dict[Texts, int | None]) -> tuple[int | None, int | None]:
        async with database.write() as connection:
            await retention.change(connection, key.project_id, values)
            one = await keys.project_named(connection, "acme")
            assert await keys.project_named(connection, "other") != one
        return one.keep_prompts_s, one.keep_results_s

    assert await change({Texts.PROMPTS: 7200}) == (7200, None)
    assert await change({Texts.RESULTS: 3600}) == (7200, 3600)
    assert await change({}) == (7200, 3600)
    assert await change({Texts.PROMPTS: None}) == (None, 3600)
    async with database.read() as connection:
        assert [(one.texts, one.keep_s) for one in await retention.read(connection)] == [(Texts.RESULTS, 3600)]


async def forget(database: Database, key: Key) -> int:
    async with database.write() as connection:
        return await retention.forget_inputs(connection, kept(key, texts=Texts.PROMPTS), now=NOW)


async def test_files_are_prompts_too_unless_an_open_batch_is_made_of_them(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    old = {"created_at": NOW - 31 * DAY}
    gone, used, done = [await a_file(database, key, id=submitted(NOW - 31 * DAY, n), **old) for n in range(3)]
    lately = await a_file(database, key, id=submitted(NOW - 29 * DAY))
    theirs = await a_file(database, other, id=submitted(NOW - 31 * DAY, 9), **old)
    await a_batch(database, key, input_file_id=used)
    ended = await a_batch(database, key, input_file_id=done, ended_at=NOW - 31 * DAY)
    of_view: dict[str, Any] = {"purpose": "batch_output", "sha256": None, "batch_id": ended}
    view = await a_file(database, key, id=submitted(NOW - 31 * DAY, 7), **of_view)
    assert await forget(database, key) == 2
    left = {row.id for row in await seeds.rows_of(database, file_table)}
    assert left == {used, lately, theirs, view}
    assert gone not in left
    assert await forget(database, key) == 0


async def test_so_is_what_an_old_batch_says_for_its_lines(database: Database) -> None:
    key = await seeds.a_key(database)
    said: dict[str, Any] = {"defaults": '{"system":"be brief"}', "metadata": "{}"}
    old = await a_batch(database, key, id=submitted(NOW - 40 * DAY), ended_at=NOW - 31 * DAY, **said)
    lately = await a_batch(database, key, id=submitted(NOW - 40 * DAY, 1), ended_at=NOW - 29 * DAY, **said)
    runs = await a_batch(database, key, id=submitted(NOW - 40 * DAY, 2), **said)
    assert await forget(database, key) == 1
    found = {row.id: (row.defaults, row.metadata) for row in await seeds.rows_of(database, batch_table)}
    assert found == {old: (None, None), lately: tuple(said.values()), runs: tuple(said.values())}
