"""Takes submissions in: admit, insert, commit, hand the hint to the publisher, answer.

Concurrent submissions share transactions: what arrived while the last commit ran goes into the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from tollgate.broker.publisher import Publisher
from tollgate.coalescing import Coalescer
from tollgate.domain.admission import Limits, admit
from tollgate.domain.errors import RequestError
from tollgate.domain.routing import Catalog
from tollgate.domain.tasks import Accepted, Key, TaskRequest
from tollgate.store import intake
from tollgate.store.database import Database
from tollgate.store.intake import Outcome, Submission

MAX_TASKS_TOGETHER = 2_000
"""Rows in one transaction, unless one submission alone has more."""


class Intake:
    """Belongs to one event loop."""

    def __init__(self, database: Database, publisher: Publisher, *, catalog: Catalog, limits: Limits) -> None:
        self._database = database
        self._publisher = publisher
        self._catalog = catalog
        self._limits = limits
        self._coalescer = Coalescer(self._write, max_weight=MAX_TASKS_TOGETHER, weigh=len)

    async def submit(self, requests: Sequence[TaskRequest], *, key: Key) -> tuple[Accepted, ...]:
        """All of `requests` or none; returns when they are committed.

        Raises the RequestErrors of admission and RequestIdConflictError; StoreUnavailableError."""
        admitted = admit(requests, key=key, catalog=self._catalog, now=datetime.now(UTC), limits=self._limits)
        outcome = await self._coalescer.submit(admitted)
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    async def _write(self, submissions: Sequence[Submission]) -> list[Outcome]:
        async with self._database.write() as connection:
            outcomes = await intake.submit(connection, submissions)
        self._announce(submissions, outcomes)
        return outcomes

    def _announce(self, submissions: Sequence[Submission], outcomes: Sequence[Outcome]) -> None:
        told: dict[str, dict[str, list[UUID]]] = {}
        for submission, outcome in zip(submissions, outcomes, strict=True):
            if isinstance(outcome, RequestError):
                continue
            for task, accepted in zip(submission, outcome, strict=True):
                if task.announced_at is not None and not accepted.duplicate:
                    told.setdefault(task.lane, {}).setdefault(task.route, []).append(task.id)
        for lane, hints in told.items():
            self._publisher.announce(lane, hints)
