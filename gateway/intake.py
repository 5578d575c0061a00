"""Takes submissions in: admit, insert, commit, hand the hint to the publisher, answer.

Concurrent submissions share transactions: what arrived while the last commit ran goes into the next. Plain
tasks, of which each stands for itself, share statements of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from gateway import turns
from gateway.fleet import Fleet
from gateway.limiting import Meter
from gateway.prices import PriceBook
from tollgate.broker.publisher import Publisher
from tollgate.coalescing import Coalescer
from tollgate.domain.admission import Limits, admit, admitted
from tollgate.domain.errors import RequestError
from tollgate.domain.routing import Catalog
from tollgate.domain.states import Priority
from tollgate.domain.tasks import Accepted, Key, NewTask, TaskRequest
from tollgate.store import intake, new_tasks
from tollgate.store.database import Database
from tollgate.store.foresight import Foresight
from tollgate.store.intake import Outcome, Submission

MAX_TASKS_TOGETHER = 2_000
"""Rows in one transaction, unless one submission alone has more."""


class ListedRequestError(RequestError):
    """One request of a list is refused, and so the list: `index` says which, `error` why."""

    def __init__(self, index: int, error: RequestError) -> None:
        super().__init__(f"tasks.{index}: {error}")
        self.index = index
        self.error = error


class Intake:
    """Belongs to one event loop."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        catalog: Catalog,
        limits: Limits,
        prices: PriceBook,
        fleet: Fleet,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._catalog = catalog
        self._limits = limits
        self._prices = prices
        self._fleet = fleet
        self._foresight = Foresight()
        self._coalescer = Coalescer(self._write, max_weight=MAX_TASKS_TOGETHER, weigh=len)
        self._plain: Coalescer[NewTask, bool] = Coalescer(self._write_plain, max_weight=new_tasks.ROWS_AT_ONCE)

    async def submit_one(self, request: TaskRequest, *, key: Key, meter: Meter | None = None) -> Accepted:
        """Returns when it is committed. Without a `meter` it takes nothing of its key's limits per minute.

        Raises the RequestErrors of admission, RateLimitedError, BudgetExceededError, RequestIdConflictError;
        StoreUnavailableError."""
        (accepted,) = await self._submit(self._admit([request], key, datetime.now(UTC)), meter)
        return accepted

    async def submit_all(
        self, requests: Sequence[TaskRequest], *, key: Key, meter: Meter | None = None
    ) -> tuple[Accepted, ...]:
        """All of `requests` or none. As `submit_one`, but what admission refuses is a ListedRequestError.

        What a limit or a budget refuses blames none of them: it is all of them together that do not fit."""
        now = datetime.now(UTC)
        try:
            unserved = self._fleet.unserved(Priority.INTERACTIVE)
            rows = admitted(requests, key=key, catalog=self._catalog, now=now, limits=self._limits, unserved=unserved)
            submission = tuple([row async for _, row in turns.of(rows)])
        except RequestError:
            self._blame(requests, key, now)
            raise
        return await self._submit(submission, meter)

    async def drain(self) -> None:
        """Return when nothing is being written: a caller that was cancelled leaves its commit behind."""
        await self._plain.drain()
        await self._coalescer.drain()

    def _admit(self, requests: Sequence[TaskRequest], key: Key, now: datetime) -> Submission:
        unserved = self._fleet.unserved(Priority.INTERACTIVE)
        return admit(requests, key=key, catalog=self._catalog, now=now, limits=self._limits, unserved=unserved)

    def _blame(self, requests: Sequence[TaskRequest], key: Key, now: datetime) -> None:
        """Raise for the first request that is refused by itself too."""
        for index, request in enumerate(requests):
            try:
                self._admit([request], key, now)
            except RequestError as error:
                raise ListedRequestError(index, error) from None

    async def _submit(self, admitted: Submission, meter: Meter | None) -> tuple[Accepted, ...]:
        if meter is not None:
            await meter.take(admitted)
        outcome = await self._outcome(admitted)
        if meter is not None:
            meter.note(outcome)
        if isinstance(outcome, RequestError):
            try:
                raise outcome
            finally:
                del outcome  # it keeps this frame by its traceback: each would keep the other, and the prompts
        return outcome

    async def _outcome(self, submission: Submission) -> Outcome:
        if len(submission) == 1 and self._is_plain(submission[0]) and await self._plain.submit(submission[0]):
            return (Accepted(id=submission[0].id),)
        return await self._coalescer.submit(submission)

    def _is_plain(self, task: NewTask) -> bool:
        """To all that is known. On SQLite there is one way: a statement less saves no way there and back."""
        return self._database.dialect != "sqlite" and self._foresight.is_plain(task)

    async def _write_plain(self, new: Sequence[NewTask]) -> list[bool]:
        """Whether each was; of one that was not nothing is there: its request_id is taken, or a budget counts it."""
        async with self._database.write_once() as connection:
            inserted = await new_tasks.insert_plain(connection, new)
        self._announce(task for task in new if task.id in inserted)
        return [task.id in inserted for task in new]

    async def _write(self, submissions: Sequence[Submission]) -> list[Outcome]:
        outcomes = await intake.take_in(
            self._database, submissions, prices=self._prices.table, foresight=self._foresight
        )
        self._announce(
            task
            for submission, outcome in zip(submissions, outcomes, strict=True)
            if not isinstance(outcome, RequestError)
            for task, accepted in zip(submission, outcome, strict=True)
            if not accepted.duplicate
        )
        return outcomes

    def _announce(self, inserted: Iterable[NewTask]) -> None:
        told: dict[str, dict[str, list[UUID]]] = {}
        for task in inserted:
            if task.announced_at is not None:
                told.setdefault(task.lane, {}).setdefault(task.route, []).append(task.id)
        for lane, hints in told.items():
            self._publisher.announce(lane, hints)
