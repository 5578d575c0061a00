"""What is removed of files, and when: the expired, and what somebody left behind who died."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from gateway.files.part import SUFFIX
from gateway.files.tidying import AT_ONCE, STRAY_S, Tidier
from tests.gateway.gate import Caller, Gate, until
from tests.gateway.test_files import kept, upload
from tests.gateway.test_folder import age, of
from tollgate.domain.ids import new_id
from tollgate.store.schema import files


@pytest.fixture
async def tidier(gate: Gate) -> AsyncIterator[Tidier]:
    tidier = Tidier(gate.database, gate.services.files, every_s=0.001)
    yield tidier
    await tidier.stop()


async def expire(gate: Gate, *file_ids: str, ago: timedelta = timedelta(hours=1)) -> None:
    async with gate.database.write() as connection:
        ids = [UUID(file_id) for file_id in file_ids]
        await connection.execute(files.update().where(files.c.id.in_(ids)).values(expires_at=datetime.now(UTC) - ago))


def make_old(gate: Gate) -> None:
    """Everything in the folder, as if it had been written a while ago."""
    for path in gate.services.settings.files_folder.iterdir():
        age(path, 2 * STRAY_S)


async def test_an_expired_file_goes_with_its_bytes(gate: Gate, caller: Caller, tidier: Tidier) -> None:
    gone, stays = [(await upload(caller))["id"] for _ in range(2)]
    await expire(gate, gone)
    assert [one["id"] for one in (await caller.get("/files"))["data"]] == [stays], "not shown from its last moment on"
    await tidier.tidy()
    assert kept(gate) == [stays]
    async with gate.database.read() as connection:
        assert list((await connection.execute(files.select())).scalars()) == [UUID(stays)]


async def test_there_is_no_end_to_what_is_removed_in_a_round(gate: Gate, caller: Caller, tidier: Tidier) -> None:
    made = await upload(caller)
    async with gate.database.write() as connection:
        (row,) = (await connection.execute(files.select())).mappings()
        expired = datetime.now(UTC) - timedelta(hours=1)
        more = [{**row, "id": new_id(), "expires_at": expired} for _ in range(AT_ONCE + 1)]
        await connection.execute(files.insert(), more)
    await tidier.tidy()
    assert [one["id"] for one in (await caller.get("/files"))["data"]] == [made["id"]]


async def test_bytes_without_a_row_go_once_they_are_old(gate: Gate, caller: Caller, tidier: Tidier) -> None:
    made, left, begun = (await upload(caller))["id"], new_id(), new_id()
    await gate.services.files.write(left, of(b"its gateway died before the row"))
    (gate.services.settings.files_folder / f"{begun}{SUFFIX}").write_bytes(b"its gateway died in the mid")
    await tidier.tidy()
    assert len(kept(gate)) == 3, "an upload may be about to get its row"
    make_old(gate)
    await tidier.tidy()
    assert kept(gate) == [made]


async def test_it_goes_on_by_itself_and_after_what_went_wrong(
    gate: Gate, caller: Caller, tidier: Tidier, caplog: pytest.LogCaptureFixture
) -> None:
    made = (await upload(caller))["id"]
    folder = gate.services.settings.files_folder
    away = folder.rename(folder.with_name("away"))
    folder.write_text("a file, where the folder should be")
    tidier.start()
    await until(lambda: "files not tidied" in caplog.messages)
    folder.unlink()
    away.rename(folder)
    await expire(gate, made)
    await until(lambda: kept(gate) == [])
