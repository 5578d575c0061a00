"""Queued tasks as they stand, for whoever may send them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.states import OnUncertain
from tollgate.store import rows
from tollgate.store.database import ReadConnection
from tollgate.store.schema import QUEUED_BY_ID, attempts, tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """The attempt that a task would go on with, and its last error."""

    upstream_id: str | None
    unanswered: int
    http_status: int | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A queued task."""

    id: UUID
    fence: int
    attempt: int
    model: str
    route: str
    lane: str
    endpoint: str
    streamed: bool
    on_uncertain: OnUncertain
    route_tries: int
    prompt_tokens_estimate: int
    max_tokens: int | None
    assumed_max_tokens: int
    attempted: Attempted | None = None
    """None: its next attempt is not begun."""

    @property
    def bought(self) -> bool:
        """Whether the upstream has its attempt, or may have it."""
        of = self.attempted
        return of is not None and (of.upstream_id is not None or of.unanswered > 0)


OF_TASK = tuple(f.name for f in fields(Waiting) if f.name != "attempted")
OF_ATTEMPT = tuple(f.name for f in fields(Attempted))
IDS = rows.Given.of(tasks, "id")


async def read(connection: ReadConnection, ids: Sequence[UUID]) -> list[Waiting]:
    """Those of `ids` that are queued, in their order."""
    found = (await rows.execute(connection, _reading, IDS, [(i,) for i in ids])).all()
    waiting = {row.id: _waiting(row) for row in found}
    return [waiting[task_id] for task_id in ids if task_id in waiting]


def _waiting(row: Any) -> Waiting:
    told = {name: getattr(row, name) for name in OF_TASK}
    attempted = Attempted(**{name: getattr(row, name) for name in OF_ATTEMPT}) if row.number is not None else None
    return Waiting(**{**told, "on_uncertain": OnUncertain(row.on_uncertain), "attempted": attempted})


def _reading(dialect: str) -> rows.Statement:
    current = sa.and_(attempts.c.task_id == tasks.c.id, attempts.c.number == tasks.c.attempt)
    return (
        sa.select(*(tasks.c[name] for name in OF_TASK), attempts.c.number, *(attempts.c[name] for name in OF_ATTEMPT))
        .outerjoin(attempts, current)
        .where(tasks.c.id.in_(sa.select(IDS.table(dialect).c.id)), QUEUED_BY_ID)
    )
