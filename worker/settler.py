"""Settles outcomes, many in one transaction, and notifies who waits. A result is never dropped: while the
database is away it is held and tried again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from tollgate.broker.bus import ENDED, Bus
from tollgate.coalescing import Coalescer
from tollgate.domain.settling import Resolution, Settlement
from tollgate.store import settlements, successes
from tollgate.store.database import Database

MAX_TOGETHER = 500
"""Settlements in one transaction: a few milliseconds of locks."""


class Settler:
    """Belongs to one event loop."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._shard = os.getpid()
        self._notices: set[asyncio.Task[None]] = set()
        self._coalescer = Coalescer(self._write, max_weight=MAX_TOGETHER)

    async def settle(self, settlement: Settlement) -> Resolution:
        """Returns when it is committed: what it could still change."""
        return await self._coalescer.insist(settlement, what="settlements")

    async def drain(self) -> None:
        """Return when every notice is on its way."""
        if self._notices:
            await asyncio.wait(set(self._notices))

    async def _write(self, given: Sequence[Settlement]) -> list[Resolution]:
        resolved = await self._settle_as_foreseen(given)
        if resolved is None:
            async with self._database.write() as connection:
                resolved = await settlements.settle(connection, given, now=datetime.now(UTC), shard=self._shard)
        if ended := [r.settlement.task_id for r in resolved if r.task and r.settlement.state.ended]:
            self._notify(ended)
        return resolved

    async def _settle_as_foreseen(self, given: Sequence[Settlement]) -> list[Resolution] | None:
        if self._database.dialect == "sqlite" or not successes.are_plain(given):
            return None
        async with self._database.write_once() as connection:
            return await successes.settle(connection, given, now=datetime.now(UTC), shard=self._shard)

    def _notify(self, ended: list[UUID]) -> None:
        """Beside the next transaction, not before it: a slow bus must not slow settling."""
        notice = asyncio.create_task(self._bus.publish(ENDED, ended))
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)
