"""The beat's erasing: what projects do not keep any longer, and what is left of batches that were deleted.

In steps of a thousand tasks, projects and batches in turn, and never more than half of the time: who writes meanwhile
waits for a step at most. Any number may be at it: erasing again changes nothing.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tollgate.domain.retention import Texts
from tollgate.store import batch_erasing, erasing, retention
from tollgate.store.database import Database
from tollgate.store.erasing import AT_ONCE
from tollgate.store.retention import Kept

log = logging.getLogger("tollgate.erasing")

Step = Callable[[], Coroutine[Any, Any, bool]]
"""Whether there is another."""


class Eraser:
    """One beat's."""

    def __init__(self, database: Database, *, at_once: int = AT_ONCE) -> None:
        self._database = database
        self._at_once = at_once
        """Tasks in a step."""

    async def erase_what_is_over(self) -> int:
        """All that is due by the projects' settings. Returns of how many tasks. Raises StoreUnavailableError."""
        async with self._database.read() as connection:
            found = await retention.read(connection)
        walks = [Walk(self._database, kept, at_once=self._at_once) for kept in found]
        await _in_turn([walk.step for walk in walks])
        erased = sum(walk.erased for walk in walks)
        if erased:
            log.info("texts erased that are kept no longer", extra={"tasks": erased})
        return erased

    async def erase_deleted_batches(self) -> list[UUID]:
        """All of their lines. Returns the batches. Raises StoreUnavailableError."""
        async with self._database.read() as connection:
            found = await batch_erasing.asked(connection)
        await _in_turn([functools.partial(self._step, one) for one in found])
        if found:
            log.info("deleted batches erased", extra={"batches": len(found)})
        return found

    async def _step(self, batch_id: UUID) -> bool:
        async with self._database.write() as connection:
            return await batch_erasing.step(connection, batch_id, now=datetime.now(UTC), limit=self._at_once)


class Walk:
    """Over the tasks of one project, for one kind of texts."""

    def __init__(self, database: Database, kept: Kept, *, at_once: int) -> None:
        self.erased = 0
        self._at_once = at_once
        self._database = database
        self._kept = kept
        self._after = kept.erased_to
        self._all_due = True
        """So far: `erased_to` follows."""
        self._inputs = kept.texts is Texts.PROMPTS

    async def step(self) -> bool:
        """Whether there is more."""
        if self._inputs:
            self._inputs = await self._forget_inputs()
            return True
        now = datetime.now(UTC)
        async with self._database.read() as connection:
            look = await retention.look(connection, self._kept, after=self._after, now=now, limit=self._at_once)
        erased_to = look.all_due_to if self._all_due else None
        if look.due or erased_to is not None:
            async with self._database.write() as connection:
                await erasing.erase(connection, look.due, [self._kept.texts])
                if erased_to is not None:
                    await retention.note(connection, self._kept, erased_to=erased_to)
        self.erased += len(look.due)
        self._after = look.last
        self._all_due &= look.all_due
        return look.more

    async def _forget_inputs(self) -> bool:
        async with self._database.write() as connection:
            return await retention.forget_inputs(connection, self._kept, now=datetime.now(UTC)) > 0


async def _in_turn(steps: Sequence[Step]) -> None:
    """Each once, those with more again, and after each as long a rest as it took."""
    while steps:
        left = []
        for step in steps:
            began = time.monotonic()
            if await step():
                left.append(step)
            await asyncio.sleep(time.monotonic() - began)
        steps = left
