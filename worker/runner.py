"""Runs claimed tasks: call the upstream, judge what came, settle it. One asyncio task each."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tollgate.domain.errors import StoreUnavailableError, UpstreamError
from tollgate.domain.settling import Settlement
from tollgate.domain.states import TaskState
from tollgate.store import pauses
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from worker import outcomes
from worker.capacity import Capacity, upstream_of
from worker.outcomes import Outcome, Rules
from worker.settler import Settler
from worker.upstreams.registry import Connected
from worker.upstreams.upstream import Call

log = logging.getLogger("tollgate.runner")

PROBE_AFTER_S = 60.0
"""A paused credential is tried with one task so often."""


@dataclass(slots=True, kw_only=True)
class Running:
    """A task in this worker's hands."""

    claimed: Claimed
    task: asyncio.Task[None] | None = None
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


class Runner:
    """Belongs to the engine's loop. `freed` is called when a slot becomes free, `again` with a retry's hint."""

    def __init__(
        self,
        *,
        database: Database,
        upstreams: Mapping[str, Connected],
        capacity: Capacity,
        rules: Rules,
        settler: Settler,
        may_send: Callable[[], bool],
        freed: Callable[[], None],
        again: Callable[[Claimed], None],
    ) -> None:
        self._database = database
        self._upstreams = upstreams
        self._capacity = capacity
        self._rules = rules
        self._settler = settler
        self._may_send = may_send
        self._freed = freed
        self._again = again
        self._running: dict[UUID, Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def run(self, claimed: Claimed) -> None:
        """Begin; the task's slot is taken and will be released."""
        running = Running(claimed=claimed)
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
        """Let calls end for so long, then abort them; return when all are settled."""
        if tasks := [running.task for running in self._running.values() if running.task]:
            await asyncio.wait(tasks, timeout=timeout_s)
            self.abort_all()
            await asyncio.wait(tasks)

    async def _run(self, running: Running) -> None:
        claimed = running.claimed
        try:
            settlement = await self._settlement(running)
            resolution = await self._settler.settle(settlement)
            if resolution is not None and resolution.task:
                self._follow_up(claimed, resolution.settlement)
        finally:
            self._running.pop(claimed.id, None)
            slots = self._capacity.slots(claimed.route)
            slots.release()
            slots.note_settled(time.monotonic())
            self._freed()

    async def _settlement(self, running: Running) -> Settlement:
        """The edge of an attempt: whatever happens inside, the task is settled."""
        try:
            running.calling = True
            if running.aborted:
                return self._aborted(running)
            return await self._attempt(running)
        except asyncio.CancelledError:
            return self._aborted(running)
        except Exception:
            log.exception(
                "attempt broke", extra={"task_id": str(running.claimed.id), "attempt": running.claimed.attempt}
            )
            return self._failed(running, UpstreamError("the worker broke while it ran this", kind="cut")).settlement
        finally:
            running.calling = False

    async def _attempt(self, running: Running) -> Settlement:
        name = upstream_of(running.claimed.route)
        connected = self._upstreams.get(name)
        credential = self._capacity.pauses.usable(name)
        if connected is None or credential is None or not self._may_send():
            return outcomes.given_back(running.claimed)
        try:
            answer = await connected.upstream.call(_call(running, connected, credential))
        except UpstreamError as error:
            outcome = self._failed(running, error)
        else:
            outcome = outcomes.answered(
                running.claimed, answer, rules=self._rules, now=datetime.now(UTC), jitter=random.random()
            )
        await self._heed(name, credential, outcome)
        return outcome.settlement

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

    async def _heed(self, upstream: str, credential: str, outcome: Outcome) -> None:
        """Pause the credential that was refused; lift the pause that a probe's success disproves.

        The store's note of it can wait for the next probe; the answer at hand must not suffer for it."""
        now, known = datetime.now(UTC), self._capacity.pauses
        until = now + timedelta(seconds=PROBE_AFTER_S)
        try:
            if outcome.pause_reason is not None:
                log.error("upstream paused", extra={"upstream": upstream, "reason": outcome.pause_reason})
                known.pause(upstream, credential, until=until)
                self._capacity.share_anew()
                async with self._database.write() as connection:
                    reason = outcome.pause_reason
                    await pauses.pause(connection, upstream, credential=credential, reason=reason, now=now, until=until)
            elif outcome.settlement.state is TaskState.SUCCEEDED and known.lift(upstream, credential):
                log.info("upstream works again", extra={"upstream": upstream})
                self._capacity.share_anew()
                async with self._database.write() as connection:
                    await pauses.lift(connection, upstream, credential=credential)
        except StoreUnavailableError as error:
            log.warning("pause not noted", extra={"upstream": upstream, "error": str(error)})

    def _follow_up(self, claimed: Claimed, settled: Settlement) -> None:
        """A retry that is due soon stays with this worker: its own timer is the hint."""
        if settled.state is TaskState.QUEUED and settled.hinted and settled.not_before is not None:
            delay_s = (settled.not_before - datetime.now(UTC)).total_seconds()
            asyncio.get_running_loop().call_later(max(0.0, delay_s) + 0.001, self._again, claimed)


def _call(running: Running, connected: Connected, credential: str) -> Call:
    claimed = running.claimed
    left_s = (claimed.deadline - datetime.now(UTC)).total_seconds()

    def sent() -> None:
        running.sent = True

    return Call(
        endpoint=claimed.endpoint,
        model=claimed.route.partition("/")[2],
        body=claimed.body,
        request_id=claimed.upstream_request_id,
        credential=credential,
        timeout_s=max(1.0, min(left_s, connected.spec.total_timeout_s)),
        on_sent=sent,
    )
