from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.errors import InvalidRequestError, RequestIdConflictError
from tollgate.domain.ids import new_id
from tollgate.domain.states import TaskState
from tollgate.domain.tasks import Accepted, Key, NewTask
from tollgate.store import intake, new_tasks
from tollgate.store.database import Database
from tollgate.store.intake import Outcome
from tollgate.store.labels import MAX_LABELS
from tollgate.store.schema import labels, task_requests, tasks


def ids_of(outcome: Outcome) -> list[UUID]:
    assert not isinstance(outcome, Exception), outcome
    return [accepted.id for accepted in outcome]


def duplicates_of(outcome: Outcome) -> list[bool]:
    assert not isinstance(outcome, Exception), outcome
    return [accepted.duplicate for accepted in outcome]


def named(key: Key, request_id: str | None, *, body: str = "a", **changes: Any) -> NewTask:
    """A task with a request_id whose digest is that of `body`."""
    digest = hashlib.sha256(body.encode()).hexdigest()
    return seeds.a_task(key, request_id=request_id, digest=digest, **changes)


async def stored(database: Database) -> set[UUID]:
    """The tasks that are there; each has its body."""
    ids = {row.id for row in await seeds.rows_of(database, tasks)}
    assert {row.task_id for row in await seeds.rows_of(database, task_requests)} == ids
    return ids


@pytest.mark.parametrize("alone", [True, False])
async def test_every_column_is_kept_as_it_was_given(database: Database, alone: bool) -> None:
    """What rows have in common is sent once."""
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    task = seeds.a_task(
        key,
        request_id="r-1",
        custom_id="名字 ' \" \\ \U0001f600",
        label="billing",
        announced_at=seeds.later(0.000001),
        max_tokens=2**31 - 1,
        body='{"content":"你好\\u0000 \U0001f600"}',
        metadata='{"a":1}',
    )
    await seeds.submit(database, [task] if alone else [seeds.a_task(other), task, seeds.a_task(key)])
    found = await seeds.row(database, task.id)
    kept = {name: getattr(found, name) for name in new_tasks.COLUMNS}
    assert kept == {name: getattr(task, name) for name in new_tasks.COLUMNS}
    assert (found.state, found.fence, found.attempt, found.tries, found.worker_id) == ("queued", 0, 1, 0, None)
    (request,) = [row for row in await seeds.rows_of(database, task_requests) if row.task_id == task.id]
    assert (request.body, request.metadata) == (task.body, task.metadata)


async def test_ids_come_back_in_the_order_of_their_tasks(database: Database) -> None:
    key = await seeds.a_key(database)
    new = [named(key, request_id) for request_id in ("z", "b", None, "a", "m", None)]
    new.reverse()
    outcomes = await seeds.submit(database, new[:4], new[4:])
    assert [id_ for outcome in outcomes for id_ in ids_of(outcome)] == [task.id for task in new]


async def test_a_submission_of_no_tasks_is_accepted(database: Database) -> None:
    assert await seeds.submit(database, []) == [()]


async def test_ten_thousand_tasks_are_one_submission(database: Database) -> None:
    key = await seeds.a_key(database)
    new = [named(key, f"r-{n}", body=str(n)) for n in range(10_000)]
    (outcome,) = await seeds.submit(database, new)
    assert ids_of(outcome) == [task.id for task in new]
    assert await seeds.size(database, task_requests) == 10_000


async def test_a_repeat_inside_one_submission_is_the_same_task(database: Database) -> None:
    key = await seeds.a_key(database)
    (outcome,) = await seeds.submit(database, [named(key, "r"), named(key, "r")])
    first, second = ids_of(outcome)
    assert first == second
    assert sorted(duplicates_of(outcome)) == [False, True]
    assert await stored(database) == {first}


async def test_a_repeat_across_submissions_of_one_statement_is_the_same_task(database: Database) -> None:
    key = await seeds.a_key(database)
    outcomes = await seeds.submit(database, [named(key, "r")], [named(key, "r")])
    assert ids_of(outcomes[0]) == ids_of(outcomes[1])
    assert len(await stored(database)) == 1


