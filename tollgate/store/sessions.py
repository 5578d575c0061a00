"""Ends sessions of processes that stopped in the middle of a statement, so that its transaction's locks are free.

asyncpg prepares a statement with Parse, Describe and Flush; Sync follows only with its first execution. A process that
freezes in between leaves its session `active`, waiting for its client, and so does one that freezes before it has read
a long answer. In neither place `statement_timeout` or `idle_in_transaction_session_timeout` counts (PostgreSQL manual,
55.2.3 "Extended Query"), and `transaction_timeout` is of version 17.
"""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.store.database import (
    APPLICATION,
    COMMAND_TIMEOUT_S,
    IDLE_IN_TRANSACTION_MS,
    ReadConnection,
    dialect_of,
)

UNSENT_AFTER_MS = IDLE_IN_TRANSACTION_MS
"""Between two messages of a statement lies a millisecond of the driver's."""
UNREAD_AFTER_MS = int(1000 * COMMAND_TIMEOUT_S) + 5_000
"""Since the statement began. By then a client that lives has given up."""
ABANDONED = sa.text(
    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity AS session"
    " WHERE datname = current_database() AND usename = current_user AND application_name = :application"
    " AND state = 'active' AND wait_event_type = 'Client'"
    " AND state_change < clock_timestamp() - interval '1 millisecond' *"
    " CASE wait_event WHEN 'ClientRead' THEN CAST(:unsent_ms AS float8)"
    " WHEN 'ClientWrite' THEN CAST(:unread_ms AS float8) END"
    # Who has no transaction's number has locked no row, and nobody waits for him.
    " AND EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = session.pid AND granted"
    " AND locktype IN ('transactionid', 'advisory'))"
)


async def end_abandoned(connection: ReadConnection) -> list[int]:
    """Their server processes' ids. Only those of this connection's own role: of others the server tells nothing.

    A process that wakes finds its connection closed, as after any outage. SQLite's only writer is its process."""
    if dialect_of(connection) == "sqlite":
        return []
    limits = {"unsent_ms": UNSENT_AFTER_MS, "unread_ms": UNREAD_AFTER_MS}
    found = await connection.execute(ABANDONED, {"application": APPLICATION} | limits)
    return [row.pid for row in found]
