"""What projects keep, and for how long: the settings, and the walk over their tasks that erases what is over.

A project's walk goes by the ids of its tasks, which sort by submission. A task is due so long after its end. Up to
`erased_to` every task was due, and nothing is left: later walks begin there. Past a task that is still open, or ended
lately, a walk goes on, but `erased_to` stays before it: what ends later than its neighbours is found by the next walk.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.ids import first_of
from tollgate.domain.retention import Texts
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.erasing import AT_ONCE
from tollgate.store.schema import batches, files, projects, task_requests, task_results, tasks

NOTHING = UUID(int=0)
FILES_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one project keeps for a time, as it stands."""

    project_id: UUID
    texts: Texts
    keep_s: int
    erased_to: UUID | None

    def over(self, now: datetime) -> datetime:
        """Of what ended until then nothing is kept."""
        return now - timedelta(seconds=self.keep_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Some tasks of a project, in the order of their ids."""

    due: Sequence[UUID]
    """Those that something is left of, and that are to be erased."""
    last: UUID
    """The next look begins after it."""
    all_due_to: UUID | None
    """Up to it each one that was looked at is due; None: not even the first is."""
    more: bool

    @property
    def all_due(self) -> bool:
        return self.all_due_to == self.last


async def change(connection: WriteConnection, project_id: UUID, kept: Mapping[Texts, int | None]) -> None:
    """Keep these of its texts so many seconds after a task's end; None: for ever."""
    values = {f"keep_{texts}_s": seconds for texts, seconds in kept.items()}
    if values:
        await connection.execute(sa.update(projects).where(projects.c.id == project_id).values(values))


async def read(connection: ReadConnection) -> list[Kept]:
    """Whatever is not kept for ever, by project."""
    limited = sa.or_(projects.c.keep_prompts_s.is_not(None), projects.c.keep_results_s.is_not(None))
    found = (await connection.execute(sa.select(projects).where(limited).order_by(projects.c.id))).all()
    return [
        Kept(project_id=row.id, texts=texts, keep_s=keep_s, erased_to=getattr(row, f"{texts}_erased_to"))
        for row in found
        for texts in Texts
        if (keep_s := getattr(row, f"keep_{texts}_s")) is not None
    ]


async def look(
    connection: ReadConnection, kept: Kept, *, after: UUID | None, now: datetime, limit: int = AT_ONCE
) -> Look:
    """The next `limit` tasks past `after`, as far as they were submitted early enough to be due."""
    over = kept.over(now)
    statement = (
        sa.select(tasks.c.id, tasks.c.ended_at, _left(kept.texts).label("left"))
        .where(tasks.c.project_id == kept.project_id, tasks.c.id > (after or NOTHING), tasks.c.id < first_of(over))
        .order_by(tasks.c.id)
        .limit(limit)
    )
    found = (await connection.execute(statement)).all()
    due = [row.ended_at is not None and row.ended_at <= over for row in found]
    first_ones = [row.id for row, _ in itertools.takewhile(lambda pair: pair[1], zip(found, due, strict=True))]
    return Look(
        due=[row.id for row, is_due in zip(found, due, strict=True) if is_due and row.left],
        last=found[-1].id if found else after or NOTHING,
        all_due_to=first_ones[-1] if first_ones else None,
        more=len(found) == limit,
    )


def _left(texts: Texts) -> sa.ColumnElement[Any]:
    """A scalar, looked up by the id: EXISTS may be answered by reading the whole table, once."""
    if texts is Texts.PROMPTS:
        found = sa.select(sa.true()).where(task_requests.c.task_id == tasks.c.id)
    else:
        found = sa.select(sa.not_(task_results.c.erased)).where(task_results.c.task_id == tasks.c.id)
    return sa.func.coalesce(found.scalar_subquery(), sa.false())


async def note(connection: WriteConnection, kept: Kept, *, erased_to: UUID) -> None:
    """Of all tasks up to this one nothing is left. Never goes back."""
    cursor = projects.c[f"{kept.texts}_erased_to"]
    statement = sa.update(projects).where(
        projects.c.id == kept.project_id, sa.or_(cursor.is_(None), cursor < erased_to)
    )
    await connection.execute(statement.values({cursor: erased_to}))


async def forget_inputs(connection: WriteConnection, kept: Kept, *, now: datetime) -> int:
    """Files that were uploaded before, and what batches that ended before said for their lines: prompts too.

    Returns how many of them; their bytes go as those of files without a row do. Files of open batches stay."""
    over = kept.over(now)
    chosen = (
        sa.select(files.c.id)
        .where(files.c.project_id == kept.project_id, files.c.id < first_of(over), files.c.batch_id.is_(None))
        .where(~_in_use(over))
        .limit(FILES_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    ids = list((await connection.execute(chosen)).scalars())
    # Locked: a batch that was made of one meanwhile is seen now.
    removed = sa.delete(files).where(files.c.id.in_(ids), ~_in_use(over)).returning(files.c.id)
    gone = len((await connection.execute(removed)).all()) if ids else 0
    return gone + await _forget_defaults(connection, kept, over=over)


def _in_use(over: datetime) -> sa.ColumnElement[bool]:
    lately = sa.or_(batches.c.ended_at.is_(None), batches.c.ended_at > over)
    return sa.exists().where(batches.c.input_file_id == files.c.id, lately)


async def _forget_defaults(connection: WriteConnection, kept: Kept, *, over: datetime) -> int:
    chosen = (
        sa.select(batches.c.id)
        .where(batches.c.project_id == kept.project_id, batches.c.id < first_of(over), batches.c.ended_at <= over)
        .where(sa.or_(batches.c.defaults.is_not(None), batches.c.metadata.is_not(None)))
        .limit(FILES_AT_ONCE)
    )
    statement = sa.update(batches).where(batches.c.id.in_(chosen)).values(defaults=None, metadata=None)
    return len((await connection.execute(statement.returning(batches.c.id))).all())
