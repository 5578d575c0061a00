"""Commits upstream ids, many in one transaction, before they are polled. One is never dropped: while the database is
away it is held, and a worker that dies meanwhile asks again with the same request_id."""

from __future__ import annotations

from collections.abc import Sequence

from tollgate.coalescing import Coalescer
from tollgate.store import receipts
from tollgate.store.database import Database
from tollgate.store.receipts import Receipt

MAX_TOGETHER = 500


class Receipts:
    """Belongs to the engine's loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._coalescer: Coalescer[Receipt, None] = Coalescer(self._write, max_weight=MAX_TOGETHER)

    async def keep(self, receipt: Receipt) -> None:
        """Returns when it is committed."""
        await self._coalescer.insist(receipt, what="upstream ids")

    async def _write(self, given: Sequence[Receipt]) -> list[None]:
        async with self._database.write() as connection:
            await receipts.keep(connection, given)
        return [None] * len(given)
