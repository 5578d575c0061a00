"""The services of the tests: databases and Redis numbers that are each test's own.

A session makes one PostgreSQL database, migrates it, and gives its tests clones of it, which are emptied and used
again (`databases`). Everything is dropped at the end, also after a failure. Without a server its tests are skipped, or
fail where TOLLGATE_REQUIRE_SERVICES=1.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import asyncpg
import hypothesis
import pytest
import redis
import sqlalchemy as sa

from tests.broker.private_redis import BINARY, PrivateRedis
from tests.databases import Databases, Loop, migrated, named, new_name, on_server
from tollgate.store.database import Database

POSTGRES_SERVER = os.environ.get("TOLLGATE_TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS_SERVER = os.environ.get("TOLLGATE_TEST_REDIS_URL", "redis://127.0.0.1:6379")
REDIS_LEASE_S = 900
"""A session that was killed gives its Redis number back after this."""

# A machine with other work takes longer over an example: that says nothing of the law.
hypothesis.settings.register_profile(
    "busy", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


def pytest_configure() -> None:
    """A shell's background job ignores SIGINT and hands that on to every child: Ctrl-C could not be tested in one."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported and collected, 300,000 objects and more, stays to the end: the garbage collector passes it over
    from now on, a twentieth of the tests' CPU."""
    gc.collect()
    gc.freeze()


def absent(service: str, error: Exception) -> NoReturn:
    """Skip what needs `service`; on CI a missing one is a failure."""
    message = f"{service} does not answer: {error}"
    if os.environ.get("TOLLGATE_REQUIRE_SERVICES") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    """For what synchronous fixtures wait for."""
    running = Loop()
    yield running
    running.close()


@pytest.fixture(scope="session")
def postgres_server(loop: Loop) -> str:
    """The server's URL, if it answers."""
    try:
        loop.run(on_server(POSTGRES_SERVER, "SELECT 1"))
    except (OSError, asyncpg.PostgresError) as error:
        absent(f"PostgreSQL ({sa.make_url(POSTGRES_SERVER)!r})", error)
    return POSTGRES_SERVER


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: str, loop: Loop) -> Iterator[Databases]:
    databases = Databases(postgres_server, loop)
    try:
        databases.make()
        yield databases
    finally:
        databases.remove()


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, postgres_databases: Databases) -> Iterator[str]:
    """A migrated PostgreSQL database without a row. A module whose `NEW_DATABASES` is true has one that is new."""
    url = postgres_databases.take(new=getattr(request.module, "NEW_DATABASES", False))
    try:
        yield url
    finally:
        postgres_databases.give_back(url)


@pytest.fixture
def empty_postgres_url(postgres_server: str, loop: Loop) -> Iterator[str]:
    """A fresh PostgreSQL database without a table."""
    name = new_name()
    loop.run(on_server(postgres_server, f"CREATE DATABASE {name}"))
    try:
        yield named(postgres_server, name)
    finally:
        loop.run(on_server(postgres_server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory, loop: Loop) -> Path:
    """A migrated SQLite file that nobody has open."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    loop.run(migrated(f"sqlite:///{path}"))
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh, migrated SQLite database."""
    path = tmp_path / "tollgate.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, migrated database of each kind in turn."""
    url: str = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param])
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A fresh store, on each kind of database in turn."""
    connected = Database.connect(database_url)
    try:
        yield connected
    finally:
        await connected.close()


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[Database]:
    """A fresh store on PostgreSQL, for what only it can show: transactions side by side."""
    connected = Database.connect(postgres_url)
    try:
        yield connected
    finally:
        await connected.close()


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    """A fresh store on SQLite, for its one writer."""
    connected = Database.connect(sqlite_url)
    try:
        yield connected
    finally:
        await connected.close()


@pytest.fixture
def redis_url() -> Iterator[str]:
    """An empty Redis database: a number that no other test has meanwhile, in any session on this server."""
    base = REDIS_SERVER.rstrip("/")
    base = base.rpartition("/")[0] if base.rpartition("/")[2].isdigit() else base
    with redis.Redis.from_url(f"{base}/0", socket_connect_timeout=5) as registry:
        try:
            number = _take_redis_number(registry)
        except redis.ConnectionError as error:
            absent(f"Redis ({base})", error)
        url = f"{base}/{number}"
        try:
            _flush(url)
            yield url
            _flush(url)
        finally:
            registry.delete(_redis_lease(number))


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    """A server that the test may break."""
    if BINARY is None:
        absent("redis-server", FileNotFoundError("not on the PATH"))
    server = PrivateRedis(tmp_path)
    server.start()
    yield server
    server.stop()


def _redis_lease(number: int) -> str:
    return f"tollgate-test:number:{number}"


def _take_redis_number(registry: redis.Redis) -> int:
    """Number 0 holds the leases themselves."""
    count = int(registry.config_get("databases")["databases"] or 0)
    for number in range(1, count):
        if registry.set(_redis_lease(number), os.getpid(), nx=True, ex=REDIS_LEASE_S):
            if not _someone_waits(registry, number):
                return number
            registry.delete(_redis_lease(number))
    raise redis.ConnectionError(f"all {count - 1} databases of this server are in use by other tests")


def _someone_waits(registry: redis.Redis, number: int) -> bool:
    """For a message there, left over from a test that has ended: it would take the next test's."""
    return any(client["db"] == str(number) and "b" in client["flags"] for client in registry.client_list())


def _flush(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
