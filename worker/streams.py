"""Tells what models write, as they write it: each streamed task on a channel of its own.

The record of an open attempt is kept here whole, and told whole to whoever missed something. What was written while
the last telling was on its way goes into the next, so that a fast model costs a message a round trip, not a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tollgate.broker.bus import RETELL, Bus
from tollgate.broker.telling import Telling, channel_of
from tollgate.domain.record import START, Offset, Record

log = logging.getLogger("tollgate.streams")


@dataclass(slots=True, kw_only=True)
class Written:
    """What the open attempt of a task has written."""

    task_id: UUID
    attempt: int
    route: str
    tell: Callable[[Written, Offset], None]
    """Told of itself as it grows, and from where on that is new."""
    record: Record = field(default_factory=Record)

    def add(self, delta: Mapping[str, Any]) -> None:
        before = self.record.offset
        self.record.add(delta)
        if self.record.offset != before:
            self.tell(self, before)


class Streams:
    """Belongs to the engine's loop."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._open: dict[UUID, Written] = {}
        self._untold: dict[UUID, tuple[Written, Offset]] = {}
        """From where on the readers of a task do not know it."""
        self._telling: asyncio.Task[None] | None = None
        bus.subscribe(RETELL, self._retell)
        bus.on_resume(lambda: self._retell(list(self._open)))

    @contextlib.contextmanager
    def writing(self, task_id: UUID, attempt: int, *, route: str) -> Iterator[Written]:
        """The record of an attempt, told as it grows, while it is open."""
        written = self._open[task_id] = Written(task_id=task_id, attempt=attempt, route=route, tell=self._tell)
        try:
            yield written
        finally:
            if self._open.get(task_id) is written:
                del self._open[task_id]

    async def drain(self) -> None:
        """Return when all is told."""
        if self._telling is not None:
            await asyncio.wait([self._telling])

    def _retell(self, ids: Iterable[UUID]) -> None:
        for task_id in ids:
            if written := self._open.get(task_id):
                self._tell(written, START)

    def _tell(self, written: Written, since: Offset) -> None:
        known = self._untold.get(written.task_id)
        if known is None or known[0] is not written or since == START:
            self._untold[written.task_id] = (written, since)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_all(), name="streams")

    async def _tell_all(self) -> None:
        while self._untold:
            untold, self._untold = self._untold, {}
            messages = [(channel_of(task_id), _telling(*one).dump()) for task_id, one in untold.items()]
            try:
                await self._bus.send(messages)
            except Exception:  # the answers are stored whole; only their live reading suffers
                log.exception("streams not told")


def _telling(written: Written, since: Offset) -> Telling:
    return Telling(attempt=written.attempt, start=since, delta=written.record.since(since), route=written.route)
