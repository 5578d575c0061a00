"""What the engine is asked, and what it tells: token ids only. No torch, no text.

A request is made by whoever wants tokens; from its submission until its `Ended` it is the engine's. What comes of it is
told in events, all of one step together, in the engine's thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

_numbers = itertools.count(1)


class EndReason(StrEnum):
    STOP = "stop"
    """A token that ends an answer was sampled."""
    LENGTH = "length"
    """`max_tokens` were sampled."""
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    FAULT = "fault"
    """Of this request alone: logits that are no numbers, a prefill without memory for it."""
    DEVICE = "device"
    """Of the device or the engine: whatever was in flight ends, and may be tried again elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Raises nothing: `Engine.submit` checks."""

    temperature: float = 1.0
    """0: the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all of the vocabulary."""
    seed: int | None = None
    """The same prompt, parameters and seed give the same tokens, whatever else runs; None: by chance."""


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One prompt, as token ids."""

    ids: Sequence[int]
    max_tokens: int
    sampling: Sampling = Sampling()
    ends: frozenset[int] | None = None
    """Tokens that end the answer; None: the model's own."""
    deadline_s: float | None = None
    """On the monotonic clock."""
    urgent: bool = False
    """Begins before those that are not."""
    number: int = field(default_factory=lambda: next(_numbers), init=False)
    cancelled: bool = field(default=False, init=False)
    """Set by `Engine.cancel`; read between two steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The next of an answer, in their order; a token that ends it is among them, as it is among those counted."""

    request: Request
    ids: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last event of a request, after all its `Tokens`."""

    request: Request
    reason: EndReason
    prompt_tokens: int
    """That came into the cache: the whole prompt's, unless it ended before its first token."""
    completion_tokens: int
    """Sampled for it, one that ends the answer included."""
    engine_s: float
    """Its share of the engine's time: of each pass over prompts by their tokens in it, of each decoding step by its
    rows. The shares of all requests add up to the time that the engine worked."""
    error: str | None = None
    """What happened, where `reason` is a fault or the device's."""


Event = Tokens | Ended
