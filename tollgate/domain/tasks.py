"""What a task is on its way in: the request a dialect made of a body, and the row that admission made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from tollgate.domain.rates import NO_LIMITS, KeyLimits
from tollgate.domain.routing import Mode
from tollgate.domain.states import OnUncertain, Priority, Role, TaskState
from tollgate.domain.values import value


@value
class TaskRequest:
    """One prompt to run, as every dialect says it. Times are aware UTC."""

    model: str
    body: Mapping[str, Any]
    """What the upstream is sent, without nulls and without the gateway's own fields. Keeps `model`."""
    endpoint: str = "chat"
    request_id: str | None = None
    """The client's idempotency key, unique in its project."""
    custom_id: str | None = None
    label: str | None = None
    metadata: Mapping[str, Any] | None = None
    priority: Priority | None = None
    """None: interactive for a single submit, bulk in a list over `domain.admission.BULK_OVER`."""
    run_after: datetime | None = None
    expires_at: datetime | None = None
    on_uncertain: OnUncertain | None = None
    mode: Mode | None = None
    """How its upstream is asked; None: as its route says."""
    stream: bool = False
    """Its answer is told as it is written. Then its upstream is always called directly."""
    retry_for_s: float | None = None
    """No retry starts later than this after submission; None: until the task's deadline."""
    callback_url: str | None = None
    """Told of the task's end, by a webhook."""
    timeout_s: float | None = None
    """Without `expires_at`, the task ends this long after its start; None: the installation's limit."""

    @property
    def digest(self) -> str:
        """SHA-256 of what the client asked for: not how it waits for the answer, nor the gateway's own limits."""
        content = (
            self.endpoint,
            self.model,
            self.body,
            self.custom_id,
            self.label,
            self.metadata,
            self.priority,
            self.run_after,
            self.expires_at,
            self.on_uncertain,
            *((self.mode,) if self.mode else ()),
        )
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key as authenticated. Holds no secret."""

    id: str
    project_id: UUID
    project: str
    name: str
    role: Role
    models: frozenset[str] | None = None
    """The models it may use; None: all."""
    may_interactive: bool = True
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    limits: KeyLimits = NO_LIMITS

    def may_use(self, *names: str) -> bool:
        """Whether it may use the model of these names."""
        return self.models is None or not self.models.isdisjoint(names)


@value
class NewTask:
    """A row of `tasks` with its `task_requests`, before it is committed."""

    id: UUID
    project_id: UUID
    key_id: str
    custom_id: str | None
    request_id: str | None
    digest: str
    label: str | None
    endpoint: str
    model: str
    route: str
    lane: str
    mode: Mode
    streamed: bool
    feed: UUID
    """What it is fed with: its batch, else its project. Feeds take turns."""
    not_before: datetime
    deadline: datetime
    retry_until: datetime
    on_uncertain: OnUncertain
    prompt_tokens_estimate: int
    max_tokens: int | None
    created_at: datetime
    announced_at: datetime | None
    """When its hint was handed to the publisher; None: the announcer feeds it."""
    callback_url: str | None
    assumed_max_tokens: int
    """Completion tokens that are counted on where `max_tokens` is None."""
    body: str
    metadata: str | None
    batch_id: UUID | None = None
    line: int | None = None
    """Of its batch's input, from 1."""

    @property
    def most_completion_tokens(self) -> int:
        return self.assumed_max_tokens if self.max_tokens is None else self.max_tokens

    @property
    def most_tokens(self) -> int:
        """Of one purchase."""
        return self.prompt_tokens_estimate + self.most_completion_tokens


@value
class Accepted:
    """What a submission got for one of its requests, in the order of the requests."""

    id: UUID
    state: TaskState = TaskState.QUEUED
    duplicate: bool = False
    """The request_id was known with the same body: this is the task it made then."""
    in_flight_left: int | None = None
    """How many more tasks its key may have in flight, after the whole submission; None: as many as it likes, or
    nothing was asked."""
