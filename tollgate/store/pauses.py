"""Upstreams that are paused, credential by credential: no balance, a refused key. Read with each heartbeat."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import pauses


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    upstream: str
    credential: str
    """The name of the variable that holds the key."""
    reason: str
    since: datetime
    until: datetime
    """From then on one probe task may try; it lifts the pause or prolongs it."""


async def read(connection: ReadConnection) -> list[Pause]:
    found = (await connection.execute(sa.select(pauses).order_by(pauses.c.upstream, pauses.c.credential))).all()
    return [Pause(**row._mapping) for row in found]


async def pause(
    connection: WriteConnection, upstream: str, *, credential: str, reason: str, now: datetime, until: datetime
) -> None:
    """Pause, or prolong: `since` stays."""
    columns = ("upstream", "credential", "reason", "since", "until")
    insert = rows.insert(connection, pauses, columns, [(upstream, credential, reason, now, until)])
    await connection.execute(
        insert.on_conflict_do_update(
            index_elements=["upstream", "credential"],
            set_={"reason": insert.excluded.reason, "until": insert.excluded.until},
        )
    )


async def take_turn(
    connection: WriteConnection, upstream: str, *, credential: str, now: datetime, until: datetime
) -> bool:
    """Whether the caller may try the credential: its pause is over, and nobody else took the turn, which lasts to
    `until`."""
    statement = (
        sa.update(pauses)
        .where(pauses.c.upstream == upstream, pauses.c.credential == credential, pauses.c.until <= now)
        .values(until=until)
        .returning(pauses.c.credential)
    )
    return (await connection.execute(statement)).first() is not None


async def lift(connection: WriteConnection, upstream: str, *, credential: str) -> None:
    await connection.execute(sa.delete(pauses).where(pauses.c.upstream == upstream, pauses.c.credential == credential))
