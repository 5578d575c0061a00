"""A price by the second of a local engine's time: what one's own GPU costs while it works. Nothing is rounded here.

A request pays for its own share of the time (`TokenUsage.engine_us`). Before it ran, and where its time is not known,
the share is reckoned from its tokens and from what the engine makes a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

SECOND_US = 1_000_000
ALONE = 10
"""A busy engine makes about so many times what it makes for one request alone: each step reads all of the model's
weights, for one row as for many. Measured: 5 times on a CPU at 32 rows. Reckoned for a GPU: up to 50 times at 64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRate:
    """What a second costs, and how many tokens it yields.

    Raises ValueError for a negative cost, or unless 1 <= alone_tokens_per_second <= tokens_per_second.
    """

    second_nano: int
    """Nano-units per second of the engine's time."""
    tokens_per_second: int
    """Of the busy engine, over all its requests: prompts and answers together."""
    alone_tokens_per_second: int
    """Of an answer that nothing else runs beside: the fewest that a second yields."""

    def __post_init__(self) -> None:
        if self.second_nano < 0:
            raise ValueError("second_nano must not be negative")
        if not 1 <= self.alone_tokens_per_second <= self.tokens_per_second:
            raise ValueError("rates must satisfy 1 <= alone_tokens_per_second <= tokens_per_second")

    def cost_nano(self, seconds: Fraction) -> Fraction:
        """Of so many seconds of the engine."""
        return seconds * self.second_nano

    def busy_s(self, tokens: int) -> Fraction:
        """The share of a request with so many tokens, on a busy engine."""
        return Fraction(tokens, self.tokens_per_second)

    def most_s(self, *, prompt_tokens: int, completion_tokens: int) -> Fraction:
        """The share of one that runs alone. Prompts are read at once, as fast alone as in company."""
        return self.busy_s(prompt_tokens) + Fraction(completion_tokens, self.alone_tokens_per_second)


def seconds(engine_us: int) -> Fraction:
    """Of microseconds, as a usage has them."""
    return Fraction(engine_us, SECOND_US)
