"""Lines of a batch's file become tasks, each once, whoever reads it and however often."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import Any

import pytest

from tests.store import batch_seeds, seeds
from tests.store.batch_seeds import a_line, a_step, differing, found, made, take_in
from tollgate.domain.batches import Batch, BatchState
from tollgate.domain.tasks import Key
from tollgate.store import batch_intake, batches, cancels, labels
from tollgate.store.database import Database
from tollgate.store.schema import invalid_lines, task_requests, tasks, webhook_deliveries
from tollgate.store.schema import labels as labels_table


async def lines_of(database: Database) -> list[int]:
    return sorted(row.line for row in await seeds.rows_of(database, tasks))


async def refuse(database: Database, batch: Batch) -> bool:
    async with database.write() as connection:
        return await batch_intake.refuse(connection, batch.id, code="invalid_lines", message="bad", now=seeds.NOW)


async def refuse_whole(database: Database, batch: Batch) -> None:
    while not await refuse(database, batch):
        pass


async def test_steps_commit_lines_bodies_and_the_place_together(database: Database) -> None:
    key = await seeds.a_key(database)
    batch = await made(database, key, total=4)
    assert await take_in(database, batch, a_step([a_line(key, batch, 1), a_line(key, batch, 2)], last=False))
    taken = await found(database, batch)
    assert (taken.state, taken.accepted, taken.taken_lines, taken.taken_bytes) == (BatchState.VALIDATING, 2, 2, 200)
    assert await take_in(database, batch, a_step([a_line(key, batch, 3)], [4], at=2))
    taken = await found(database, batch)
    assert (taken.state, taken.accepted, taken.invalid, taken.total) == (BatchState.IN_PROGRESS, 3, 1, 4)
    assert taken.in_progress_at == seeds.NOW
    assert await lines_of(database) == [1, 2, 3]
    assert await seeds.size(database, task_requests) == 3
    assert await differing(database) == set()


async def test_a_step_that_was_taken_is_not_taken_again(database: Database) -> None:
    key = await seeds.a_key(database)
    batch = await made(database, key)
    assert await take_in(database, batch, a_step([a_line(key, batch, 1)], [2], last=False))
    assert not await take_in(database, batch, a_step([a_line(key, batch, 1)], [2], last=False))
    assert await take_in(database, batch, a_step([a_line(key, batch, 3)], at=2))
    assert await lines_of(database) == [1, 3]
    assert (await found(database, batch)).invalid == 1


async def test_of_two_gateways_at_one_step_one_commits_it(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    batch = await made(postgres, key, total=2)

    async def a_gateway() -> bool:
        return await take_in(postgres, batch, a_step([a_line(key, batch, 1), a_line(key, batch, 2)]))

    async with postgres.write() as first:
        step = a_step([a_line(key, batch, 1), a_line(key, batch, 2)])
        assert await batch_intake.take_in(first, batch.id, step, now=seeds.NOW)
        second = asyncio.create_task(a_gateway())
        await seeds.until_waiting(postgres)
    assert await second is False
    assert await lines_of(postgres) == [1, 2]
    assert (await found(postgres, batch)).accepted == 2


@pytest.mark.parametrize("apart", [False, True], ids=["in one step", "across steps"])
async def test_of_lines_with_one_custom_id_the_first_wins(database: Database, apart: bool) -> None:
    key = await seeds.a_key(database)
    batch = await made(database, key)
    first, second, third = (a_line(key, batch, n, custom_id=name) for n, name in ((1, "a"), (2, "a"), (3, "b")))
    steps = [a_step([first], last=False), a_step([second, third], at=1)] if apart else [a_step([first, second, third])]
    for step in steps:
        assert await take_in(database, batch, step)
    assert await lines_of(database) == [1, 3]
    (refused,) = await seeds.rows_of(database, invalid_lines)
    assert (refused.line, refused.code, refused.custom_id) == (2, "duplicate_custom_id", "a")
    taken = await found(database, batch)
    assert (taken.accepted, taken.invalid) == (2, 1)
    assert await seeds.size(database, task_requests) == 2


@pytest.mark.parametrize(
    "own", [{}, {"model": "glm-4-flash", "max_tokens": 9, "label": "b"}], ids=["alike", "differing"]
)
async def test_each_column_of_a_line_is_kept(database: Database, own: dict[str, Any]) -> None:
    key = await seeds.a_key(database)
    batch = await made(database, key)
    new = [
        a_line(key, batch, 1, label="a", max_tokens=50),
        a_line(key, batch, 2, **{"label": "a", "max_tokens": 50, **own}),
    ]
    assert await take_in(database, batch, a_step(new))
    found = {row.id: row._mapping for row in await seeds.rows_of(database, tasks)}
    for line in new:
        told = {field.name: getattr(line, field.name) for field in fields(line) if field.name in tasks.c}
        assert told == {name: found[line.id][name] for name in told}
        assert found[line.id]["state"] == "queued"


async def test_lines_without_a_custom_id_and_other_batches_are_no_duplicates(database: Database) -> None:
    key = await seeds.a_key(database)
    for _ in range(2):
        batch = await made(database, key)
        new = [a_line(key, batch, 1, custom_id=None), a_line(key, batch, 2, custom_id=None), a_line(key, batch, 3)]
        assert await take_in(database, batch, a_step(new))
    assert len(await lines_of(database)) == 6


async def test_labels_over_the_projects_bound_make_their_lines_invalid(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "MAX_LABELS", 2)  # a thousand of them would show nothing else
    key = await seeds.a_key(database)
    batch = await made(database, key, total=4)
    new = [a_line(key, batch, n, label=name) for n, name in enumerate(("a", "b", "c", "a"), 1)]
    assert await take_in(database, batch, a_step(new))
    assert await lines_of(database) == [1, 2, 4]
    (refused,) = await seeds.rows_of(database, invalid_lines)
    assert (refused.line, refused.code, refused.field) == (3, "too_many_labels", "label")
    assert {row.label for row in await seeds.rows_of(database, labels_table)} == {"a", "b"}


async def a_strict_one(database: Database, key: Key, **changes: Any) -> Batch:
    """With two lines and an invalid one, read to its end."""
    batch = await made(database, key, strict=True, **changes)
    assert await take_in(database, batch, a_step([a_line(key, batch, 1), a_line(key, batch, 2)], [3]))
    return await found(database, batch)


async def test_a_strict_batch_with_an_invalid_line_is_refused_and_leaves_no_task(database: Database) -> None:
    key = await seeds.a_key(database)
    batch = await a_strict_one(database, key, callback_url="https://example.org/told")
    assert batch.state is BatchState.VALIDATING
    await refuse_whole(database, batch)
    over = await found(database, batch)
    assert (over.state, over.accepted, over.invalid, over.error_code) == (BatchState.FAILED, 0, 1, "invalid_lines")
    assert (await lines_of(database), await seeds.size(database, task_requests)) == ([], 0)
    assert [row.event for row in await seeds.rows_of(database, webhook_deliveries)] == ["batch.failed"]
    assert await differing(database) == set()


async def test_a_refusal_goes_in_rounds_and_is_told_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_intake, "DELETED_AT_ONCE", 1)
    key = await seeds.a_key(database)
    batch = await a_strict_one(database, key, callback_url="https://example.org/told")
    for left in (1, 0):
        assert not await refuse(database, batch)
        assert (await found(database, batch)).accepted == left
        assert await differing(database) == set()
    # Two gateways may be at its end at once: both are done, and one tells of it.
    assert [await refuse(database, batch) for _ in range(2)] == [True, True]
    assert await seeds.size(database, webhook_deliveries) == 1


async def test_a_refusal_touches_nothing_of_a_batch_that_is_being_cancelled(database: Database) -> None:
    key = await seeds.a_key(database)
    batch = await a_strict_one(database, key)
    async with database.write() as connection:
        assert await batches.cancel(connection, batch.id, now=seeds.NOW)
    assert await refuse(database, batch)
    over = await found(database, batch)
    assert (over.state, over.accepted, over.error_code) == (BatchState.CANCELLING, 2, None)
    assert await lines_of(database) == [1, 2]


async def test_lines_that_ended_before_a_refusal_stay_in_the_accounts(database: Database) -> None:
    key = await seeds.a_key(database)
    batch = await a_strict_one(database, key)
    first = min(await seeds.rows_of(database, tasks), key=lambda row: row.line)
    async with database.write() as connection:
        await cancels.cancel(connection, first.id, project_id=key.project_id, now=seeds.NOW)
    await refuse_whole(database, batch)
    assert await lines_of(database) == [1]
    assert ((await found(database, batch)).accepted, (await found(database, batch)).sums.tasks_cancelled) == (1, 1)
    assert await differing(database) == set()


async def test_lines_of_a_strict_batch_wait_for_the_whole_file(database: Database) -> None:
    key = await seeds.a_key(database)
    batch = await made(database, key, strict=True, total=2)
    line = a_line(key, batch, 1)
    assert await take_in(database, batch, a_step([line], last=False))
    assert await batch_seeds.tell(database) == []
    assert await seeds.claim(database, line.id) == []
    assert await take_in(database, batch, a_step([a_line(key, batch, 2)], at=1))
    assert len(await batch_seeds.tell(database)) == 2
    assert len(await seeds.claim(database, line.id)) == 1


async def test_lines_of_another_run_while_the_rest_is_read(database: Database) -> None:
    key = await seeds.a_key(database)
    batch = await made(database, key)
    line = a_line(key, batch, 1)
    assert await take_in(database, batch, a_step([line], last=False))
    assert await batch_seeds.tell(database) == [line.id]
    assert len(await seeds.claim(database, line.id)) == 1


async def test_cancelling_stops_the_intake(database: Database) -> None:
    key = await seeds.a_key(database)
    batch = await made(database, key)
    assert await take_in(database, batch, a_step([a_line(key, batch, 1)], last=False))
    async with database.write() as connection:
        await batches.cancel(connection, batch.id, now=seeds.NOW)
        assert await batch_intake.waiting(connection, stale=seeds.later(99)) == []
    assert not await take_in(database, batch, a_step([a_line(key, batch, 2)], at=1))
    assert await lines_of(database) == [1]


async def test_a_file_without_lines_is_refused(database: Database) -> None:
    batch = await made(database, await seeds.a_key(database), total=0)
    assert await take_in(database, batch, a_step())
    assert (await found(database, batch)).state is BatchState.VALIDATING
    await refuse_whole(database, batch)
    assert (await found(database, batch)).state is BatchState.FAILED


async def test_a_file_of_invalid_lines_alone_is_refused(database: Database) -> None:
    batch = await made(database, await seeds.a_key(database), total=2)
    assert await take_in(database, batch, a_step([], [1, 2]))
    await refuse_whole(database, batch)
    over = await found(database, batch)
    assert (over.state, over.invalid) == (BatchState.FAILED, 2)


@pytest.mark.parametrize(
    ("lines", "strict", "cut"), [(2, False, True), (0, False, False), (2, True, False)], ids=["some", "none", "strict"]
)
async def test_a_batch_whose_file_is_lost_is_what_was_taken_in(
    database: Database, lines: int, strict: bool, cut: bool
) -> None:
    key = await seeds.a_key(database)
    batch = await made(database, key, total=9, strict=strict)
    new = [a_line(key, batch, n) for n in range(1, lines + 1)]
    assert await take_in(database, batch, a_step(new, [7], last=False))
    async with database.write() as connection:
        told: dict[str, Any] = {"code": "input_lost", "message": "gone", "now": seeds.NOW}
        assert await batch_intake.cut_short(connection, batch.id, **told) is cut
    over = await found(database, batch)
    state = BatchState.IN_PROGRESS if cut else BatchState.VALIDATING
    assert (over.state, over.total, over.error_code) == (state, 9, "input_lost" if cut else None), "what is lost shows"


async def test_short_batches_are_read_first_and_fresh_ones_left_alone(database: Database) -> None:
    key = await seeds.a_key(database)
    long, short, fresh = [await made(database, key, total=total) for total in (9, 2, 3)]
    await take_in(database, fresh, a_step([a_line(key, fresh, 1)], last=False), now=seeds.later(20))
    await take_in(database, long, a_step([a_line(key, long, 1)], last=False))
    async with database.read() as connection:
        assert await batch_intake.waiting(connection, stale=seeds.later(15)) == [short.id, long.id]


async def test_invalid_lines_are_paged_in_the_order_of_the_input(database: Database) -> None:
    batch = await made(database, await seeds.a_key(database), total=5)
    await take_in(database, batch, a_step([], [5, 2, 3, 1, 4]))
    async with database.read() as connection:
        first = await batch_intake.invalid_page(connection, batch.id, limit=2)
        rest = await batch_intake.invalid_page(connection, batch.id, after=first[-1].line, limit=9)
    assert [one.line for one in (*first, *rest)] == [1, 2, 3, 4, 5]
