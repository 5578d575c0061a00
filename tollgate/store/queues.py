"""The queues: pairs of route and lane that have queued tasks."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from tollgate.store.database import ReadConnection
from tollgate.store.schema import QUEUED, tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Tasks of one route in one lane."""

    route: str
    lane: str

    @property
    def waiting(self) -> tuple[sa.ColumnElement[bool], ...]:
        """Its tasks, in the words of the index of what is queued."""
        return tasks.c.state == QUEUED, tasks.c.route == self.route, tasks.c.lane == self.lane


async def read(connection: ReadConnection) -> list[Queue]:
    """A walk from one index key to the next, however many tasks wait."""
    found: list[Queue] = []
    following = await _first(connection, sa.true())
    while following is not None:
        found.append(following)
        # One bound a statement: SQLite takes (route, lane) > (?, ?) for a bound of the route alone, and steps over
        # every task of the queue it just found.
        same_route = sa.and_(tasks.c.route == following.route, tasks.c.lane > following.lane)
        following = await _first(connection, same_route) or await _first(connection, tasks.c.route > following.route)
    return found


async def _first(connection: ReadConnection, where: sa.ColumnElement[bool]) -> Queue | None:
    statement = (
        sa.select(tasks.c.route, tasks.c.lane)
        .where(tasks.c.state == QUEUED, where)
        .order_by(tasks.c.route, tasks.c.lane)
        .limit(1)
    )
    row = (await connection.execute(statement)).first()
    return None if row is None else Queue(route=row.route, lane=row.lane)
