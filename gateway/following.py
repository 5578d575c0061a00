"""Follows a task as its model writes it: from its start or from any place, live or after its end.

A watched task has a copy of its open attempt's record here, however many read it. Each reader has a place in it and
takes what is new when it is ready for more: a slow one holds a place, not a queue. What the copy misses (a message was
lost, the reader came late) is asked for, and told whole. The end is read from the store, where the answer is complete.

    worker -> bus -> copy of the record -> readers          store -> readers, at the end
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import orjson

from gateway.querying import read_task
from gateway.services import Services
from gateway.waiting import heard
from gateway.watching import Watch
from tollgate.domain.record import START, Delta, Offset, Record
from tollgate.domain.retention import require_kept
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.tasks import Key
from tollgate.store.tasks import Task

_ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")
QUIET_S = 15.0
"""A reader that nothing was told for so long is told that: proxies and clients take silence for a lost connection."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a reader is. `attempt` 0: at the start, of whichever attempt comes."""

    attempt: int = 0
    offset: Offset = START

    def __str__(self) -> str:
        """An event's id."""
        return f"{self.attempt}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """None for what is none."""
        attempt, _, rest = text.partition(":")
        offset = Offset.parse(rest)
        return cls(int(attempt), offset) if offset and _ATTEMPT.fullmatch(attempt) else None


BEGINNING = Place()


@dataclass(frozen=True, slots=True)
class Wrote:
    """What comes next in the message; `place` is after it."""

    place: Place
    delta: Delta
    route: str | None = None
    """Where it is written, if that is known."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """The attempt that was read so far came to nothing: what follows begins anew."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing happened for so long that the reader is to be told."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The task ended; or, where its state says that it did not, nobody can be waited for here any more."""

    task: Task
    place: Place


Event = Wrote | Restarted | Quiet | Ended


async def follow(
    services: Services,
    key: Key,
    task_id: UUID,
    *,
    place: Place = BEGINNING,
    new: bool = False,
    quiet_s: float = QUIET_S,
) -> AsyncGenerator[Event]:
    """Events from `place` to the end, which is last. `new`: the task was committed just now. `quiet_s`: of silence
    before the first word, after which that is told.

    Raises NotFoundError, StoreUnavailableError."""
    if not new:
        task = await read_task(services, key, task_id)
        if task.state.ended:
            for event in _rest(task, place):
                yield event
            return
    async with contextlib.AsyncExitStack() as stack:
        watch = await stack.enter_async_context(services.watches.watch(task_id))
        end = await stack.enter_async_context(_end_of(services, task_id, watch, new=new))
        while not end.done():
            if 0 < place.attempt < watch.attempt:
                place = Place(watch.attempt)
                yield Restarted(watch.attempt)
            # An older attempt's last words may still be heard by who read the next one elsewhere.
            current = place.attempt in (0, watch.attempt)
            if current and (delta := watch.record.since(place.offset)):
                place = Place(watch.attempt, watch.record.offset)
                yield Wrote(place, delta, watch.route)
            elif not await watch.news(QUIET_S if watch.attempt else quiet_s):
                yield Quiet()
        end.result()
    for event in _rest(await read_task(services, key, task_id), place):
        yield event


@contextlib.asynccontextmanager
async def _end_of(services: Services, task_id: UUID, watch: Watch, *, new: bool) -> AsyncIterator[asyncio.Task[None]]:
    """Done at the task's end, or when the gateway stops; `watch` hears of it."""
    waiters = services.waiters
    with waiters.listening([task_id]) as ended:
        end = heard(ended, timeout_s=None) if new else waiters.wait([task_id], timeout_s=None)
        waiting = asyncio.create_task(end)
        waiting.add_done_callback(lambda _: watch.wake())
        try:
            yield waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


def _rest(task: Task, place: Place) -> list[Event]:
    """What a reader at `place` has still to be told of a task as it stands."""
    events: list[Event] = []
    if task.state is TaskState.SUCCEEDED:
        attempt = next((a.number for a in task.attempts if a.outcome is AttemptOutcome.SUCCEEDED), 0)
        if place.attempt not in (0, attempt):
            events.append(Restarted(attempt))
            place = Place(attempt)
        record = Record.of_message(message_of(task))
        if delta := record.since(place.offset):
            place = Place(attempt, record.offset)
            events.append(Wrote(place, delta, task.answered_by))
    return [*events, Ended(task, place)]


def message_of(task: Task) -> dict[str, object]:
    """Of a finished answer's first choice. Raises ErasedError."""
    choices = orjson.loads(require_kept(task.result, task_id=task.id)).get("choices") or [{}]
    message = choices[0].get("message")
    return message if isinstance(message, dict) else {}
