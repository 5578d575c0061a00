"""Polls the results of submitted calls, thousands at once: often while they are young, seldom when they are old.

A poll costs nothing and may fail as it likes. Only the upstream's own word ends the call, or that for a while it
knows nothing of it, or nothing that can be read.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

from tollgate.domain.errors import PollError, UpstreamError
from worker.upstreams.upstream import Answer
from worker.upstreams.zhipu import ZhipuUpstream

log = logging.getLogger("tollgate.polling")

FIRST_S = 0.5
"""The youngest calls are asked for so often."""
SHARE_OF_AGE = 0.2
"""Later a call waits a fifth of its age: what took a minute is then at most 12 s late."""
LONGEST_S = 10.0
"""So 10,000 open calls make a thousand polls a second, a quarter of a core."""
AT_ONCE = 128
"""Polls in flight at one upstream: its connections are for calls."""
POLL_TIMEOUT_S = 20.0
PATIENCE_S = 60.0
"""An answer that would end the waiting is believed when it came again and again for so long, and MISSES times: an id
may not have spread yet, a proxy may be on the wrong way for a moment."""
MISSES = 5


@dataclass(slots=True)
class Misses:
    """Polls of one call that were answered in the same useless way, one after the other."""

    kind: str = ""
    count: int = 0
    since_s: float = 0.0

    def note(self, error: PollError) -> None:
        """Raises UpstreamError where the call is lost, and PollError where only its key is refused."""
        now_s, kind = time.monotonic(), _kind(error)
        if kind != self.kind:
            self.kind, self.count, self.since_s = kind, 0, now_s
        self.count += 1
        if not kind or self.count < MISSES or now_s - self.since_s < PATIENCE_S:
            return
        if kind == "refused":
            raise error
        raise UpstreamError(f"the call is lost: {error}", kind="cut") from error


def _kind(error: PollError) -> str:
    """ "" for what will pass."""
    if error.http_status in (401, 403):
        return "refused"
    if error.http_status == 404:
        return "gone"
    return "unreadable" if error.http_status is not None and error.http_status < 400 else ""


class Poller:
    """Belongs to the engine's loop."""

    def __init__(self) -> None:
        self._turns: defaultdict[ZhipuUpstream, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))

    async def answer(
        self, upstream: ZhipuUpstream, upstream_id: str, *, credential: str, since: datetime, until: datetime
    ) -> Answer:
        """Wait for the call's answer. `since`: when its attempt began, `until`: its deadline.

        Raises UpstreamError where it failed, is lost, or its time is over; PollError where its key is refused."""
        left_s = (until - datetime.now(UTC)).total_seconds()
        try:
            async with asyncio.timeout(left_s):
                return await self._poll(upstream, upstream_id, credential=credential, since=since)
        except TimeoutError as error:
            raise UpstreamError("no result before the task's deadline", kind="timeout") from error

    async def _poll(self, upstream: ZhipuUpstream, upstream_id: str, *, credential: str, since: datetime) -> Answer:
        misses = Misses()
        while True:
            asked_to_wait_s = 0.0
            try:
                async with self._turns[upstream]:
                    answer = await upstream.fetch(upstream_id, credential=credential, timeout_s=POLL_TIMEOUT_S)
                if answer is not None:
                    return answer
                misses = Misses()
            except PollError as error:
                log.info("poll failed", extra={"upstream_id": upstream_id, "error": str(error)})
                misses.note(error)
                asked_to_wait_s = min(error.retry_after_s or 0.0, 6 * LONGEST_S)
            age_s = (datetime.now(UTC) - since).total_seconds()
            await asyncio.sleep(max(asked_to_wait_s, wait_s(age_s, jitter=random.random())))


def wait_s(age_s: float, *, jitter: float) -> float:
    """Seconds to the next poll of a call that is `age_s` old; `jitter` in [0, 1) spreads them by half."""
    return min(LONGEST_S, max(FIRST_S, age_s * SHARE_OF_AGE)) * (0.75 + 0.5 * jitter)
