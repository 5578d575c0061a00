"""The states of a task and of an attempt, and what clients are told of them."""

from __future__ import annotations

from enum import StrEnum


class TaskState(StrEnum):
    """`queued -> running -> succeeded | failed | cancelled | expired`, and `running -> queued`."""

    QUEUED = "queued"
    """Committed, not held by any worker: new, waiting for a retry, or given back."""
    RUNNING = "running"
    """Held by one worker under one lease (`fence`)."""
    SUCCEEDED = "succeeded"
    """Ended with a result."""
    FAILED = "failed"
    """Ended without one: the upstream refused for good, or the retries ran out."""
    CANCELLED = "cancelled"
    """Ended because its owner asked."""
    EXPIRED = "expired"
    """Ended because `expires_at` passed while it was queued."""

    @property
    def ended(self) -> bool:
        return self not in OPEN_STATES

    @property
    def status(self) -> str:
        """What ZhipuAI's wire calls it: PROCESSING, SUCCESS or FAIL."""
        if self in OPEN_STATES:
            return "PROCESSING"
        return "SUCCESS" if self is TaskState.SUCCEEDED else "FAIL"


OPEN_STATES = frozenset({TaskState.QUEUED, TaskState.RUNNING})
STATUSES = {
    "PROCESSING": OPEN_STATES,
    "SUCCESS": frozenset({TaskState.SUCCEEDED}),
    "FAIL": frozenset({TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED}),
}
"""Clients' word for it -> the states it covers."""


class AttemptOutcome(StrEnum):
    """How a purchase at an upstream stands."""

    OPEN = "open"
    """Not settled: about to be sent, sent, being polled, or refused for now and to be repeated."""
    SUCCEEDED = "succeeded"
    """Answered; its tokens and cost are the bill's."""
    FAILED = "failed"
    """The upstream answered that it will not; usually not billed."""
    UNCERTAIN = "uncertain"
    """Sent, and perhaps billed, but no usable answer came. `possible_cost` says how much it may be."""
    ABANDONED = "abandoned"
    """Closed before anything was bought: cancelled or expired between tries."""


class Priority(StrEnum):
    """Two classes of service. Bulk never takes the last tenth of a route's slots."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Role(StrEnum):
    """What a key may do: a user its project's work, an admin also keys, projects and every project's usage."""

    USER = "user"
    ADMIN = "admin"


class OnUncertain(StrEnum):
    """What follows an attempt that may have been billed without an answer."""

    RETRY = "retry"
    FAIL = "fail"
