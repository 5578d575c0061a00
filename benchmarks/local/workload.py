"""64 mixed requests, and the ways to answer them: one by one, in padded batches, in slots.

All are greedy, and none ends early: every way gives the same tokens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from worker.upstreams.local.engine import Engine
from worker.upstreams.local.requests import Ended, Event, Request, Sampling

COUNT = 64
PROMPT_TOKENS = (16, 256)
ANSWER_TOKENS = (8, 256)
CONTEXT_TOKENS = 512
FIRST_TOKEN = 20
"""Below it stand special tokens, in a model that means something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    ids: Sequence[int]
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """`cpu_s`: of the whole process."""

    answers: Sequence[Sequence[int]]
    cpu_s: float
    wall_s: float

    @property
    def per_cpu_s(self) -> float:
        """Tokens that were asked for: what a padded batch makes beyond is thrown away."""
        return sum(len(tokens) for tokens in self.answers) / self.cpu_s


def requests(vocabulary: int, *, count: int = COUNT) -> list[Asked]:
    generator = torch.Generator().manual_seed(0)

    def between(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (1,), generator=generator))

    lengths = [(between(*PROMPT_TOKENS), between(*ANSWER_TOKENS)) for _ in range(count)]
    return [
        Asked(ids=torch.randint(FIRST_TOKEN, vocabulary, (prompt,), generator=generator).tolist(), max_tokens=answer)
        for prompt, answer in lengths
    ]


def one_by_one(model: PreTrainedModel, asked: Sequence[Asked]) -> Course:
    """transformers' `generate`, a request at a time."""
    return _padded(model, asked, size=1)


def padded(model: PreTrainedModel, asked: Sequence[Asked], *, size: int) -> Course:
    """transformers' `generate` in batches of `size`, each as long as its longest answer."""
    return _padded(model, asked, size=size)


def slots(model: PreTrainedModel, asked: Sequence[Asked], *, count: int, prefill_tokens: int = 512) -> Course:
    """Our engine, all submitted at once."""
    told = _Told(len(asked))
    engine = Engine(
        model,
        slots=count,
        context_tokens=CONTEXT_TOKENS,
        ends=frozenset(),
        deliver=told.deliver,
        prefill_tokens=prefill_tokens,
    )
    made = [Request(ids=one.ids, max_tokens=one.max_tokens, sampling=Sampling(temperature=0)) for one in asked]
    engine.start()

    def run() -> list[list[int]]:
        for request in made:
            engine.submit(request)
        told.done.wait()
        return [told.tokens[request] for request in made]

    try:
        return _timed(run)
    finally:
        engine.stop(0)


class _Told:
    def __init__(self, count: int) -> None:
        self.tokens: dict[Request, list[int]] = {}
        self.done = threading.Event()
        self._left = count

    def deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Ended):
                self._left -= 1
            else:
                self.tokens.setdefault(event.request, []).extend(event.ids)
        if not self._left:
            self.done.set()


def _padded(model: PreTrainedModel, asked: Sequence[Asked], *, size: int) -> Course:
    model.set_attn_implementation("sdpa")
    batches = [asked[start : start + size] for start in range(0, len(asked), size)]
    return _timed(lambda: [tokens for batch in batches for tokens in _generate(model, batch)])


@torch.inference_mode()
def _generate(model: PreTrainedModel, batch: Sequence[Asked]) -> list[list[int]]:
    width, longest = max(len(one.ids) for one in batch), max(one.max_tokens for one in batch)
    padding = [width - len(one.ids) for one in batch]
    ids = torch.tensor([[0] * pad + list(one.ids) for pad, one in zip(padding, batch, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
    made = cast("Any", model).generate(
        ids, attention_mask=mask, max_new_tokens=longest, min_new_tokens=longest, do_sample=False
    )
    return [row[width : width + one.max_tokens].tolist() for row, one in zip(made, batch, strict=True)]


def _timed(run: Callable[[], list[list[int]]]) -> Course:
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    answers = run()
    return Course(answers=answers, cpu_s=time.process_time() - cpu_s, wall_s=time.perf_counter() - wall_s)
