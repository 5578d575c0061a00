"""Runs claimed tasks: call the upstream, judge what came, settle it. One asyncio task each."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from tollgate.domain.errors import UpstreamError
from tollgate.domain.settling import Settlement
from tollgate.domain.states import TaskState
from tollgate.store.claims import Claimed
from worker import outcomes
from worker.capacity import Capacity, upstream_of
from worker.credentials import Credentials
from worker.outcomes import Outcome, Rules
from worker.settler import Settler
from worker.upstreams.registry import Connected
from worker.upstreams.upstream import Answer, Call

log = logging.getLogger("tollgate.runner")

SETTLE_S = 10.0
"""A stopping worker waits so long for the settlements of what it aborted."""


@dataclass(slots=True, kw_only=True)
class Running:
    """A task in this worker's hands."""

    claimed: Claimed
    worker_id: UUID
    """The registration it was claimed under."""
    task: asyncio.Task[None] | None = None
    holds_slot: bool = True
    calling: bool = False
    """Its call may be aborted; before and after, there is nothing to abort."""
    sent: bool = False
    """The call's first byte left: it may be billed."""
    aborted: bool = False
    cancelled: bool = False
    """Aborted because its owner asked; otherwise it is given back."""

    def abort(self, *, cancelled: bool = False) -> None:
        if not self.aborted:
            self.aborted, self.cancelled = True, cancelled
            if self.calling and self.task is not None:
                self.task.cancel()


class Again(Protocol):
    """Takes a task that is queued again, and due `at`."""

    def __call__(self, claimed: Claimed, *, at: datetime) -> None: ...