async def test_a_repeat_of_a_committed_task_is_that_task(database: Database) -> None:
    key = await seeds.a_key(database)
    task = named(key, "r")
    await seeds.submit(database, [task])
    (outcome,) = await seeds.submit(database, [named(key, "r")])
    assert (ids_of(outcome), duplicates_of(outcome)) == ([task.id], [True])


async def test_a_repeat_of_a_finished_task_tells_its_state(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key, request_id="r")
    await seeds.settle(database, seeds.success(task))
    (outcome,) = await seeds.submit(database, [seeds.a_task(key, request_id="r")])
    assert outcome == (Accepted(id=task.id, state=TaskState.SUCCEEDED, duplicate=True),)


async def test_another_project_may_use_the_same_request_id(database: Database) -> None:
    mine, theirs = await seeds.a_key(database), await seeds.a_key(database, project="globex")
    outcomes = await seeds.submit(database, [named(mine, "r")], [named(theirs, "r", body="b")])
    assert [duplicates_of(outcome) for outcome in outcomes] == [[False], [False]]


async def test_another_body_under_one_request_id_is_a_conflict_that_names_the_first_task(database: Database) -> None:
    key = await seeds.a_key(database)
    first = named(key, "r")
    await seeds.submit(database, [first])
    (outcome,) = await seeds.submit(database, [named(key, "r", body="b")])
    assert isinstance(outcome, RequestIdConflictError)
    assert (outcome.request_id, outcome.task_id) == ("r", str(first.id))


async def test_two_bodies_inside_one_submission_are_a_conflict(database: Database) -> None:
    key = await seeds.a_key(database)
    (outcome,) = await seeds.submit(database, [named(key, "r"), named(key, "r", body="b")])
    assert isinstance(outcome, RequestIdConflictError)
    assert await stored(database) == set()


async def test_a_submission_is_kept_whole_or_not_at_all(database: Database) -> None:
    key = await seeds.a_key(database)
    first = named(key, "taken")
    await seeds.submit(database, [first])
    refused = [named(key, None), named(key, "new"), named(key, "taken", body="b"), named(key, None)]
    (outcome,) = await seeds.submit(database, refused)
    assert isinstance(outcome, RequestIdConflictError)
    assert await stored(database) == {first.id}


async def test_the_neighbour_of_a_refused_submission_is_kept(database: Database) -> None:
    key = await seeds.a_key(database)
    first = named(key, "taken")
    await seeds.submit(database, [first])
    neighbour = [named(key, None), named(key, "mine")]
    outcomes = await seeds.submit(database, [named(key, "taken", body="b"), named(key, "new")], neighbour)
    assert isinstance(outcomes[0], RequestIdConflictError)
    assert ids_of(outcomes[1]) == [task.id for task in neighbour]
    assert await stored(database) == {first.id, *ids_of(outcomes[1])}


async def test_who_shared_a_task_with_a_refused_submission_gets_its_own(database: Database) -> None:
    key = await seeds.a_key(database)
    await seeds.submit(database, [named(key, "taken")])
    refused = [named(key, "shared"), named(key, "taken", body="b")]
    leaning = [named(key, "shared"), named(key, None), named(key, "mine")]
    outcomes = await seeds.submit(database, refused, leaning)
    assert isinstance(outcomes[0], RequestIdConflictError)
    assert ids_of(outcomes[1]) == [task.id for task in leaning]
    assert duplicates_of(outcomes[1]) == [False, False, False]
    assert {task.id for task in leaning} < await stored(database)


async def test_a_chain_of_shared_tasks_survives_the_refusal_of_its_first(database: Database) -> None:
    key = await seeds.a_key(database)
    await seeds.submit(database, [named(key, "taken")])
    outcomes = await seeds.submit(
        database,
        [named(key, "a"), named(key, "taken", body="b")],
        [named(key, "a"), named(key, "b")],
        [named(key, "b"), named(key, "c")],
        [named(key, "c"), named(key, "d")],
    )
    kept = await stored(database)
    given = [ids_of(outcome) for outcome in outcomes[1:]]
    assert {id_ for ids in given for id_ in ids} < kept
    assert len(kept) == 5
    assert given[0][1] == given[1][0]
    assert given[1][1] == given[2][0]


