"""The answers that are being written: from the engine's thread, step by step, to the loop where they are awaited."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from worker.upstreams.local.requests import Ended, Event, Request
from worker.upstreams.local.writing import Writing

log = logging.getLogger("tollgate.local")


@dataclass(slots=True, eq=False, kw_only=True)
class OpenAnswer:
    """`ended` has the engine's last word, or what broke while the answer was written down."""

    request: Request
    writing: Writing
    ended: asyncio.Future[Ended]
    cancel: Callable[[Request], None]
    """Asks the engine to end it."""


class OpenAnswers:
    """Belongs to the loop that made it; `deliver` is the engine's thread's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: dict[Request, OpenAnswer] = {}

    def deliver(self, events: Sequence[Event]) -> None:
        """All of a step: the loop is woken once."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._take, events)

    @contextlib.contextmanager
    def writing(self, request: Request, writing: Writing, *, cancel: Callable[[Request], None]) -> Iterator[OpenAnswer]:
        """Open before the request is submitted: its first event may come at once."""
        answer = OpenAnswer(request=request, writing=writing, ended=self._loop.create_future(), cancel=cancel)
        self._open[request] = answer
        try:
            yield answer
        finally:
            self._open.pop(request, None)

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            answer = self._open.get(event.request)
            if answer is None or answer.ended.done():
                continue
            if isinstance(event, Ended):
                answer.ended.set_result(event)
            else:
                self._write(answer, event.ids)

    def _write(self, answer: OpenAnswer, ids: Sequence[int]) -> None:
        """Whatever goes wrong with one answer is its own: its neighbours' events are in the same step."""
        try:
            answer.writing.feed(ids)
        except Exception as error:
            log.exception("an answer could not be written down")
            answer.cancel(answer.request)
            answer.ended.set_exception(error)
            return
        if answer.writing.stopped:
            answer.cancel(answer.request)
