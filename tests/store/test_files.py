"""The rows of files: a project's own, for as long as they last, and while nobody reads from them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from tests.store import seeds
from tests.store.seeds import NOW, later
from tollgate.domain.batches import BatchState, NewBatch, Via
from tollgate.domain.errors import FileInUseError, NotFoundError
from tollgate.domain.ids import new_id
from tollgate.domain.states import Priority
from tollgate.domain.tasks import Key
from tollgate.store import batches, files
from tollgate.store.database import Database, WriteConnection
from tollgate.store.files import GRACE, File
from tollgate.store.schema import batches as batch_rows

GRACE_S = GRACE.total_seconds()


def a_file(key: Key, **changes: Any) -> File:
    """Uploaded by `key`, and kept for good."""
    plain = File(
        id=new_id(),
        project_id=key.project_id,
        key_id=key.id,
        filename="in.jsonl",
        purpose="batch",
        bytes=100,
        lines=2,
        sha256="0" * 64,
        batch_id=None,
        created_at=NOW,
        expires_at=None,
    )
    return replace(plain, **changes)


async def added(database: Database, key: Key, **changes: Any) -> File:
    one = a_file(key, **changes)
    async with database.write() as connection:
        await files.add(connection, one)
    return one


async def read_from(
    connection: WriteConnection, key: Key, file_id: UUID, *, state: BatchState = BatchState.VALIDATING
) -> UUID:
    """A batch whose input is this file, with nothing in it."""
    new = NewBatch(
        id=new_id(), project_id=key.project_id, key_id=key.id, request_id=None, digest="0" * 64,
        endpoint="/v1/chat/completions", name=None, input_file_id=file_id, input_bytes=100, total=2, delete_input=False,
        via=Via.DIRECT, priority=Priority.BULK, strict=False, defaults=None, max_cost_nano=None, metadata=None,
        callback_url=None, window_s=86_400, created_at=NOW, expires_at=later(86_400),
    )  # fmt: skip
    await batches.add(connection, new)
    ended = {"ended_at": NOW} if state.ended else {}
    await connection.execute(batch_rows.update().values(state=state, **ended).where(batch_rows.c.id == new.id))
    return new.id


async def there(database: Database, key: Key, *, now: datetime = NOW, **asked: Any) -> list[UUID]:
    async with database.read() as connection:
        found = await files.page(connection, project_id=key.project_id, now=now, **{"limit": 100, **asked})
    return [one.id for one in found]


async def remove(database: Database, key: Key, file_id: UUID) -> File:
    async with database.write() as connection:
        return await files.remove(connection, file_id, project_id=key.project_id, now=NOW)


async def remove_expired(database: Database, *, now: datetime, limit: int = 100) -> set[UUID]:
    async with database.write() as connection:
        return set(await files.remove_expired(connection, now=now, limit=limit))


async def test_it_is_found_as_it_was_added(database: Database) -> None:
    key = await seeds.a_key(database)
    one = await added(database, key, expires_at=later(60), filename="提示.jsonl")
    async with database.write() as connection:
        for hold in (False, True):
            found = await files.find(connection, one.id, project_id=key.project_id, now=NOW, hold=hold)
            assert found == one


async def test_anothers_and_an_expired_one_are_not_there(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    one = await added(database, key, expires_at=later(60))
    for asks, at in ((other, NOW), (key, later(60))):
        async with database.write() as connection:
            with pytest.raises(NotFoundError):
                await files.find(connection, one.id, project_id=asks.project_id, now=at)
            with pytest.raises(NotFoundError):
                await files.remove(connection, one.id, project_id=asks.project_id, now=at)
        assert await there(database, asks, now=at) == []
    assert await there(database, key) == [one.id]


async def test_a_page_is_of_a_purpose_and_from_a_place_in_either_direction(database: Database) -> None:
    key = await seeds.a_key(database)
    first, second, third = [(await added(database, key)).id for _ in range(3)]
    async with database.write() as connection:
        batch_id = await read_from(connection, key, first)
    view = {"purpose": "batch_output", "batch_id": batch_id, "sha256": None, "lines": None, "key_id": None}
    output = (await added(database, key, **view)).id
    assert await there(database, key) == [output, third, second, first]
    assert await there(database, key, purpose="batch", limit=2) == [third, second]
    assert await there(database, key, purpose="batch_output") == [output]
    assert await there(database, key, after=second) == [first]
    assert await there(database, key, after=second, oldest_first=True) == [third, output]


async def test_it_stays_while_a_batch_is_read_from_it(database: Database) -> None:
    key = await seeds.a_key(database)
    one = await added(database, key, expires_at=later(60))
    async with database.write() as connection:
        await read_from(connection, key, one.id, state=BatchState.COMPLETED)
        batch_id = await read_from(connection, key, one.id)
    with pytest.raises(FileInUseError, match=str(batch_id)):
        await remove(database, key, one.id)
    assert await remove_expired(database, now=later(9_999)) == set()
    async with database.write() as connection:
        read = batch_rows.update().where(batch_rows.c.id == batch_id)
        await connection.execute(read.values(state=BatchState.IN_PROGRESS))
    assert await remove(database, key, one.id) == one
    assert await there(database, key) == []


async def test_a_batch_that_holds_it_is_waited_for(postgres: Database) -> None:
    """It is made in the transaction that holds its file: a delete beside it comes before or after, never between."""
    key = await seeds.a_key(postgres)
    one = await added(postgres, key)
    async with asyncio.TaskGroup() as group:
        async with postgres.write() as connection:
            await files.find(connection, one.id, project_id=key.project_id, now=NOW, hold=True)
            deleting = group.create_task(refused_removal(postgres, key, one.id))
            await seeds.until_waiting(postgres)
            batch_id = await read_from(connection, key, one.id)
        assert str(batch_id) in await deleting


async def refused_removal(database: Database, key: Key, file_id: UUID) -> str:
    with pytest.raises(FileInUseError) as raised:
        await remove(database, key, file_id)
    return str(raised.value)


async def test_expired_ones_are_removed_a_minute_later_in_bounded_steps(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    gone = [(await added(database, owner, expires_at=later(s))).id for s, owner in ((1, key), (2, other), (3, key))]
    stays = [(await added(database, key, expires_at=at)).id for at in (later(100), None)]
    assert await remove_expired(database, now=later(GRACE_S)) == set()
    assert await remove_expired(database, now=later(GRACE_S + 3), limit=2) == set(gone[:2])
    assert await remove_expired(database, now=later(GRACE_S + 3), limit=2) == set(gone[2:])
    assert await there(database, key) == stays[::-1]


async def test_ids_with_a_row_are_known(database: Database) -> None:
    key = await seeds.a_key(database)
    one = await added(database, key, expires_at=NOW)
    async with database.read() as connection:
        assert await files.known(connection, [one.id, new_id()]) == {one.id}
