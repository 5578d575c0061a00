"""Copies of what models are writing, for whoever reads it here: one a task, fed by the event bus."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from uuid import UUID

from tollgate.broker.bus import RETELL, Bus
from tollgate.broker.telling import Telling, channel_of
from tollgate.domain.record import Record

ASK_EVERY_S = 0.5
"""Who misses something asks again after this at the earliest."""


class Copy:
    """Of the record of a task's last attempt that anything was heard of."""

    def __init__(self) -> None:
        self.attempt = 0
        self.route: str | None = None
        self.record = Record()
        self.readers: set[Watch] = set()
        self.asked_at_s = float("-inf")
        self.listening: asyncio.Task[None] | None = None

    def take(self, telling: Telling) -> bool:
        """False where something is missing before it."""
        if telling.attempt < self.attempt:
            return True
        if telling.attempt > self.attempt:
            self.attempt, self.record, self.route = telling.attempt, Record(), None
        self.route = telling.route or self.route
        whole = self.record.merge(telling.start, telling.delta)
        for reader in self.readers:
            reader.wake()
        return whole


class Watch:
    """One reader's."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._news = asyncio.Event()

    @property
    def attempt(self) -> int:
        """0: nothing was heard yet."""
        return self._copy.attempt

    @property
    def route(self) -> str | None:
        """Where that attempt runs; None: nobody has told it yet."""
        return self._copy.route

    @property
    def record(self) -> Record:
        return self._copy.record

    def wake(self) -> None:
        self._news.set()

    async def news(self, timeout_s: float) -> bool:
        """Return when there may be something new; False after `timeout_s` without."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True


class Watches:
    """Belongs to one event loop."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._copies: dict[UUID, Copy] = {}
        self._working: set[asyncio.Task[None]] = set()
        bus.on_resume(self._ask_for_all)

    def __len__(self) -> int:
        """Tasks that somebody reads."""
        return len(self._copies)

    @contextlib.asynccontextmanager
    async def watch(self, task_id: UUID) -> AsyncIterator[Watch]:
        """From now on, and what was written before as soon as its worker has told it."""
        copy = self._copies.get(task_id)
        if copy is None:
            copy = self._copies[task_id] = Copy()
            copy.listening = self._beside(
                self._bus.listen(channel_of(task_id), lambda payload: self._heard(task_id, payload))
            )
        reader = Watch(copy)
        copy.readers.add(reader)
        try:
            if copy.listening is not None:  # whoever leaves meanwhile leaves it to the others
                await asyncio.shield(copy.listening)
            self._ask(task_id, copy)
            yield reader
        finally:
            copy.readers.discard(reader)
            if not copy.readers and self._copies.get(task_id) is copy:
                del self._copies[task_id]
                self._beside(self._bus.unlisten(channel_of(task_id)))

    def _heard(self, task_id: UUID, payload: bytes) -> None:
        copy, telling = self._copies.get(task_id), Telling.parse(payload)
        if copy is not None and telling is not None and not copy.take(telling):
            self._ask(task_id, copy)

    def _ask(self, task_id: UUID, copy: Copy) -> None:
        """For the whole record. What still misses something at the next words asks again."""
        now_s = time.monotonic()
        if now_s >= copy.asked_at_s + ASK_EVERY_S:
            copy.asked_at_s = now_s
            self._beside(self._bus.publish(RETELL, [task_id]))

    def _ask_for_all(self) -> None:
        """Their last words may have been told while nobody here heard, and it may be long until the next."""
        if self._copies:
            self._beside(self._bus.publish(RETELL, list(self._copies)))

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task
