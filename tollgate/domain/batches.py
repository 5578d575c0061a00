"""What a batch is: many prompts that are one piece of work, its states, and what it stands at. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from tollgate.domain.states import Priority


class BatchState(StrEnum):
    """`validating -> in_progress -> completed | expired`, `-> cancelling -> cancelled`, and `validating -> failed`.

    A pause is no state: it stands beside them."""

    VALIDATING = "validating"
    """Its lines are being read, checked and taken in; those that are in may run already, unless it is strict."""
    IN_PROGRESS = "in_progress"
    """All of its lines are tasks, or refused."""
    CANCELLING = "cancelling"
    """Its owner asked: nothing more is begun, and what is queued ends."""
    COMPLETED = "completed"
    """Every line has ended, well or not."""
    FAILED = "failed"
    """As a whole, and no line was run: its file cannot be used, or it is strict and a line is invalid."""
    EXPIRED = "expired"
    """Every line has ended, some because the window was over."""
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in OPEN_BATCH_STATES


OPEN_BATCH_STATES = frozenset({BatchState.VALIDATING, BatchState.IN_PROGRESS, BatchState.CANCELLING})


class Via(StrEnum):
    """How a batch's lines are bought."""

    DIRECT = "direct"
    """Each by a call of its own."""
    UPSTREAM_BATCH = "upstream_batch"
    """By the upstream's own batches, at half the price and in its time."""
    LOCAL = "local"
    """On this installation's own GPUs."""


class PauseCode(StrEnum):
    """Why no line of a batch is begun for now."""

    OWNER = "owner"
    MAX_COST = "max_cost"
    """One more line could pass the batch's own limit."""
    BUDGET = "budget"
    """One more could pass a budget of its project or key."""
    UNPRICED = "unpriced"
    """Money is limited, and nobody could say what a line costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a batch says of each of its lines."""

    batch_id: UUID
    priority: Priority
    via: Via
    expires_at: datetime
    """The end of its window: what is not done by then expires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Of one batch; the fields are the columns of `batch_sums`. Costs in nano-units, the engine's time in microseconds.

    Tasks are the lines that stand: one that was tried again is counted as what it is now. Attempts, tokens and costs
    are all that was bought."""

    tasks_succeeded: int = 0
    tasks_failed: int = 0
    """With those cancelled and expired."""
    attempts: int = 0
    attempts_failed: int = 0
    attempts_uncertain: int = 0
    attempts_unpriced: int = 0
    attempts_estimated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    engine_us: int = 0
    cost_nano: int = 0
    possible_cost_nano: int = 0
    tasks_cancelled: int = 0
    tasks_expired: int = 0

    @property
    def ended(self) -> int:
        return self.tasks_succeeded + self.tasks_failed


NO_SUMS = Sums()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """A row of `batches`, before it is committed."""

    id: UUID
    project_id: UUID
    key_id: str
    request_id: str | None
    digest: str
    endpoint: str
    name: str | None
    input_file_id: UUID
    input_bytes: int
    total: int
    """Lines of the input that are not blank."""
    delete_input: bool
    via: Via
    priority: Priority
    strict: bool
    defaults: str | None
    max_cost_nano: int | None
    metadata: str | None
    callback_url: str | None
    window_s: int
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch and what it has come to."""

    id: UUID
    project_id: UUID
    key_id: str
    request_id: str | None
    digest: str
    state: BatchState
    endpoint: str
    name: str | None
    input_file_id: UUID | None
    input_bytes: int
    delete_input: bool
    output_file_id: UUID | None
    error_file_id: UUID | None
    via: Via
    priority: Priority
    strict: bool
    defaults: str | None
    max_cost_nano: int | None
    metadata: str | None
    callback_url: str | None
    window_s: int
    total: int
    accepted: int
    invalid: int
    taken_bytes: int
    taken_lines: int
    taken_at: datetime | None
    paused_at: datetime | None
    paused_code: PauseCode | None
    paused_why: str | None
    error_code: str | None
    error_message: str | None
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None
    cancelling_at: datetime | None
    retry_asked_at: datetime | None
    ended_at: datetime | None
    sums: Sums = NO_SUMS
    running: int = 0
    """Lines that a worker holds."""

    @property
    def open(self) -> int:
        """Lines that have not ended, or are not taken in yet; of one that ended there are none."""
        return 0 if self.state.ended else max(0, self.total - self.invalid - self.sums.ended)
