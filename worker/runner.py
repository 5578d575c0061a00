"""Runs claimed tasks: call the upstream, judge what came, settle it. One asyncio task each."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from tollgate.domain.errors import LeaseRanOutError, PollError, UpstreamError
from tollgate.domain.lanes import priority_of
from tollgate.domain.routing import upstream_of
from tollgate.domain.settling import Resolution, Settlement
from tollgate.domain.states import TaskState
from tollgate.domain.usage import TokenUsage
from tollgate.store.claims import Claimed
from worker import billing, outcomes
from worker.billing import Rules
from worker.calling import Caller
from worker.capacity import Capacity
from worker.credentials import Credentials
from worker.detours import Ways, ways_of
from worker.outcomes import Outcome
from worker.running import Running
from worker.settler import Settler
from worker.trial import Trial
from worker.upstreams.registry import Connected

log = logging.getLogger("tollgate.runner")

SETTLE_S = 10.0
"""A stopping worker waits so long for the settlements of what it aborted."""
AGAIN_AFTER_S, AGAIN_AT_MOST_S = 1.0, 30.0
"""A settlement that the database refuses is tried again after so long, doubling up to so long."""
DEADLINE_MARGIN = timedelta(seconds=1)
ELSEWHERE = timedelta(seconds=30)
"""A task that this worker lacks the key for, or whose key is refused, is left to others for so long."""


class Again(Protocol):
    """Takes a task that is queued again, and due `at`."""

    def __call__(self, claimed: Claimed, *, at: datetime) -> None: ...


class Runner:
    """Belongs to the engine's loop. `freed` is called when a slot may be free, `again` with a retry's hint."""

    def __init__(
        self,
        *,
        upstreams: Mapping[str, Connected],
        capacity: Capacity,
        credentials: Credentials,
        rules: Rules,
        settler: Settler,
        caller: Caller,
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
        self._caller = caller
        self._know_price = know_price
        self._may_send = may_send
        self._freed = freed
        self._again = again
        self._running: dict[UUID, Running] = {}
        self._outlived: list[Running] = []
        """Sent under a lease that was lost. Their tasks may run here anew, and are cancelled without them."""
        self._over = False
        """The stop waits no longer: what is left is left to the rescue."""

    def __len__(self) -> int:
        return len(self._running) + len(self._outlived)

    def run(self, claimed: Claimed, worker_id: UUID) -> None:
        """Begin; the task's slot is taken and will be released."""
        running = Running(claimed=claimed, worker_id=worker_id)
        if older := self._running.get(claimed.id):
            self._outlived.append(older)
        self._running[claimed.id] = running
        running.task = asyncio.create_task(self._run(running))

    def cancel(self, ids: Iterable[UUID]) -> None:
        """Stop those of `ids` that run here, for their owner."""
        for task_id in ids:
            if running := self._running.get(task_id):
                running.abort(cancelled=True)

    def abort_unsent(self) -> None:
        """The lease is lost: what is unsent is given back, and what is polled, since whoever holds the task next polls
        it too. What is sent was bought: its answer, however late, says what it cost. The fence guards the rest."""
        for task_id, running in list(self._running.items()):
            if running.sent and running.upstream_id is None:
                self._outlived.append(self._running.pop(task_id))
            else:
                running.abort()

    def abort_all(self) -> None:
        """The drain is over: what is unsent is given back, what is sent may be billed."""
        for running in (*self._running.values(), *self._outlived):
            running.abort()

    async def drain(self, timeout_s: float) -> None:
        """Let calls end for so long, then abort them; return when all are settled, or cannot be."""
        tasks = [running.task for running in (*self._running.values(), *self._outlived) if running.task]
        if not tasks:
            return
        self._stop_polling()
        await asyncio.wait(tasks, timeout=timeout_s)
        self.abort_all()
        _, unsettled = await asyncio.wait(tasks, timeout=SETTLE_S)
        if unsettled:
            log.error("stopped before all was settled", extra={"tasks": len(unsettled)})
            self._over = True
            for task in unsettled:
                task.cancel()
            await asyncio.wait(unsettled)

    def _stop_polling(self) -> None:
        """What the upstream has by an id is given back at once: it goes on there, and any worker can poll it."""
        for running in self._running.values():
            if running.upstream_id is not None:
                running.abort()

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
            else:
                self._outlived.remove(running)
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
        connected = self._upstreams.get(upstream)
        running.credential = credential = claimed.credential or await self._credentials.choose(upstream)
        if connected is None or credential is None or not self._may_send(running.worker_id):
            return outcomes.given_back(claimed)
        if credential not in connected.credentials or self._waits_for_its_key(claimed):
            return self._put_off(claimed)
        await self._know_price(claimed)
        try:
            with Trial(running, slots=self._capacity.slots(claimed.route), grew=self._freed) as trial:
                outcome = await self._outcome(running, connected, credential)
                trial.end(outcome)
        except asyncio.CancelledError:
            if not running.aborted or running.task is None or self._over:
                raise
            running.task.uncancel()  # it was meant for the call only
            return self._aborted(running)
        if running.upstream_id is None:  # a poll's success says nothing of the balance
            await self._credentials.heed(upstream, credential, outcome)
        return outcome.settlement

    def _waits_for_its_key(self, claimed: Claimed) -> bool:
        """Sent before, and perhaps there: it is that account's to say, which cannot be asked now."""
        bound = claimed.unanswered > 0 and claimed.upstream_id is None
        return bound and self._capacity.pauses.paused(upstream_of(claimed.route), claimed.credential or "")

    def _put_off(self, claimed: Claimed) -> Settlement:
        return replace(outcomes.given_back(claimed), not_before=datetime.now(UTC) + ELSEWHERE)

    async def _outcome(self, running: Running, connected: Connected, credential: str) -> Outcome:
        try:
            answer = await self._caller.call(running, connected, credential)
        except PollError as error:
            log.warning("polls are refused", extra={"task_id": str(running.claimed.id), "error": str(error)})
            return Outcome(settlement=self._put_off(running.claimed))
        except UpstreamError as error:
            theirs = not isinstance(error, LeaseRanOutError) and not _out_of_time(running.claimed, error)
            return self._failed(running, error, ways=self._ways(running, credential) if theirs else None)
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
            running.claimed,
            answer,
            rules=self._rules,
            now=datetime.now(UTC),
            jitter=random.random(),
            ways=self._ways(running, credential),
            known=running.claimed.known,
        )

    def _ways(self, running: Running, credential: str) -> Ways | None:
        """Where else the task may go now."""
        claimed = running.claimed
        priority = priority_of(claimed.lane)
        ways = ways_of(claimed, self._rules.catalog, blocked=lambda route: self._capacity.avoids(route, priority))
        if ways is None:
            return None
        return replace(
            ways,
            last_key=self._capacity.pauses.last(upstream_of(claimed.route), credential),
            down=self._capacity.down(claimed.route),
            bought=running.upstream_id is not None or claimed.unanswered > 0,
        )

    def _failed(self, running: Running, error: UpstreamError, *, ways: Ways | None = None) -> Outcome:
        """`ways` where the error is the upstream's: only then it says anything of the route."""
        error.usage = error.usage or self._written(running)
        outcome = outcomes.failed(
            running.claimed,
            error,
            sent=running.sent,
            rules=self._rules,
            now=datetime.now(UTC),
            jitter=random.random(),
            repeatable=running.repeatable,
            ended_there=running.upstream_id is not None,
            ways=ways,
        )
        if outcome.settlement.unanswered:
            return replace(outcome, settlement=replace(outcome.settlement, credential=running.credential))
        return outcome

    def _aborted(self, running: Running) -> Settlement:
        if running.cancelled:
            usage = self._written(running)
            return outcomes.cancelled(running.claimed, sent=running.sent, rules=self._rules, usage=usage)
        if not running.sent or running.upstream_id is not None:
            return outcomes.given_back(running.claimed)
        return self._failed(running, UpstreamError("the worker stopped before the answer came", kind="cut")).settlement

    @staticmethod
    def _written(running: Running) -> TokenUsage | None:
        """What a call that was stopped had come to, or a stream that was cut, estimated; None where nothing came."""
        if running.usage is not None:
            return running.usage
        texts = running.written.record.written if running.written else ()
        return billing.estimated_usage(running.claimed, texts) if texts else None

    async def _settle(self, claimed: Claimed, settlement: Settlement) -> None:
        """And where the task is queued again and this worker is to try it, see to that."""
        try:
            resolution = await self._settler.settle(settlement)
        except Exception:
            log.exception("answer not stored", extra={"task_id": str(claimed.id), "attempt": claimed.attempt})
            resolution = await self._settle_once_more(settlement)
        settled = resolution.settlement
        if not resolution.task:
            return
        if settled.reroute is not None:
            told = {"task_id": str(claimed.id), "from": claimed.route, "to": settled.reroute.route}
            log.info("task goes to a fallback", extra=told)
            claimed = replace(claimed, route=settled.reroute.route, lane=settled.reroute.lane)
        if settled.state is TaskState.QUEUED and settled.hinted:
            self._again(claimed, at=settled.not_before or datetime.now(UTC))

    async def _settle_once_more(self, settlement: Settlement) -> Resolution:
        """A good answer is not thrown away for one odd error."""
        await asyncio.sleep(AGAIN_AFTER_S)
        try:
            return await self._settler.settle(settlement)
        except Exception:
            log.exception(
                "answer not stored", extra={"task_id": str(settlement.task_id), "attempt": settlement.attempt}
            )
            return await self._settle_unstorable(outcomes.unstorable(settlement))

    async def _settle_unstorable(self, settlement: Settlement) -> Resolution:
        """However often it takes: what was paid must be counted, and while it is not, the task is held here."""
        wait_s = AGAIN_AFTER_S
        while True:
            try:
                return await self._settler.settle(settlement)
            except Exception:
                log.exception(
                    "not even its failure is stored",
                    extra={"task_id": str(settlement.task_id), "attempt": settlement.attempt, "again_after_s": wait_s},
                )
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, AGAIN_AT_MOST_S)


def _out_of_time(claimed: Claimed, error: UpstreamError) -> bool:
    """Its own deadline cut the call short: that says nothing of the upstream."""
    return error.kind == "timeout" and datetime.now(UTC) >= claimed.deadline - DEADLINE_MARGIN
