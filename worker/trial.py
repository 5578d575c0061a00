"""A call as a trial of its route's limit: the upstream lets it in or refuses it, and the route's slots learn of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType

from tollgate.domain.states import TaskState
from worker.outcomes import Outcome
from worker.running import Running
from worker.slots import Slots

log = logging.getLogger("tollgate.trial")

LET_IN_S = 0.5
"""A call is refused at the door: one that was sent and still runs after so long was let in. So a route whose calls
take minutes learns as fast as one of short calls."""


class Trial:
    """Counts once, or in a search for the limit each LET_IN_S. Entered when the call begins; `grew` is called when its
    route has a slot more."""

    def __init__(self, running: Running, *, slots: Slots, grew: Callable[[], None]) -> None:
        self._running = running
        self._slots = slots
        self._grew = grew
        self._counted = running.upstream_id is not None
        """The upstream has had it for long."""

    def __enter__(self) -> Trial:
        self._started_at_s = time.monotonic()
        self._look_later()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def end(self, outcome: Outcome) -> None:
        """With what came of the call, while it still has its slot."""
        self._note_health(outcome)
        if outcome.slow_down:
            self._refused()
        elif outcome.settlement.state is TaskState.SUCCEEDED and not self._counted:
            self._let_in(again=False)

    def _note_health(self, outcome: Outcome) -> None:
        status = outcome.settlement.http_status
        if outcome.outage:
            if self._slots.note_outage(time.monotonic()):
                log.warning("route is down", extra={"route": self._running.claimed.route})
        elif status is not None and status < 500:
            self._slots.note_answer()

    def _look(self) -> None:
        if self._running.sent and self._let_in(again=self._counted):
            self._grew()
            self._look_later()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LET_IN_S, self._look)

    def _let_in(self, *, again: bool) -> bool:
        self._counted = True
        return self._slots.note_let_in(again=again)

    def _refused(self) -> None:
        if self._slots.note_refused(time.monotonic(), started_at_s=self._started_at_s):
            log.info("concurrency lowered", extra={"route": self._running.claimed.route, "limit": self._slots.limit})
