"""The feeds of a queue take turns: a batch of a million lines, or a busy project, leaves its neighbours their share.

A feed is a batch, or a project's tasks outside of batches. Their heads are found by the index, one step a
feed, and each gives its share by the index: the work is bounded by the window, not by what waits.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection, dialect_of
from tollgate.store.schema import QUEUED, tasks

FEEDS_AT_ONCE = 256
"""Feeds that one round looks at, a few milliseconds. The next round begins after them: thousands meet theirs soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What counts as due: in this queue, at `now`, and not announced since `again`."""

    route: str
    lane: str
    now: datetime
    again: datetime

    @property
    def queued(self) -> tuple[sa.ColumnElement[bool], ...]:
        return tasks.c.state == QUEUED, tasks.c.route == self.route, tasks.c.lane == self.lane

    @property
    def due(self) -> tuple[sa.ColumnElement[bool], ...]:
        told = tasks.c.announced_at
        fresh = sa.or_(told.is_(None), told < self.again)
        return *self.queued, tasks.c.not_before <= self.now, tasks.c.deadline > self.now, fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One round's tasks of a queue."""

    ids: Sequence[UUID]
    """In turns: the first of each feed, then the second of each."""
    last: UUID | None
    """The feed that had its turn last: the next round begins after it."""
    more: bool
    """There may be more due at once: the window was filled, or not every feed was looked at."""


async def take(connection: WriteConnection, due: Due, *, limit: int, after: UUID | None) -> Taken:
    """Mark up to `limit` due tasks announced, as evenly over the feeds as they can fill it."""
    turns = await _turns(connection, due, after=after)
    taken: dict[UUID, list[Any]] = defaultdict(list)
    left, hungry = limit, turns
    while left > 0 and hungry:
        # Each pass fills the window, or drops a feed that had less than its share.
        share = max(1, left // len(hungry))
        found = await _mark(connection, due, hungry, share=share, limit=left)
        for row in found:
            taken[row.feed].append(row)
        given = Counter(row.feed for row in found)
        left, hungry = left - len(found), [feed for feed in hungry if given[feed] >= share]
    served = [feed for feed in turns if feed in taken]
    looked_at = served if left <= 0 else turns
    return Taken(
        ids=list(_in_turns(taken[feed] for feed in served)),
        last=looked_at[-1] if looked_at else None,
        more=left <= 0 or len(turns) == FEEDS_AT_ONCE,
    )


async def _turns(connection: ReadConnection, due: Due, *, after: UUID | None) -> list[UUID]:
    """The feeds with queued tasks: those after `after`, then from the first again. At most FEEDS_AT_ONCE."""
    found = await _walk(connection, due, after=after, limit=FEEDS_AT_ONCE)
    if after is not None and len(found) < FEEDS_AT_ONCE:
        found += await _walk(connection, due, up_to=after, limit=FEEDS_AT_ONCE - len(found))
    return found


async def _walk(
    connection: ReadConnection, due: Due, *, limit: int, after: UUID | None = None, up_to: UUID | None = None
) -> list[UUID]:
    """From one feed's head to the next by the index, however many rows a feed has."""
    bound = sa.true() if up_to is None else tasks.c.feed <= up_to

    def first(where: sa.ColumnElement[bool]) -> sa.Select[tuple[UUID]]:
        return sa.select(tasks.c.feed).where(*due.queued, bound, where).order_by(tasks.c.feed).limit(1)

    begin = sa.true() if after is None else tasks.c.feed > after
    heads = sa.select(first(begin).scalar_subquery().label("feed")).cte("heads", recursive=True)
    following = first(tasks.c.feed > heads.c.feed).correlate(heads).scalar_subquery()
    heads = heads.union_all(sa.select(following).where(heads.c.feed.is_not(None)))
    statement = sa.select(heads.c.feed).where(heads.c.feed.is_not(None)).limit(limit)
    return list((await connection.execute(statement)).scalars())


async def _mark(
    connection: WriteConnection, due: Due, feeds: Sequence[UUID], *, share: int, limit: int
) -> Sequence[Any]:
    """Up to `limit` rows, at most `share` of each feed: the first ones announce it."""
    given = rows.table_of(connection, {"feed": tasks.c.feed.type}, [(feed,) for feed in feeds])
    of_each = (_by_subquery if dialect_of(connection) == "sqlite" else _by_lateral)(given, due, share)
    chosen = of_each.limit(limit).cte("chosen")
    statement = (
        sa.update(tasks)
        .where(tasks.c.id.in_(sa.select(chosen.c.id)))
        .values(announced_at=due.now)
        .returning(tasks.c.id, tasks.c.feed, tasks.c.not_before)
    )
    return (await connection.execute(statement)).all()


def _of_feed(feed: sa.ColumnElement[UUID], due: Due, share: int) -> sa.Select[tuple[UUID]]:
    return sa.select(tasks.c.id).where(*due.due, tasks.c.feed == feed).order_by(tasks.c.not_before).limit(share)


def _by_lateral(given: sa.Subquery, due: Due, share: int) -> sa.Select[Any]:
    of_feed = _of_feed(given.c.feed, due, share).with_for_update(skip_locked=True).lateral("of_feed")
    return sa.select(of_feed.c.id).select_from(given.join(of_feed, sa.true()))


def _by_subquery(given: sa.Subquery, due: Due, share: int) -> sa.Select[Any]:
    """SQLite has no LATERAL; it looks the ids of a correlated list up, one feed after the other."""
    row = tasks.alias("row")
    of_feed = _of_feed(given.c.feed, due, share).correlate(given)
    return sa.select(row.c.id).select_from(given.join(row, row.c.id.in_(of_feed)))


def _in_turns(feeds: Iterable[Sequence[Any]]) -> Iterator[UUID]:
    queues = [sorted(given, key=lambda row: (row.not_before, row.id)) for given in feeds]
    for turn in itertools.zip_longest(*queues):
        yield from (row.id for row in turn if row is not None)
