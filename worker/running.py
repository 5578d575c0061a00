"""A task in this worker's hands: how far its call is, and how it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from tollgate.domain.usage import TokenUsage
from tollgate.store.claims import Claimed
from worker.streams import Written


@dataclass(slots=True, kw_only=True)
class Running:
    """From its claim to its settlement."""

    claimed: Claimed
    worker_id: UUID
    """The registration it was claimed under."""
    task: asyncio.Task[None] | None = None
    holds_slot: bool = True
    calling: bool = False
    """Its call may be aborted; before and after, there is nothing to abort."""
    sent: bool = False
    """The call's first byte left: it may be billed."""
    polled: bool = False
    """It is asked by submit and poll."""
    credential: str | None = None
    """The name of the key that it is called with."""
    upstream_id: str | None = None
    """The upstream has the call under this id: whoever holds the task polls it."""
    written: Written | None = None
    """What its model has written so far, where it is streamed."""
    usage: TokenUsage | None = None
    """What it came to before it was stopped, where its upstream knows."""
    aborted: bool = False
    cancelled: bool = False
    """Aborted because its owner asked; otherwise it is given back."""

    def __post_init__(self) -> None:
        self.upstream_id = self.claimed.upstream_id

    @property
    def repeatable(self) -> bool:
        """Whether the same request_id may be sent once more: the upstream tells a repeat from a new call."""
        return self.polled and self.upstream_id is None

    def note_usage(self, usage: TokenUsage) -> None:
        self.usage = usage

    def abort(self, *, cancelled: bool = False) -> None:
        if not self.aborted:
            self.aborted, self.cancelled = True, cancelled
            if self.calling and self.task is not None:
                self.task.cancel()

    @contextlib.contextmanager
    def abortable(self) -> Iterator[None]:
        """What runs inside is stopped by `abort`, also by an earlier one."""
        if self.aborted:
            raise asyncio.CancelledError
        self.calling = True
        try:
            yield
        finally:
            self.calling = False
