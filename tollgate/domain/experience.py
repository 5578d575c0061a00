"""What the past answers of a model say of the next: how long they are, how long they take, how far the estimate of a
prompt is off, and what they took of a local engine. Pure; `tollgate.store.measurements` reads them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

LOW, HIGH = 0.1, 0.9
"""Four of five answers lie between these quantiles."""


class Spread(NamedTuple):
    """A figure that is not known yet."""

    low: float
    likely: float
    high: float


NOTHING = Spread(0, 0, 0)
UNSEEN_PROMPT = Spread(0.7, 0.85, 1.0)
"""Of `estimate_prompt_tokens`, which leans high."""
UNSEEN_COMPLETION = Spread(1 / 16, 1 / 4, 1.0)
"""Of the most that a line may answer: most set it well above what comes."""


class Sample(NamedTuple):
    """One answer."""

    prompt_tokens: int
    prompt_tokens_estimate: int
    """Of `estimate_prompt_tokens`, before it was sent."""
    completion_tokens: int
    seconds: float
    """From its claim to its end."""
    engine_us: int = 0
    """Its share of a local engine's time; 0: not known, or not a local engine's."""


class Experience:
    """Of one model's newest answers in one project; there may be none."""

    def __init__(self, samples: Sequence[Sample], *, assumed_max_tokens: int) -> None:
        self.count = len(samples)
        self.assumed_max_tokens = assumed_max_tokens
        self._completions = sorted(sample.completion_tokens for sample in samples)
        self._sums = [0, *accumulate(self._completions)]
        self._known: dict[int | None, Spread] = {}
        self.prompt_ratio = _prompt_ratio(samples) if samples else UNSEEN_PROMPT
        """Real prompt tokens for each estimated one."""
        self.seconds = quantile(sorted(sample.seconds for sample in samples), 0.5) if samples else None
        """Median."""
        self.engine_us_per_token = _engine_us_per_token([sample for sample in samples if sample.engine_us])
        """Of a local engine, for prompt and completion tokens together; None: none of the answers is by one."""

    def completion(self, most: int | None) -> Spread:
        """Tokens of an answer that may have at most so many; None: as many as it likes.

        The likely figure is the mean, so that those of many lines add up: of answers that are mostly short and seldom
        long, the median would miss nearly all the tokens."""
        found = self._known.get(most)
        if found is None:
            found = self._known[most] = self._cut_at(most)
        return found

    def completion_quantile(self, q: float) -> int:
        """Of the answers as they came; there must be some."""
        return int(quantile(self._completions, q))

    def _cut_at(self, most: int | None) -> Spread:
        if not self.count:
            bound = self.assumed_max_tokens if most is None else most
            return Spread(*(max(1.0, bound * part) for part in UNSEEN_COMPLETION))
        bound = self._completions[-1] if most is None else most
        short = bisect_right(self._completions, bound)
        mean = (self._sums[short] + (self.count - short) * bound) / self.count
        low, high = (min(bound, quantile(self._completions, q)) for q in (LOW, HIGH))
        return Spread(min(low, mean), mean, max(high, mean))


def quantile(ordered: Sequence[float], q: float) -> float:
    """By the nearest rank; `ordered` must not be empty."""
    return ordered[round(q * (len(ordered) - 1))]


def _prompt_ratio(samples: Sequence[Sample]) -> Spread:
    return _ratio([(s.prompt_tokens, s.prompt_tokens_estimate) for s in samples])


def _engine_us_per_token(samples: Sequence[Sample]) -> Spread | None:
    return _ratio([(s.engine_us, s.prompt_tokens + s.completion_tokens) for s in samples]) if samples else None


def _ratio(parts: Sequence[tuple[int, int]]) -> Spread:
    """Of all together, and of one in ten to nine in ten."""
    ratios = sorted(one / max(1, other) for one, other in parts)
    mean = sum(one for one, _ in parts) / max(1, sum(other for _, other in parts))
    low, high = quantile(ratios, LOW), quantile(ratios, HIGH)
    return Spread(min(low, mean), mean, max(high, mean))
