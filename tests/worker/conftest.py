"""A world to run engines in, on each kind of database in turn, or on PostgreSQL where two share it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.worker.world import World, world_of
from tollgate.store.database import Database


@pytest.fixture
async def world(database: Database, database_url: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield await world_of(database, database_url, stack)


@pytest.fixture
async def sqlite_world(sqlite: Database, sqlite_url: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield await world_of(sqlite, sqlite_url, stack)


@pytest.fixture
async def postgres_world(postgres: Database, postgres_url: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield await world_of(postgres, postgres_url, stack)
