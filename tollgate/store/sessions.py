"""Ends sessions of processes that stopped in the middle of a statement, with the locks of their transactions.

asyncpg prepares a statement with Parse, Describe and Flush; Sync follows only with its first execution. A process that
freezes in between leaves its session `active`, waiting for its client: there neither `statement_timeout` nor
`idle_in_transaction_session_timeout` counts (PostgreSQL manual, 55.2.3 "Extended Query"), and `transaction_timeout`
is of version 17.
"""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.store.database import APPLICATION, IDLE_IN_TRANSACTION_MS, ReadConnection, dialect_of

ABANDONED_AFTER_MS = IDLE_IN_TRANSACTION_MS
"""Between two messages of a statement lies a millisecond of the driver's."""
ABANDONED = sa.text(
    "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND application_name = :application"
    " AND state = 'active' AND wait_event_type = 'Client' AND wait_event = 'ClientRead'"
    " AND state_change < clock_timestamp() - :limit_ms * interval '1 millisecond'"
)


async def end_abandoned(connection: ReadConnection) -> list[int]:
    """Their server processes' ids. Only those of this connection's own role: of others the server tells nothing.

    A process that wakes finds its connection closed, as after any outage. SQLite's only writer is its process."""
    if dialect_of(connection) == "sqlite":
        return []
    found = await connection.execute(ABANDONED, {"application": APPLICATION, "limit_ms": ABANDONED_AFTER_MS})
    return [row.pid for row in found]