async def test_a_label_is_noted_once(database: Database) -> None:
    key = await seeds.a_key(database)
    await seeds.submit(database, [seeds.a_task(key, label="a"), seeds.a_task(key, label="a")])
    await seeds.submit(database, [seeds.a_task(key, label="a"), seeds.a_task(key, label="b")])
    assert {(row.project_id, row.label) for row in await seeds.rows_of(database, labels)} == {
        (key.project_id, "a"),
        (key.project_id, "b"),
    }


async def full_of_labels(database: Database, key: Key, *, room: int) -> None:
    await seeds.submit(database, [seeds.a_task(key, label=f"l{n}") for n in range(MAX_LABELS - room)])


async def test_a_label_too_many_refuses_its_submission_only(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="globex")
    await full_of_labels(database, key, room=1)
    outcomes = await seeds.submit(
        database,
        [seeds.a_task(key, label="last")],
        [seeds.a_task(key, label="one too many"), seeds.a_task(key)],
        [seeds.a_task(key, label="l0"), seeds.a_task(key, label="last")],
        [seeds.a_task(other, label="theirs")],
    )
    assert [type(outcome) for outcome in outcomes] == [tuple, InvalidRequestError, tuple, tuple]
    assert isinstance(outcomes[1], InvalidRequestError)
    assert outcomes[1].field == "label"
    assert await seeds.size(database, labels) == MAX_LABELS + 1


async def test_a_refused_submission_leaves_no_label(database: Database) -> None:
    key = await seeds.a_key(database)
    await full_of_labels(database, key, room=1)
    (refused,) = await seeds.submit(database, [seeds.a_task(key, label="x"), seeds.a_task(key, label="y")])
    assert isinstance(refused, InvalidRequestError)
    (accepted,) = await seeds.submit(database, [seeds.a_task(key, label="z")])
    assert isinstance(accepted, tuple)


async def test_a_text_longer_than_its_column_is_refused_and_not_cut(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    with pytest.raises(sa.exc.DBAPIError, match="too long"):
        await seeds.submit(postgres, [seeds.a_task(key, model="m" * 129)])


async def test_opposite_orders_of_the_same_request_ids_never_deadlock_and_agree(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    for turn in range(8):
        names = [f"{turn}-{n}" for n in range(300)]
        forth, back = await asyncio.wait_for(
            asyncio.gather(
                seeds.submit(postgres, [named(key, name) for name in names]),
                seeds.submit(postgres, [named(key, name) for name in reversed(names)]),
            ),
            timeout=30,
        )
        assert ids_of(forth[0]) == ids_of(back[0])[::-1]
    assert len(await stored(postgres)) == 8 * 300


async def test_who_waits_for_a_submission_that_is_refused_inserts_its_own(postgres: Database) -> None:
    key = await seeds.a_key(postgres)
    await seeds.submit(postgres, [named(key, "taken")])
    mine = named(key, "shared")
    async with postgres.write() as connection:
        refused = await intake.submit(connection, [(named(key, "shared"), named(key, "taken", body="b"))])
        assert isinstance(refused[0], RequestIdConflictError)
        waiting = asyncio.create_task(seeds.submit(postgres, [mine]))
        await seeds.until_waiting(postgres)
    assert ids_of((await asyncio.wait_for(waiting, timeout=10))[0]) == [mine.id]


async def test_an_unknown_project_is_an_integrity_error(database: Database) -> None:
    key = await seeds.a_key(database)
    stranger = seeds.a_task(key, project_id=new_id())
    with pytest.raises(sa.exc.IntegrityError):
        await seeds.submit(database, [stranger])
    assert await stored(database) == set()
