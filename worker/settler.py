"""Settles outcomes, many in one transaction, and notifies who waits. A result is never dropped: while the
database is away it is held and tried again."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from uuid import UUID

from tollgate.broker.bus import ENDED, Bus
from tollgate.coalescing import Coalescer
from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.settling import Resolution, Settlement
from tollgate.store import settlements
from tollgate.store.database import Database

log = logging.getLogger("tollgate.settler")

MAX_TOGETHER = 500
"""Settlements in one transaction: a few milliseconds of locks."""
AGAIN_AFTER_S = 1.0


class Settler:
    """Belongs to one event loop."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._shard = os.getpid()
        self._notices: set[asyncio.Task[None]] = set()
        self._coalescer = Coalescer(self._write, max_weight=MAX_TOGETHER)

    async def settle(self, settlement: Settlement) -> Resolution | None:
        """Returns when it is committed. None: the task is not there any more."""
        while True:
            try:
                return await self._coalescer.submit(settlement)
            except StoreUnavailableError as error:
                log.warning("settling waits for the database", extra={"error": str(error)})
                await asyncio.sleep(AGAIN_AFTER_S)

    async def _write(self, given: Sequence[Settlement]) -> list[Resolution | None]:
        by_settlement: dict[int, Resolution] = {}
        async with self._database.write() as connection:
            for turn in _one_a_task(given):
                resolved = await settlements.settle(connection, turn, now=datetime.now(UTC), shard=self._shard)
                by_task = {r.settlement.task_id: r for r in resolved}
                by_settlement |= {id(s): by_task[s.task_id] for s in turn if s.task_id in by_task}
        ended = [r.settlement.task_id for r in by_settlement.values() if r.task and r.settlement.state.ended]
        if ended:
            self._notify(ended)
        return [by_settlement.get(id(s)) for s in given]

    def _notify(self, ended: list[UUID]) -> None:
        """Beside the next transaction, not before it: a slow bus must not slow settling."""
        notice = asyncio.create_task(self._bus.publish(ENDED, ended))
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)


def _one_a_task(given: Sequence[Settlement]) -> Iterator[list[Settlement]]:
    """Usually one turn. A task whose lease was lost and won again may bring two accounts of itself."""
    rest = list(given)
    while rest:
        turn = {s.task_id: s for s in reversed(rest)}
        yield list(turn.values())
        rest = [s for s in rest if turn[s.task_id] is not s]
