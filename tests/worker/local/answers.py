"""An engine on a tiny model, and what it told of each request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from worker.upstreams.local.engine import Engine
from worker.upstreams.local.requests import Ended, EndReason, Event, Request, Sampling

LIMIT_S = 60.0
ENDS = frozenset({0, 1, 2})
"""Of `models.model`."""
GREEDY = Sampling(temperature=0)


class Answers:
    """Tokens and ends by request, in the order they were told."""

    def __init__(self) -> None:
        self.tokens: dict[Request, list[int]] = {}
        self.ended: dict[Request, Ended] = {}
        self.deliveries: list[Sequence[Event]] = []
        self.after: Callable[[Request], None] = lambda _: None
        """Called in the engine's thread with each request that was told tokens."""
        self._changed = threading.Condition()

    def deliver(self, events: Sequence[Event]) -> None:
        with self._changed:
            self.deliveries.append(events)
            for event in events:
                assert event.request not in self.ended, "Ended is the last event"
                if isinstance(event, Ended):
                    self.ended[event.request] = event
                else:
                    self.tokens.setdefault(event.request, []).extend(event.ids)
            self._changed.notify_all()
        for event in events:
            if not isinstance(event, Ended):
                self.after(event.request)

    def wait(self, requests: Iterable[Request]) -> None:
        """Until all have ended."""
        asked = list(requests)
        self.wait_for(lambda: all(request in self.ended for request in asked))

    def wait_for(self, holds: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(holds, LIMIT_S), "the engine told nothing more"

    def reasons(self, requests: Iterable[Request]) -> list[EndReason]:
        return [self.ended[request].reason for request in requests]


@contextmanager
def running(
    model: PreTrainedModel, *, answers: Answers | None = None, **changed: Any
) -> Iterator[tuple[Engine, Answers]]:
    answers = answers or Answers()
    given: dict[str, Any] = {"slots": 4, "context_tokens": 256, "ends": ENDS, "prefill_tokens": 64} | changed
    engine = Engine(model, deliver=answers.deliver, **given)
    engine.start()
    try:
        yield engine, answers
    finally:
        engine.stop(0)


def run(model: PreTrainedModel, requests: Sequence[Request], **changed: Any) -> Answers:
    """All submitted between two steps: who shares a pass with whom is always the same."""
    first = Request(ids=[30], max_tokens=1)
    with running(model, **changed) as (engine, answers):

        def submit_all(_: Request) -> None:
            answers.after = lambda _: None
            for request in requests:
                engine.submit(request)

        answers.after = submit_all
        engine.submit(first)
        answers.wait([first, *requests])
    return answers


def prompts(lengths: Sequence[int], *, seed: int = 1, vocabulary: int = 800) -> list[list[int]]:
    """Random, without the tokens that end an answer."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(20, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def generate(model: PreTrainedModel, ids: Sequence[int], max_tokens: int) -> list[int]:
    """What transformers itself answers, one prompt at a time, greedily, with its own attention."""
    model.set_attn_implementation("sdpa")
    prompt = torch.tensor([list(ids)])
    with torch.inference_mode():
        answer = cast("Any", model).generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_tokens, do_sample=False
        )
    tokens: list[int] = answer[0, len(ids) :].tolist()
    return tokens
