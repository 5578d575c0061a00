"""The connection to the result store: PostgreSQL (asyncpg) or SQLite (aiosqlite), told apart only here
and in `rows`.

`read()` gives a ReadConnection, `write()` a WriteConnection inside one transaction that commits at the
end of the block. No transaction is held across a network call. A database that does not answer raises
StoreUnavailableError.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NewType, cast

import asyncpg
import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from tollgate.domain.errors import SettingsError, StoreUnavailableError
from tollgate.store.direct import Direct

ReadConnection = NewType("ReadConnection", AsyncConnection)
WriteConnection = NewType("WriteConnection", ReadConnection)

SQLITE_BUSY_TIMEOUT_S = 10.0
"""A second process (the command line's `keys`) waits so long for its turn to write."""
STATEMENT_TIMEOUT_MS = 30_000
"""No statement here takes longer in health; one that does is waiting for a lock that will not come."""
CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 40.0
"""A server that ends no statement within its own limit is not reached any more: its host is gone, or frozen."""
IDLE_IN_TRANSACTION_MS = 15_000
"""A process that was stopped in the middle of a transaction must not keep its locks: no transaction here waits for
anything but its next statement. In the middle of a statement `store.sessions` ends it."""
APPLICATION = "tollgate"
"""`application_name` of sessions that keep to these limits."""
UNHURRIED = "tollgate scan"
"""Of those that may take as long as they like: migrations, scans, and what the command line does by itself."""
OUTAGE_CLASSES = frozenset({"08", "53", "57"})
"""SQLSTATE classes: connection lost, out of resources, shut down or timed out (PostgreSQL manual, appendix A)."""
OUTAGE_STATES = frozenset({"25006", "25P03", "40001", "40P01", "55P03"})
"""A standby that was the primary, a transaction that was idle for too long, a serialization failure, a deadlock, a
lock not had in time: it may pass later."""
SQLITE_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""Primary result codes (https://sqlite.org/rescode.html) that do not blame the statement."""


def async_url(url: str) -> sa.URL:
    """The same database with the async driver's name: people write postgresql:// and sqlite:///.

    libpq's `sslmode` is asyncpg's `ssl`. Raises SettingsError for any other kind of database."""
    parsed = sa.make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return parsed.set(drivername="sqlite+aiosqlite")
    if backend != "postgresql":
        raise SettingsError(
            f"TOLLGATE_DATABASE_URL: {backend} is no database of ours; write postgresql:// or sqlite:///"
        )
    query = {"ssl" if name == "sslmode" else name: value for name, value in parsed.query.items()}
    return parsed.set(drivername="postgresql+asyncpg", query=query)


class Database:
    """One process's hold on the store. Belongs to one event loop."""

    def __init__(self, reader: AsyncEngine, writer: AsyncEngine) -> None:
        self._reader = reader
        self._writer = writer
        self.dialect = reader.dialect.name

    @classmethod
    def connect(cls, url: str, *, pool: int = 10, command_timeout_s: float | None = COMMAND_TIMEOUT_S) -> Database:
        """Engines for `url`; the first connection is made when it is needed.

        `command_timeout_s`: None for what may take as long as it likes, a migration or a scan of everything."""
        target = async_url(url)
        if target.get_backend_name() == "sqlite":
            return cls(
                _sqlite_engine(target, begin="BEGIN", pool=4),
                _sqlite_engine(target, begin="BEGIN IMMEDIATE", pool=1),
            )
        engine = _postgres_engine(target, pool=pool, command_timeout_s=command_timeout_s)
        return cls(engine.execution_options(isolation_level="AUTOCOMMIT"), engine)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[ReadConnection]:
        """On PostgreSQL each statement is by itself: a transaction around one would take as long as the statement."""
        async with _connected(self._reader) as connection:
            yield ReadConnection(connection)

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[ReadConnection]:
        """A connection whose transactions are the caller's own."""
        async with _connected(self._reader if self.dialect == "sqlite" else self._writer) as connection:
            yield ReadConnection(connection)

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[WriteConnection]:
        """One transaction. On SQLite it is BEGIN IMMEDIATE on the one writing connection: a deferred
        one that turns to writing gets SQLITE_BUSY_SNAPSHOT at once, whatever the timeout."""
        async with _connected(self._writer) as connection, connection.begin():
            yield WriteConnection(ReadConnection(connection))

    def read_once(self) -> AbstractAsyncContextManager[ReadConnection | Direct]:
        """For one statement of `rows` that reads, and that is asked often."""
        return self.read() if self.dialect == "sqlite" else _direct(self._pool)

    def write_once(self) -> AbstractAsyncContextManager[WriteConnection | Direct]:
        """For one statement of `rows` that writes: on PostgreSQL it commits by itself, without a BEGIN before it and a
        COMMIT after it, which take longer than it does. SQLite's is `write`'s."""
        return self.write() if self.dialect == "sqlite" else _direct(self._pool)

    @property
    def _pool(self) -> AsyncEngine:
        """PostgreSQL's: both engines' is the same."""
        return self._writer

    async def close(self) -> None:
        await self._reader.dispose()
        await self._writer.dispose()


@contextlib.asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """The one seam where a driver's errors become ours. Whatever keeps a connection from being made is an
    outage; once it is made, only what does not blame the statement."""
    made = False
    try:
        async with engine.connect() as connection:
            made = True
            yield connection
    except (sa.exc.SQLAlchemyError, OSError) as error:
        if made and not _is_outage(error):
            raise
        raise _unavailable(error) from error


@contextlib.asynccontextmanager
async def _direct(engine: AsyncEngine) -> AsyncIterator[Direct]:
    """The same for the driver's own connection. Outside of a transaction there is nothing to undo.

    One that is cancelled asks the server to end its statement, which may be committed already; the next user of the
    connection waits until the server has answered."""
    try:
        pooled = await engine.raw_connection()
    except (sa.exc.SQLAlchemyError, engine.dialect.loaded_dbapi.Error, OSError) as error:
        raise _unavailable(error) from error
    driver = cast("asyncpg.Connection[asyncpg.Record]", pooled.driver_connection)
    try:
        yield Direct(driver)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        if isinstance(error, TimeoutError):  # who is silent will not answer to a cancel either
            driver.terminate()
        if not driver.is_closed() and not _is_outage(error):
            raise
        raise _unavailable(error) from error
    finally:
        pooled.close()


def _is_outage(error: Exception) -> bool:
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):
        # The primary code is the low byte of the extended one.
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in SQLITE_OUTAGES
    if isinstance(cause, ConnectionError | TimeoutError) or getattr(error, "connection_invalidated", False):
        return True
    state = getattr(cause, "sqlstate", None) or ""
    return state[:2] in OUTAGE_CLASSES or state in OUTAGE_STATES


def _unavailable(error: BaseException) -> StoreUnavailableError:
    return StoreUnavailableError(f"the database does not answer: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return (str(getattr(error, "orig", None) or error) or type(error).__name__).splitlines()[0]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _postgres_engine(url: sa.URL, *, pool: int, command_timeout_s: float | None) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=pool,
        max_overflow=0,
        hide_parameters=True,  # prompts and answers must not reach a log by way of an error's text
        pool_timeout=10,
        pool_pre_ping=False,
        json_serializer=_json,
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": command_timeout_s,
            "max_cacheable_statement_size": 0,  # any: those of `Direct` are long, few, and executed often
            "server_settings": {
                "application_name": APPLICATION if command_timeout_s else UNHURRIED,
                "statement_timeout": str(STATEMENT_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS if command_timeout_s else 0),
                "jit": "off",
            },
        },
    )

    @sa.event.listens_for(engine.sync_engine, "checkout")
    def refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
        # Of a server that was restarted, or a network that broke, the driver knows at once, without asking.
        if connection.driver_connection.is_closed():
            raise sa.exc.DisconnectionError

    return engine


