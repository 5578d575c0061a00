"""Sends what is due: claim and commit, POST with no transaction open, write what came of it.

How many at once is `places`' to say, so that receivers that hang never hold up the others. What a courier that died
had in its hands is due again when its lease has passed, with the same id.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tollgate.coalescing import Coalescer
from tollgate.domain.keys import MasterKey
from tollgate.domain.webhook_retries import next_try
from tollgate.domain.webhooks import DeliveryState
from tollgate.store import sending, webhooks
from tollgate.store.database import Database
from tollgate.store.sending import Claimed, Tried
from worker.webhooks import messages
from worker.webhooks.places import Places
from worker.webhooks.post import Answer, Post

log = logging.getLogger("tollgate.webhooks")

EVERY_S = 1.0
"""From one look at what is due to the next, unless there is more to do."""
STOP_S = 3.0
"""Tries in flight may end so long when the process stops. Others come to them when their leases have passed."""
GONE = 410
"""Standard Webhooks: the receiver wants no more."""
DELIVERED_KEPT = timedelta(days=7)
"""Long enough to look into what a receiver says it never got."""
FAILED_KEPT = timedelta(days=30)
"""Somebody has to see them, and deliver again what is still wanted."""
FORGOTTEN_AT_ONCE = 1_000


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Courier:
    """Belongs to one event loop. Any number may run on one database."""

    def __init__(
        self,
        database: Database,
        *,
        masters: Sequence[MasterKey],
        post: Post,
        currency: str,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._database = database
        self._masters = {master.fingerprint: master for master in masters}
        self._first_master = masters[0].fingerprint
        self._post = post
        self._currency = currency
        self._now = now
        self._settler: Coalescer[tuple[Tried, Claimed], None] = Coalescer(self._write, max_weight=100)
        self._sending: set[asyncio.Task[None]] = set()
        self._places = Places()
        self._last_host = ""

    async def round(self) -> int:
        """Claim what is due, as far as there is room, and begin to send it. Returns how many."""
        claimed = await self._claim()
        if not claimed:
            return 0
        bodies = await messages.bodies(self._database, claimed, currency=self._currency)
        for one in claimed:
            self._places.take(one.host)
            task = asyncio.create_task(self._deliver(one, bodies.get(one.id)), name=f"delivery {one.id}")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        return len(claimed)

    async def rest(self, begun: int) -> None:
        """Between two rounds: while one brought work, until a try has ended and makes room for more."""
        if begun and self._sending:
            await asyncio.wait(self._sending, timeout=EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(EVERY_S)

    async def drain(self) -> None:
        """Return when nothing is on its way."""
        while self._sending:
            await asyncio.gather(*self._sending)

    async def stop(self) -> None:
        """What is on its way has a moment to arrive."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=STOP_S)
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._post.close()

    async def forget(self) -> int:
        """Remove what ended long ago, a little at a time. Returns how many rows."""
        forgotten = 0
        for state, kept in ((DeliveryState.DELIVERED, DELIVERED_KEPT), (DeliveryState.FAILED, FAILED_KEPT)):
            count = FORGOTTEN_AT_ONCE
            while count == FORGOTTEN_AT_ONCE:
                async with self._database.write() as connection:
                    count = await sending.forget(
                        connection, state, ended_before=self._now() - kept, limit=FORGOTTEN_AT_ONCE
                    )
                forgotten += count
        if forgotten:
            log.info("old deliveries removed", extra={"deliveries": forgotten})
        return forgotten

    async def _claim(self) -> list[Claimed]:
        if self._places.room(proven=True) <= 0:
            return []
        now = self._now()
        async with self._database.read() as connection:
            hosts = await sending.hosts_due(connection, now=now, after=self._last_host)
        if not hosts:
            return []
        self._last_host = hosts[-1]
        # By their names, those in front would have the few places each time.
        random.shuffle(hosts)
        claimed: list[Claimed] = []
        # Those first that may have half of the places: those that may have all would leave them none.
        for proven in (False, True):
            shares, room = self._places.shares(hosts, proven=proven), self._places.room(proven=proven) - len(claimed)
            if shares and room > 0:
                async with self._database.write() as connection:
                    claimed += await sending.claim(connection, shares, limit=room, now=now, master=self._first_master)
        return claimed

    async def _deliver(self, one: Claimed, body: str | None) -> None:
        try:
            answer = await self._send(one, body)
            tried = self._judge(one, answer, gone=body is None or one.gone is not None or answer.http_status == GONE)
            await self._settler.insist((tried, one), what="delivery")
        except Exception:  # the edge of a try: its lease passes, and it is tried again
            log.exception("a delivery broke", extra={"delivery_id": str(one.id)})
        finally:
            self._places.give_back(one.host)

    async def _send(self, one: Claimed, body: str | None) -> Answer:
        if one.gone is not None:
            return Answer(error=one.gone)
        if body is None:
            return Answer(error=f"task {one.task_id} is not there any more")
        headers = messages.headers(one, body, masters=self._masters, now=self._now())
        if headers is None:
            return Answer(
                error=f"its secret was made with the master key {one.master}, which TOLLGATE_MASTER_KEY does not list "
                "here: list it behind the new one, or make the webhook or the secret anew"
            )
        answer = await self._post.send(one.url, body=body, headers=headers)
        # A host with trouble of its own is as one that does not answer.
        self._places.learn(one.host, answers=answer.http_status is not None and answer.http_status < 500)
        return answer

    def _judge(self, one: Claimed, answer: Answer, *, gone: bool) -> Tried:
        now = self._now()
        tried = Tried(
            id=one.id,
            tries=one.tries,
            state=DeliveryState.DELIVERED,
            not_before=now,
            ended_at=now,
            http_status=answer.http_status,
            error=answer.error,
            response=answer.response,
        )
        if answer.error is None:
            return tried
        at = next_try(
            tries=one.round_tries,
            first_tried_at=one.first_tried_at,
            now=now,
            retry_after_s=answer.retry_after_s,
            jitter=random.random(),
        )
        if at is None or gone:
            log.warning("a delivery failed for good", extra={"delivery_id": str(one.id), "error": answer.error})
            return replace(tried, state=DeliveryState.FAILED)
        return replace(tried, state=DeliveryState.PENDING, not_before=at, ended_at=None)

    async def _write(self, tried: Sequence[tuple[Tried, Claimed]]) -> list[None]:
        async with self._database.write() as connection:
            await sending.settle(connection, [one for one, _ in tried])
            for one, claimed in tried:
                if one.http_status == GONE and claimed.webhook_id is not None:
                    why = "its receiver answered 410 Gone"
                    await webhooks.disable(connection, claimed.webhook_id, why=why, now=self._now())
        return [None] * len(tried)