class Runner:
    """Belongs to the engine's loop. `freed` is called when a slot becomes free, `again` with a retry's hint."""

    def __init__(
        self,
        *,
        upstreams: Mapping[str, Connected],
        capacity: Capacity,
        credentials: Credentials,
        rules: Rules,
        settler: Settler,
        know_price: Callable[[Claimed], Awaitable[None]],
        may_send: Callable[[UUID], bool],
        freed: Callable[[], None],
        again: Again,
    ) -> None:
        self._upstreams = upstreams
        self._capacity = capacity
        self._credentials = credentials
        self._rules = rules
        self._settler = settler
        self._know_price = know_price
        self._may_send = may_send
        self._freed = freed
        self._again = again
        self._running: dict[UUID, Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def run(self, claimed: Claimed, worker_id: UUID) -> None:
        """Begin; the task's slot is taken and will be released."""
        running = Running(claimed=claimed, worker_id=worker_id)
        self._running[claimed.id] = running
        running.task = asyncio.create_task(self._run(running))

    def cancel(self, ids: Iterable[UUID]) -> None:
        """Stop those of `ids` that run here, for their owner."""
        for task_id in ids:
            if running := self._running.get(task_id):
                running.abort(cancelled=True)

    def abort_all(self) -> None:
        """The lease is lost: what is unsent is given back, what is sent may be billed. The fence guards the rest."""
        for running in self._running.values():
            running.abort()

    async def drain(self, timeout_s: float) -> None:
        """Let calls end for so long, then abort them; return when all are settled, or cannot be."""
        tasks = [running.task for running in self._running.values() if running.task]
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=timeout_s)
        self.abort_all()
        _, unsettled = await asyncio.wait(tasks, timeout=SETTLE_S)
        if unsettled:
            log.error("stopped before all was settled", extra={"tasks": len(unsettled)})
            for task in unsettled:
                task.cancel()
            await asyncio.wait(unsettled)

    async def _run(self, running: Running) -> None:
        claimed = running.claimed
        try:
            settlement = await self._attempt(running)
            self._free(running)
            await self._settle(claimed, settlement)
        except Exception:  # the edge of a task: what ends here is still held, until the lease ends
            log.exception("task not settled", extra={"task_id": str(claimed.id), "attempt": claimed.attempt})
        finally:
            self._free(running)
            if self._running.get(claimed.id) is running:
                del self._running[claimed.id]
            self._freed()

    def _free(self, running: Running) -> None:
        """The slot, once: as soon as the call has ended. The upstream does not wait for our database."""
        if running.holds_slot:
            running.holds_slot = False
            slots = self._capacity.slots(running.claimed.route)
            slots.release()
            if running.sent:
                slots.note_settled(time.monotonic())
            self._freed()

    async def _attempt(self, running: Running) -> Settlement:
        """The edge of an attempt: whatever happens inside, something is settled."""
        claimed = running.claimed
        upstream = upstream_of(claimed.route)
        if running.aborted:
            return self._aborted(running)
        connected, credential = self._upstreams.get(upstream), self._capacity.pauses.choose(upstream)
        if connected is None or credential is None or not self._may_send(running.worker_id):
            return outcomes.given_back(claimed)
        try:
            outcome = await self._outcome(running, connected, credential)
        except asyncio.CancelledError:
            if not running.aborted or running.task is None:
                raise
            running.task.uncancel()  # it was meant for the call only
            return self._aborted(running)
        await self._credentials.heed(upstream, credential, outcome)
        return outcome.settlement

    async def _outcome(self, running: Running, connected: Connected, credential: str) -> Outcome:
        try:
            answer = await self._call(running, connected, credential)
        except UpstreamError as error:
            return self._failed(running, error)
        except Exception:
            log.exception(
                "attempt broke", extra={"task_id": str(running.claimed.id), "attempt": running.claimed.attempt}
            )
            # As if it was sent, whether or not: a fault of ours must run out of purchases, not go on till the deadline.
            running.sent = True
            return self._failed(
                running, UpstreamError("the worker broke while it ran this; its log says more", kind="cut")
            )
        await self._know_price(running.claimed)
        return outcomes.answered(
            running.claimed, answer, rules=self._rules, now=datetime.now(UTC), jitter=random.random()
        )

    async def _call(self, running: Running, connected: Connected, credential: str) -> Answer:
        claimed = running.claimed
        left_s = (claimed.deadline - datetime.now(UTC)).total_seconds()
        call = Call(
            endpoint=claimed.endpoint,
            model=claimed.route.partition("/")[2],
            body=claimed.body,
            request_id=claimed.upstream_request_id,
            credential=credential,
            timeout_s=max(1.0, min(left_s, connected.spec.total_timeout_s)),
            on_sent=lambda: self._note_sent(running),
        )
        running.calling = True
        try:
            return await connected.upstream.call(call)
        finally:
            running.calling = False

    def _note_sent(self, running: Running) -> None:
        """The last look before the first byte: connecting took its time. Raises UpstreamError."""
        if not self._may_send(running.worker_id):
            raise UpstreamError("the lease ran out before the call was sent", kind="connect")
        running.sent = True

    def _failed(self, running: Running, error: UpstreamError) -> Outcome:
        return outcomes.failed(
            running.claimed, error, sent=running.sent, rules=self._rules, now=datetime.now(UTC), jitter=random.random()
        )

    def _aborted(self, running: Running) -> Settlement:
        if running.cancelled:
            return outcomes.cancelled(running.claimed, sent=running.sent, rules=self._rules)
        if not running.sent:
            return outcomes.given_back(running.claimed)
        return self._failed(running, UpstreamError("the worker stopped before the answer came", kind="cut")).settlement

    async def _settle(self, claimed: Claimed, settlement: Settlement) -> None:
        """And where the task is queued again and this worker is to try it, see to that."""
        try:
            resolution = await self._settler.settle(settlement)
        except Exception:
            log.exception("answer not stored", extra={"task_id": str(claimed.id), "attempt": claimed.attempt})
            resolution = await self._settler.settle(outcomes.unstorable(settlement))
        settled = resolution.settlement
        if resolution.task and settled.state is TaskState.QUEUED and settled.hinted:
            self._again(claimed, at=settled.not_before or datetime.now(UTC))
