"""Long work on the event loop, in turns with whatever else waits there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

AT_ONCE = 250
"""Of a list: some 10 ms of work. Ten thousand at once would hold up everyone's calls for half a second."""
TURN_S = 0.005
"""Of work whose items are not alike."""

Item = TypeVar("Item")


async def of(items: Iterable[Item]) -> AsyncIterator[tuple[int, Item]]:
    """As `enumerate`, with a pause for the others after each AT_ONCE."""
    for index, item in enumerate(items):
        if index and index % AT_ONCE == 0:
            await asyncio.sleep(0)
        yield index, item


class Turn:
    """Of long work that asks for a pause as often as it likes."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    async def pause(self) -> None:
        """Others go first, if it has worked for TURN_S."""
        if time.monotonic() - self._began_s >= TURN_S:
            await asyncio.sleep(0)
            self._began_s = time.monotonic()
