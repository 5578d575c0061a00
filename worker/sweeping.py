"""Settles what no worker will, many at once: orphans of dead workers, and what is too late.

One task that the database refuses to settle must not keep the others waiting: it is found, logged and set
aside for a while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Protocol, TypeVar
from uuid import UUID

from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.settling import Resolution, Settlement
from tollgate.store import settlements
from tollgate.store.database import Database

log = logging.getLogger("tollgate.sweep")

ASIDE_S = 600.0
"""So long a task that could not be settled is left alone, and its log line not repeated."""


class Waiting(Protocol):
    """A task that waits to be settled."""

    @property
    def id(self) -> UUID: ...


Found = TypeVar("Found", bound=Waiting)


class Sweep:
    """One sweeper's; any number may sweep at once. `clock` is monotonic seconds."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._aside: dict[UUID, float] = {}

    def aside(self) -> Collection[UUID]:
        """Tasks that could not be settled lately: not to be tried now."""
        self._aside = {task_id: until_s for task_id, until_s in self._aside.items() if until_s > self._clock()}
        return self._aside.keys()

    async def settle(self, found: Sequence[Found], judge: Callable[[Found], Settlement]) -> list[Resolution]:
        """What each could change, without those set aside; `judge` says what becomes of one. Raises
        StoreUnavailableError.

        Together; if that fails by halves, so that one bad task among a thousand costs some twenty transactions."""
        if not found:
            return []
        try:
            return await self._write([judge(one) for one in found])
        except StoreUnavailableError:
            raise
        except Exception:
            if len(found) == 1:
                log.exception("task cannot be settled", extra={"task_id": str(found[0].id)})
                self._aside[found[0].id] = self._clock() + ASIDE_S
                return []
        half = len(found) // 2
        return [*await self.settle(found[:half], judge), *await self.settle(found[half:], judge)]

    async def _write(self, given: Sequence[Settlement]) -> list[Resolution]:
        async with self._database.write() as connection:
            return await settlements.settle(connection, given, now=datetime.now(UTC))
