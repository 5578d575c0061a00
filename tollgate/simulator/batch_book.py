"""Batches: what is known of each, and how it is shown."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tollgate.simulator.batch_settings import Batches
from tollgate.simulator.stored_files import StoredFile

BATCHES_MAX = 1_000
"""Batches that are remembered; the oldest go first."""
WINDOW = "24h"


class Status(StrEnum):
    """As ZhipuAI's documentation has them."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


STOPPABLE = frozenset({Status.VALIDATING, Status.IN_PROGRESS})
"""From finalizing on, a cancel changes nothing."""


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """One batch. `behaviour` are the settings of its creation; changes since then do not reach it."""

    identifier: str
    key_id: str
    endpoint: str
    input: StoredFile
    deletes_input: bool
    metadata: Mapping[str, str] | None
    behaviour: Batches
    created: float = field(default_factory=time.time)
    status: Status = Status.VALIDATING
    times: dict[str, float] = field(default_factory=dict)
    """`in_progress_at` and its like, in unix seconds."""
    total: int = 0
    completed: int = 0
    failed: int = 0
    errors: list[dict[str, object]] = field(default_factory=list)
    """What validation found."""
    output: StoredFile | None = None
    error: StoredFile | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a cancel."""

    def enter(self, status: Status) -> None:
        """The next status, with its time."""
        self.status = status
        self.times[f"{status}_at"] = time.time()

    def as_json(self) -> dict[str, object]:
        """The batch object of the wire, in the form that the settings ask for."""
        body: dict[str, object] = {
            "id": self.identifier,
            "object": "batch",
            "endpoint": self.endpoint,
            "input_file_id": self.input.identifier,
            "completion_window": WINDOW,
            "status": str(self.status),
            "output_file_id": self._file_id(self.output),
            "error_file_id": self._file_id(self.error),
            "created_at": self._time(self.created),
            "expires_at": self._time(self.created + self.behaviour.window_s),
            "metadata": self.metadata,
        }
        body |= {name: self._time(moment) for name, moment in self.times.items()}
        if self.errors:
            body["errors"] = {"object": "list", "data": self.errors}
        return body | self._counts()

    def _file_id(self, file: StoredFile | None) -> str | None:
        if file is not None:
            return file.identifier
        return "" if self.behaviour.no_file == "empty" else None

    def _time(self, moment: float) -> int:
        return int(moment * 1000) if self.behaviour.times == "milliseconds" else int(moment)

    def _counts(self) -> dict[str, object]:
        counts: dict[str, object] = {"total": self.total, "completed": self.completed, "failed": self.failed}
        if self.behaviour.counts == "integer":
            return {"request_counts": self.total, **counts}  # as an example in ZhipuAI's documentation has it
        return {"request_counts": None if self.behaviour.counts == "null" else counts}


class BatchBook:
    """Batches by id, and the asyncio tasks that move them."""

    __slots__ = ("_batches", "_lives")

    def __init__(self) -> None:
        self._batches: OrderedDict[str, Batch] = OrderedDict()
        self._lives: set[asyncio.Task[None]] = set()

    def add(self, batch: Batch, *, life: asyncio.Task[None]) -> None:
        """Keep `batch`, and drop the oldest beyond BATCHES_MAX; their lives go on."""
        self._batches[batch.identifier] = batch
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        while len(self._batches) > BATCHES_MAX:
            self._batches.popitem(last=False)

    def find(self, identifier: str, *, key_id: str) -> Batch | None:
        """The batch, if it is this key's."""
        batch = self._batches.get(identifier)
        return batch if batch is not None and batch.key_id == key_id else None

    def newest(self, *, key_id: str) -> list[Batch]:
        """This key's batches, the newest first."""
        return [batch for batch in reversed(self._batches.values()) if batch.key_id == key_id]

    async def close(self) -> None:
        """End every life, wherever it stands."""
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)
