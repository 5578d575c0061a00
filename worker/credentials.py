"""Which credential a call is made with, and what its outcome says of it: paused, or working again.

Pauses are kept in the store, where every worker reads them with its heartbeat; there, too, the fleet takes turns to
try a paused one.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from tollgate.domain.errors import StoreUnavailableError
from tollgate.domain.states import TaskState
from tollgate.store import pauses
from tollgate.store.database import Database
from worker.outcomes import Outcome
from worker.pausing import PROBE_AFTER, Pauses

log = logging.getLogger("tollgate.credentials")


class Credentials:
    """Belongs to the engine's loop."""

    def __init__(self, database: Database, known: Pauses) -> None:
        self._database = database
        self._known = known

    async def choose(self, upstream: str) -> str | None:
        """The credential to call with: a paused one where it is this task's turn to try it, else the first that
        works. Never raises; without a store nobody takes a turn."""
        while (name := self._known.probe(upstream)) is not None:
            if await self._has_turn(upstream, name):
                log.info("upstream is tried again", extra={"upstream": upstream, "credential": name})
                return name
        return self._known.working(upstream)

    async def _has_turn(self, upstream: str, credential: str) -> bool:
        now = datetime.now(UTC)
        try:
            async with self._database.write() as connection:
                return await pauses.take_turn(
                    connection, upstream, credential=credential, now=now, until=now + PROBE_AFTER
                )
        except StoreUnavailableError as error:
            log.warning("no turn to try an upstream", extra={"upstream": upstream, "error": str(error)})
        except Exception:  # a task must not end for it: it can be called with another, or wait
            log.exception("no turn to try an upstream", extra={"upstream": upstream})
        return False

    async def may_try(self, upstream: str, credential: str) -> bool:
        """Whether to call with this very one: it is not paused, or it is the caller's turn to try it. Never raises."""
        if not self._known.paused(upstream, credential):
            return True
        return self._known.probe_due_of(upstream, credential) and await self._has_turn(upstream, credential)

    def working(self, upstream: str) -> str | None:
        """The first that is not paused."""
        return self._known.working(upstream)

    async def heed_seldom(self, upstream: str, credential: str, *, pause_reason: str | None = None) -> None:
        """Of a call that ran no task: it was refused for `pause_reason`, or it went well. Never raises."""
        await self._heed(upstream, credential, pause_reason=pause_reason, worked=pause_reason is None)

    async def heed(self, upstream: str, credential: str, outcome: Outcome) -> None:
        """Pause the credential that was refused; lift the pause that a success disproves. Never raises.

        The store's note of it can wait for the next probe; the answer at hand must not suffer for it."""
        worked = outcome.settlement.state is TaskState.SUCCEEDED
        await self._heed(upstream, credential, pause_reason=outcome.pause_reason, worked=worked)

    async def _heed(self, upstream: str, credential: str, *, pause_reason: str | None, worked: bool) -> None:
        try:
            if pause_reason is not None:
                await self._pause(upstream, credential, reason=pause_reason)
            elif worked and self._known.lift(upstream, credential):
                await self._lift(upstream, credential)
        except StoreUnavailableError as error:
            log.warning("pause not noted", extra={"upstream": upstream, "error": str(error)})
        except Exception:
            log.exception("pause not noted", extra={"upstream": upstream})

    async def _pause(self, upstream: str, credential: str, *, reason: str) -> None:
        log.error("upstream paused", extra={"upstream": upstream, "credential": credential, "reason": reason})
        until = self._known.pause(upstream, credential)
        async with self._database.write() as connection:
            await pauses.pause(
                connection, upstream, credential=credential, reason=reason, now=datetime.now(UTC), until=until
            )

    async def _lift(self, upstream: str, credential: str) -> None:
        log.info("upstream works again", extra={"upstream": upstream, "credential": credential})
        async with self._database.write() as connection:
            await pauses.lift(connection, upstream, credential=credential)