def _sqlite_engine(url: sa.URL, *, begin: str, pool: int) -> AsyncEngine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        url,
        poolclass=sa.pool.AsyncAdaptedQueuePool,
        pool_size=pool,
        max_overflow=0,
        hide_parameters=True,  # prompts and answers must not reach a log by way of an error's text
        pool_timeout=60,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_S},
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver must not begin transactions by itself: `begin` below does, in the right mode.
        connection.isolation_level = None
        cursor = connection.cursor()
        _switch_to_wal(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    @sa.event.listens_for(engine.sync_engine, "invalidate")
    def let_go(connection: Any, _record: Any, _error: BaseException | None) -> None:
        # Whoever is cancelled in a statement throws the connection away, but SQLite keeps a closed connection
        # alive, and its lock held, until the statement's cursor is gone; a traceback may hold it for long.
        with contextlib.suppress(sa.exc.SQLAlchemyError, sqlite3.Error, ValueError):
            connection.run_async(lambda driver: driver.interrupt())
            connection.rollback()

    return engine


def _switch_to_wal(cursor: Any) -> None:
    """The mode stays with the file. Of several first connections to a new one, SQLite refuses all but one the switch
    at once, whatever the timeout (its busy handler is not asked while a lock is upgraded)."""
    deadline = time.monotonic() + SQLITE_BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def dialect_of(connection: ReadConnection | Direct) -> str:
    """ "postgresql" or "sqlite"."""
    return connection.dialect.name
