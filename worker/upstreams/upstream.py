"""What the worker asks of an upstream, and gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tollgate.domain.record import Record
from tollgate.domain.usage import TokenUsage
from tollgate.domain.values import value


def _unheard(_usage: TokenUsage) -> None:
    """Nobody asked."""


class Writer(Protocol):
    """Takes what a model writes."""

    @property
    def record(self) -> Record:
        """All of it so far."""

    def add(self, delta: Mapping[str, Any]) -> None: ...


@value
class Call:
    """One try of one attempt. `body` is JSON text as the client sent it; `model` the upstream's own name."""

    endpoint: str
    model: str
    body: str
    request_id: str
    """Ours: task and attempt. The same when an attempt is repeated."""
    credential: str
    """The name of the credential to use; "" for an upstream without any."""
    timeout_s: float
    on_sent: Callable[[], None]
    """Called just before the first byte leaves: from then on the call may be billed. May raise UpstreamError, and
    then nothing is sent."""
    writer: Writer | None = None
    """The answer is asked for as a stream, and its message written here, delta by delta."""
    urgent: bool = False
    """Somebody waits for it: where there is a queue, it begins before those that are not."""
    note_usage: Callable[[TokenUsage], None] = _unheard
    """Told what a call came to that is stopped before its end, where the upstream knows."""


@value
class Answer:
    """A complete answer. `body` is the upstream's JSON text, `usage` None where it told none."""

    body: str
    usage: TokenUsage | None
    http_status: int
    upstream_id: str | None
    finish_reason: str | None = None
    texts: tuple[str, ...] = ()
    """What the model wrote, where usage is None: to be estimated by."""


class Upstream(Protocol):
    """A place where prompts run. Belongs to one event loop."""

    async def call(self, call: Call) -> Answer:
        """Run one call. Raises UpstreamError for anything that is not an answer, and nothing else."""

    async def close(self) -> None: ...
