"""Many callers, one write: what arrived while the last write ran goes into the next.

At low load nobody waits: a lone item starts a write at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from tollgate.domain.errors import StoreUnavailableError

log = logging.getLogger("tollgate.coalescing")

AGAIN_AFTER_S = 1.0
TELL_EVERY_S = 10.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class Coalescer(Generic[Item, Result]):
    """`await submit(item)` gives the item's own result of `flush(items)`, which runs one at a time.

    `weigh` says how much an item counts towards `max_weight` of one flush. If a flush of several raises,
    each item is flushed alone, so that one bad item does not fail its neighbours; a store that does not
    answer fails all of them at once.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_weight: int,
        weigh: Callable[[Item], int] = lambda _: 1,
    ) -> None:
        self._flush = flush
        self._max_weight = max_weight
        self._weigh = weigh
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._held = 0
        self._tell_at_s = float("-inf")

    async def submit(self, item: Item) -> Result:
        """A caller that is cancelled does not take its item back: it may be in a commit already."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="coalescer")
        try:
            return await future
        finally:
            del future  # its error keeps this frame: each would keep the other, and the item

    async def insist(self, item: Item, *, what: str) -> Result:
        """As `submit`, but while the store does not answer the item is held and tried again. `what` names it in the
        log, which tells once in a while that, and how many, wait."""
        self._held += 1
        try:
            while True:
                try:
                    return await self.submit(item)
                except StoreUnavailableError as error:
                    self._tell(error, what)
                    await asyncio.sleep(AGAIN_AFTER_S)
        finally:
            self._held -= 1

    def _tell(self, error: StoreUnavailableError, what: str) -> None:
        now_s = time.monotonic()
        if now_s >= self._tell_at_s:
            self._tell_at_s = now_s + TELL_EVERY_S
            log.warning("waiting for the database", extra={"what": what, "held": self._held, "error": str(error)})

    async def drain(self) -> None:
        """Return when nothing waits."""
        while self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])

    async def _write_all(self) -> None:
        while self._waiting:
            await self._write(self._next())

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        taken = [self._waiting.popleft()]
        weight = self._weigh(taken[0][0])
        while self._waiting and weight + self._weigh(self._waiting[0][0]) <= self._max_weight:
            taken.append(self._waiting.popleft())
            weight += self._weigh(taken[-1][0])
        return taken

    async def _write(self, taken: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._flush([item for item, _ in taken])
            if len(results) != len(taken):
                raise RuntimeError(f"{len(taken)} items were flushed to {len(results)} results")
        except asyncio.CancelledError:  # the loop is ending: nobody may be left to wait for what will not come
            for _, future in (*taken, *self._waiting):
                future.cancel()
            raise
        except Exception as error:  # handed to the callers, who know what it means to them
            if len(taken) > 1 and not isinstance(error, StoreUnavailableError):
                for one in taken:
                    await self._write([one])
                return
            _fail(taken, error)
            taken = ()  # as in `submit`
        else:
            for (_, future), result in zip(taken, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _fail(taken: Sequence[tuple[Item, asyncio.Future[Result]]], error: Exception) -> None:
    for _, future in taken:
        if not future.done():
            future.set_exception(error)
