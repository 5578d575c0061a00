"""Takes in what an upstream batch came to: its files, line by line, then the lines for which nothing came.

It can be broken off anywhere and done again: an attempt is settled once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from tollgate.domain.errors import StoreUnavailableError, UpstreamError
from tollgate.domain.settling import Settlement
from tollgate.domain.upstream_batch_answers import LineAnswer
from tollgate.store import upstream_lines
from tollgate.store.database import Database
from worker import outcomes
from worker.billing import Rules
from worker.settler import Settler
from worker.upstream_batches import files, judging

log = logging.getLogger("tollgate.upstream_batches")


class Harvest:
    """Belongs to one event loop."""

    def __init__(self, database: Database, *, settler: Settler, rules: Rules) -> None:
        self._database = database
        self._settler = settler
        self._rules = rules

    async def take_in(self, upstream_batch_id: UUID, paths: Sequence[Path], *, believe: bool) -> None:
        """All that the files of an ended one say, and that they leave.

        Raises UpstreamError (garbage) where lines cannot be read and are not yet to be believed: what came down may be
        a proxy's page, and the answers be there. Raises StoreUnavailableError."""
        unknown = 0
        unread: list[LineAnswer] = []
        for path in paths:
            empty = True
            for some in files.answers(path):
                empty = False
                known = [answer for answer in some if answer is not None]
                unknown += len(some) - len(known)
                unread += [answer for answer in known if answer.unreadable]
                await self._settle_answers(upstream_batch_id, [a for a in known if not a.unreadable])
            unknown += empty
        if (unknown or unread) and not believe:
            raise UpstreamError(f"{unknown + len(unread)} lines of its files cannot be read", kind="garbage")
        await self._settle_answers(upstream_batch_id, unread)
        if unknown:
            log.warning(
                "lines of a batch's files cannot be told whose they are",
                extra={"upstream_batch_id": str(upstream_batch_id), "lines": unknown},
            )
        await self.let_go(upstream_batch_id, lost=unknown > 0, without={answer.task_id for answer in unread})

    async def let_go(self, upstream_batch_id: UUID, *, lost: bool = False, without: set[UUID] | None = None) -> None:
        """Lines without an answer run by themselves. Raises StoreUnavailableError."""
        after = 0
        while True:
            async with self._database.read() as connection:
                found = await upstream_lines.unanswered(connection, upstream_batch_id, after=after)
            if not found:
                return
            after, now = found[-1].line, datetime.now(UTC)
            await self._settle(
                [
                    judging.unanswered(line, lost=lost, rules=self._rules, now=now, jitter=random.random())
                    for line in found
                    if line.id not in (without or ())
                ]
            )

    async def _settle_answers(self, upstream_batch_id: UUID, told: Sequence[LineAnswer]) -> None:
        by_key = {(answer.task_id, answer.attempt): answer for answer in told}
        async with self._database.read() as connection:
            lines = await upstream_lines.answered(connection, upstream_batch_id, list(by_key))
        now = datetime.now(UTC)
        await self._settle(
            [
                judging.settlement(line, by_key[key], rules=self._rules, now=now, jitter=random.random())
                for key, line in lines.items()
            ]
        )

    async def _settle(self, settlements: Sequence[Settlement]) -> None:
        """All, together where they can be."""
        if settlements:
            await asyncio.gather(*(self._settle_one(one) for one in settlements))

    async def _settle_one(self, settlement: Settlement) -> None:
        """What the database refuses is a failure, and its cost is booked all the same."""
        try:
            await self._settler.settle(settlement)
        except StoreUnavailableError:
            raise
        except Exception:
            log.exception("answer not stored", extra={"task_id": str(settlement.task_id)})
            await self._settler.settle(outcomes.unstorable(settlement))
