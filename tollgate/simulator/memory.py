"""What the simulator remembers of calls: async tasks, request_ids and tries. All bounded; the oldest go first."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from tollgate.simulator.answers import Answer

TRIES_MAX = 100_000
"""Prompts with `[[fault:once:...]]` whose tries are counted."""


@dataclass(slots=True, kw_only=True)
class Task:
    """An async task. `result` is the finished body, SUCCESS or FAIL; None while it is PROCESSING."""

    identifier: str
    request_id: str
    key_id: str
    model: str
    asked_at_s: float
    """When it was last asked for, or made, on the monotonic clock."""
    result: bytes | None = None


class TaskBook:
    """Async tasks by id, and by the request_id that a client gave."""

    __slots__ = ("_by_request", "_tasks")

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, Task] = OrderedDict()
        self._by_request: dict[tuple[str, str], Task] = {}

    def add(self, task: Task, *, limit: int) -> None:
        """Keep `task`, and drop the oldest beyond `limit`."""
        self._tasks[task.identifier] = task
        self._by_request[task.key_id, task.request_id] = task
        while len(self._tasks) > limit:
            _, oldest = self._tasks.popitem(last=False)
            if self._by_request.get((oldest.key_id, oldest.request_id)) is oldest:
                del self._by_request[oldest.key_id, oldest.request_id]

    def find(self, identifier: str, *, key_id: str) -> Task | None:
        """The task, if it is this key's."""
        task = self._tasks.get(identifier)
        return task if task is not None and task.key_id == key_id else None

    def longest_unasked_s(self, now_s: float) -> float:
        """Of the tasks that run: how long ago the one least recently asked for was; 0 where none runs."""
        return max((now_s - task.asked_at_s for task in self._tasks.values() if task.result is None), default=0.0)

    def find_by_request(self, request_id: str, *, key_id: str) -> Task | None:
        """The latest task that this key submitted under `request_id`."""
        return self._by_request.get((key_id, request_id))


class AnswerBook:
    """Answers of direct calls by request_id; a future that is not done is a call that still runs."""

    __slots__ = ("_answers",)

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str], asyncio.Future[Answer]] = OrderedDict()

    def find(self, request_id: str, *, key_id: str) -> asyncio.Future[Answer] | None:
        """The answer to come, or that came, under this key's `request_id`."""
        return self._answers.get((key_id, request_id))

    def promise(self, request_id: str, *, key_id: str, limit: int) -> asyncio.Future[Answer]:
        """A place for an answer; the caller sets it, or cancels and forgets it."""
        future = asyncio.get_running_loop().create_future()
        self._answers[key_id, request_id] = future
        self._answers.move_to_end((key_id, request_id))
        while len(self._answers) > limit:
            self._answers.popitem(last=False)
        return future

    def forget(self, request_id: str, *, key_id: str) -> None:
        """Drop the place of an answer that never came."""
        self._answers.pop((key_id, request_id), None)


class TryBook:
    """How often each prompt with a counted fault was tried, by the call's digest."""

    __slots__ = ("_tries",)

    def __init__(self) -> None:
        self._tries: OrderedDict[str, int] = OrderedDict()

    def count(self, digest: str) -> int:
        """Count one more try; 1 for the first."""
        tries = self._tries[digest] = self._tries.get(digest, 0) + 1
        if len(self._tries) > TRIES_MAX:
            self._tries.popitem(last=False)
        return tries
