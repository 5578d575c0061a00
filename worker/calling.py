"""Asks the upstream: in one call that waits, or by submit and poll, whose id is committed in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from tollgate.domain.errors import LeaseRanOutError
from tollgate.domain.lanes import priority_of
from tollgate.domain.states import Priority
from worker import billing
from worker.billing import Rules
from worker.polling import Poller
from worker.receipts import Receipts
from worker.running import Running
from worker.streams import Streams
from worker.upstreams.registry import Connected
from worker.upstreams.upstream import Answer, Call
from worker.upstreams.zhipu import ZhipuUpstream

SUBMIT_TIMEOUT_S = 60.0
"""A submit only takes the call in; what takes longer hangs, and is sent once more under the same request_id."""


class Caller:
    """Belongs to the engine's loop. `may_send` says whether a registration's lease is fresh."""

    def __init__(
        self,
        *,
        receipts: Receipts,
        poller: Poller,
        rules: Rules,
        streams: Streams,
        may_send: Callable[[UUID], bool],
    ) -> None:
        self._receipts = receipts
        self._poller = poller
        self._rules = rules
        self._streams = streams
        self._may_send = may_send

    async def call(self, running: Running, connected: Connected, credential: str) -> Answer:
        """The answer. Raises UpstreamError, and CancelledError where `running` was aborted."""
        upstream = connected.upstream
        if running.claimed.mode == "async" and isinstance(upstream, ZhipuUpstream):
            running.polled = True
            return await self._submit_and_poll(running, upstream, credential)
        whole_s = math.inf if running.claimed.streamed else connected.spec.total_timeout_s
        call = self._call_of(running, credential, whole_s)
        if not running.claimed.streamed:
            with running.abortable():
                return await upstream.call(call)
        claimed = running.claimed
        with self._streams.writing(claimed.id, claimed.attempt, route=claimed.route) as written, running.abortable():
            running.written = written
            return await upstream.call(replace(call, writer=written))

    async def _submit_and_poll(self, running: Running, upstream: ZhipuUpstream, credential: str) -> Answer:
        if running.upstream_id is None:
            with running.abortable():
                running.upstream_id = await upstream.submit(self._call_of(running, credential, SUBMIT_TIMEOUT_S))
            # Not to be aborted: from here on the id is all there is of a paid answer.
            await self._receipts.keep(
                billing.receipt(running.claimed, running.upstream_id, credential=credential, rules=self._rules)
            )
        running.sent = True
        with running.abortable():
            return await self._poller.answer(
                upstream,
                running.upstream_id,
                credential=credential,
                since=running.claimed.attempt_started_at,
                until=running.claimed.deadline,
            )

    def _call_of(self, running: Running, credential: str, timeout_s: float) -> Call:
        claimed = running.claimed
        left_s = (claimed.deadline - datetime.now(UTC)).total_seconds()
        return Call(
            endpoint=claimed.endpoint,
            model=claimed.route.partition("/")[2],
            body=claimed.body,
            request_id=claimed.upstream_request_id,
            credential=credential,
            timeout_s=max(1.0, min(left_s, timeout_s)),
            on_sent=lambda: self._note_sent(running),
            urgent=priority_of(claimed.lane) is Priority.INTERACTIVE,
            note_usage=running.note_usage,
        )

    def _note_sent(self, running: Running) -> None:
        """The last look before the first byte: connecting took its time. Raises UpstreamError."""
        if not self._may_send(running.worker_id):
            raise LeaseRanOutError("the lease ran out before the call was sent", kind="connect")
        running.sent = True
