from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.errors import NotFoundError, SettingsError
from tollgate.domain.ids import new_id
from tollgate.domain.states import Role
from tollgate.domain.tasks import Key
from tollgate.store import keys
from tollgate.store.database import Database
from tollgate.store.keys import StoredKey
from tollgate.store.schema import masters

OTHER = "fedcba9876543210"


async def find(database: Database, key_id: str) -> StoredKey | None:
    async with database.read() as connection:
        return await keys.find(connection, key_id)


async def check_masters(database: Database, *fingerprints: str) -> None:
    async with database.read() as connection:
        await keys.check_masters(connection, fingerprints)


async def revoke(database: Database, key_id: str, *, now: datetime = seeds.NOW) -> None:
    async with database.write() as connection:
        await keys.revoke(connection, key_id, now=now)


@pytest.mark.parametrize(
    "key",
    [
        {"role": Role.ADMIN},
        {"models": frozenset({"glm-4.7", "embedding-3"}), "may_interactive": False, "expires_at": seeds.later(60)},
        {"models": frozenset()},
    ],
)
async def test_a_key_comes_back_as_it_was_added(database: Database, key: dict[str, object]) -> None:
    made = replace(await seeds.a_key(database), id="k1", **key)  # type: ignore[arg-type]
    async with database.write() as connection:
        await keys.add(connection, made, master=seeds.MASTER, version=3, now=seeds.NOW)
    assert await find(database, "k1") == StoredKey(key=made, master=seeds.MASTER, version=3, created_at=seeds.NOW)


async def test_an_unknown_key_is_none(database: Database) -> None:
    assert await find(database, "nobody") is None


async def test_a_key_of_a_project_that_is_not_there_is_an_integrity_error(database: Database) -> None:
    stranger = Key(id="k", project_id=new_id(), project="nobody", name="n", role=Role.USER)

    async def add() -> None:
        async with database.write() as connection:
            await keys.add(connection, stranger, master=seeds.MASTER, now=seeds.NOW)

    with pytest.raises(sa.exc.IntegrityError):
        await add()


async def test_a_revoked_key_keeps_the_time_of_its_first_revocation(database: Database) -> None:
    key = await seeds.a_key(database)
    await revoke(database, key.id)
    await revoke(database, key.id, now=seeds.later(60))
    found = await find(database, key.id)
    assert found is not None
    assert found.key.revoked_at == seeds.NOW


async def test_an_unknown_key_cannot_be_revoked(database: Database) -> None:
    with pytest.raises(NotFoundError):
        await revoke(database, "nobody")


async def test_keys_are_listed_for_all_or_for_one_project(database: Database) -> None:
    globex, acme = await seeds.a_key(database, project="globex"), await seeds.a_key(database)
    async with database.read() as connection:
        assert [stored.key for stored in await keys.list_all(connection)] == [acme, globex]
        assert [stored.key for stored in await keys.list_all(connection, project_id=globex.project_id)] == [globex]


async def test_a_project_is_made_once(database: Database) -> None:
    async with database.write() as connection:
        made = await keys.add_project(connection, "acme", now=seeds.NOW)
        assert await keys.add_project(connection, "acme", now=seeds.later(9)) == made
        assert await keys.project_named(connection, "acme") == made
        assert await keys.list_projects(connection) == [made]


async def test_an_unknown_project_is_not_found(database: Database) -> None:
    async with database.read() as connection:
        with pytest.raises(NotFoundError):
            await keys.project_named(connection, "nobody")


async def test_a_new_database_takes_any_master_key(database: Database) -> None:
    await check_masters(database, seeds.MASTER)


async def test_a_master_key_is_noted_once(database: Database) -> None:
    await seeds.a_key(database)
    await seeds.a_key(database)
    assert [row.fingerprint for row in await seeds.rows_of(database, masters)] == [seeds.MASTER]


@pytest.mark.parametrize("given", [(seeds.MASTER,), (OTHER, seeds.MASTER)])
async def test_the_master_key_of_the_keys_is_accepted(database: Database, given: tuple[str, ...]) -> None:
    await seeds.a_key(database)
    await check_masters(database, *given)


async def test_a_strange_master_key_is_refused_with_the_fix(database: Database) -> None:
    await seeds.a_key(database)
    with pytest.raises(SettingsError, match=rf"{seeds.MASTER} \(1 keys\) is missing, given {OTHER}.*NEW,OLD"):
        await check_masters(database, OTHER)


async def test_a_master_key_may_go_when_its_keys_are_revoked_and_another_made_keys(database: Database) -> None:
    old = await seeds.a_key(database)
    async with database.write() as connection:
        await keys.add(connection, replace(old, id="new"), master=OTHER, now=seeds.NOW)
    with pytest.raises(SettingsError):
        await check_masters(database, OTHER)
    await revoke(database, old.id)
    await check_masters(database, OTHER)


async def test_a_lost_master_key_may_be_replaced_when_its_keys_are_revoked(database: Database) -> None:
    key = await seeds.a_key(database)
    await revoke(database, key.id)
    await check_masters(database, OTHER)
