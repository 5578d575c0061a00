"""The feeds of a queue take turns: a batch of a million lines, or a busy project, leaves its neighbours their share.

A feed is a batch, or a project's tasks outside of batches. Their heads are found by the index, one step a
feed, and each gives its share by the index: the work is bounded by the window, not by what waits.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.lanes import place_of
from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection, dialect_of
from tollgate.store.queues import Queue
from tollgate.store.schema import LINE_BEGUN, QUEUED_BY_ID, begins_lines, stays_local, tasks

FEEDS_AT_ONCE = 256
"""Feeds that one round looks at, a few milliseconds. The next round begins after them: thousands meet theirs soon."""
FULL_AT_ONCE = 32
"""Of those, the ones without room in which a round looks for lines that need none: a millisecond each."""
FIRST_OF_FULL = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What counts as due: in this queue, at `now`, and not announced since `again`."""

    queue: Queue
    now: datetime
    again: datetime
    leaving: bool = False
    """They are to go to other routes: feeds that stay where they are have no turn."""

    @property
    def due(self) -> tuple[sa.ColumnElement[bool], ...]:
        return *self.queue.waiting, tasks.c.not_before <= self.now, tasks.c.deadline > self.now, self.fresh

    @property
    def fresh(self) -> sa.ColumnElement[bool]:
        """Nobody was told of it lately."""
        return sa.or_(tasks.c.announced_at.is_(None), tasks.c.announced_at < self.again)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One round's tasks of a queue."""

    ids: Sequence[UUID]
    """In turns: the first of each feed, then the second of each."""
    last: UUID | None
    """The feed that had its turn last: the next round begins after it."""
    unreserved: Mapping[UUID, UUID]
    """With their batches: lines among them that hold nothing in budgets yet, and were never begun. What was bought
    before there was a budget does not count in it, nor what follows."""
    more: bool
    """There may be more due at once: the window was filled, or not every feed was looked at."""

    def instead(self, refused: Collection[UUID], held: Sequence[UUID]) -> Taken:
        """Without lines that no budget has room for, and with such as hold their place. Where there are none either,
        there is no hurry to ask again."""
        ids = [*(i for i in self.ids if i not in refused), *held]
        return replace(self, ids=ids, more=self.more and bool(ids))


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
    lines = [row for rows_of in taken.values() for row in rows_of if row.batch_id is not None]
    served = [feed for feed in turns if feed in taken]
    looked_at = served if left <= 0 else turns
    return Taken(
        ids=list(_in_turns(taken[feed] for feed in served)),
        last=looked_at[-1] if looked_at else None,
        unreserved={row.id: row.feed for row in lines if _is_unreserved(row)},
        more=left <= 0 or len(turns) == FEEDS_AT_ONCE,
    )


def _is_unreserved(line: Any) -> bool:
    """Also one that an upstream's batch refused: it gave back what it held there, at half the price."""
    return line.charged_to is None and line.started_at is None and line.attempt == 1 + line.refused_attempts


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
        return sa.select(tasks.c.feed).where(*due.queue.waiting, bound, where).order_by(tasks.c.feed).limit(1)

    begin = sa.true() if after is None else tasks.c.feed > after
    heads = sa.select(first(begin).scalar_subquery().label("feed")).cte("heads", recursive=True)
    following = first(tasks.c.feed > heads.c.feed).correlate(heads).scalar_subquery()
    heads = heads.union_all(sa.select(following).where(heads.c.feed.is_not(None)))
    # A batch that is paused or being cancelled has no turn.
    has_turn = [heads.c.feed.is_not(None), begins_lines(heads.c.feed)]
    if due.leaving and place_of(due.queue.lane) == "local":
        has_turn.append(sa.not_(stays_local(heads.c.feed)))
    statement = sa.select(heads.c.feed).where(*has_turn).limit(limit)
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
        .returning(
            tasks.c.id,
            tasks.c.feed,
            tasks.c.not_before,
            tasks.c.batch_id,
            tasks.c.charged_to,
            tasks.c.started_at,
            tasks.c.attempt,
            tasks.c.refused_attempts,
        )
    )
    return (await connection.execute(statement)).all()


async def take_held(connection: WriteConnection, due: Due, full: Sequence[UUID], *, limit: int) -> list[UUID]:
    """Of feeds whose next lines no budget has room for: mark up to `limit` that hold their place there already.

    Else they would wait behind the others for good, and what they hold with them."""
    found: list[UUID] = []
    for feed in full[:FULL_AT_ONCE]:
        for question in (_begun(due, feed, limit), _told(due, feed, limit)):
            found += (await connection.execute(question)).scalars().all()
    given = rows.table_of(connection, {"id": tasks.c.id.type}, [(i,) for i in sorted(set(found[:limit]))])
    free = (
        sa.select(tasks.c.id)
        .where(tasks.c.id.in_(sa.select(given.c.id)), QUEUED_BY_ID, tasks.c.deadline > due.now, due.fresh)
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    marking = sa.update(tasks).where(tasks.c.id.in_(sa.select(free.c.id))).values(announced_at=due.now)
    return list((await connection.execute(marking.returning(tasks.c.id))).scalars()) if found else []


def _begun(due: Due, feed: UUID, limit: int) -> sa.Select[UUID]:
    """Those that wait for another try."""
    # No word of the deadline: its index, too, is of what is queued, and stale statistics take it for short.
    held = sa.and_(*due.queue.waiting, tasks.c.feed == feed, tasks.c.not_before <= due.now, LINE_BEGUN)
    return sa.select(tasks.c.id).where(held, due.fresh).order_by(tasks.c.not_before).limit(limit)


def _told(due: Due, feed: UUID, limit: int) -> sa.Select[UUID]:
    """Those that were told, and whose hint was lost: they stand among the first."""
    first = (
        sa.select(tasks.c.id, tasks.c.announced_at, tasks.c.charged_to)
        .where(*due.queue.waiting, tasks.c.feed == feed, tasks.c.not_before <= due.now)
        .order_by(tasks.c.not_before)
        .limit(FIRST_OF_FULL)
        .subquery()
    )
    lost = first.c.announced_at < due.again
    return sa.select(first.c.id).where(first.c.charged_to.is_not(None), lost).limit(limit)


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
