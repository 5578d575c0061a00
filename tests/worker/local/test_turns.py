"""A long prompt stalls nobody, and a short one does not wait for it. Counted in passes, not in seconds."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from tests.worker.local import answers, faulty, models
from worker.upstreams.local.requests import Request

BUDGET = 32
WAYS: tuple[dict[str, Any], ...] = ({}, {"ahead": 1})


def endless(length: int, max_tokens: int = 60, **given: Any) -> Request:
    return Request(ids=[30] * length, max_tokens=max_tokens, ends=frozenset(), **given)


class Passes:
    """What went through the model, pass by pass: tokens of prompts, or 0 for a step of rows."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def look(self, ids: Tensor) -> None:
        rows, new = ids.shape
        self.seen.append(0 if new == 1 and rows > 1 else new)

    def between_steps(self) -> list[int]:
        """Tokens of prompts between two steps of rows."""
        sums = [0]
        for new in self.seen:
            sums = [*sums, 0] if new == 0 else [*sums[:-1], sums[-1] + new]
        return sums


@pytest.mark.parametrize("way", WAYS, ids=("as it comes", "ahead"))
def test_running_rows_wait_for_no_more_than_a_chunk(way: dict[str, Any]) -> None:
    passes, told = Passes(), answers.Answers()
    model = faulty.watched(models.model(), passes.look)
    running = [endless(2) for _ in range(3)]
    late = [endless(1000, 3), endless(3, 3), endless(200, 3), endless(40, 3), endless(31, 3)]
    given = {"slots": 8, "prefill_tokens": BUDGET, "context_tokens": 2048} | way
    with answers.running(model, answers=told, **given) as (engine, _):

        def join(request: Request) -> None:
            if request is running[0] and len(told.tokens[request]) == 3:
                passes.seen.clear()
                for one in late:
                    engine.submit(one)

        told.after = join
        for request in running:
            engine.submit(request)
        told.wait([*running, *late])
    assert sum(passes.between_steps()) >= 1000
    assert max(passes.between_steps()) == BUDGET


@pytest.mark.parametrize("way", WAYS, ids=("as it comes", "ahead"))
def test_a_short_prompt_has_its_first_token_in_the_step_after_it_came(way: dict[str, Any]) -> None:
    passes, told = Passes(), answers.Answers()
    model = faulty.watched(models.model(), passes.look)
    running, long, short = [endless(2), endless(2)], endless(1500, 3), endless(8, 3)
    seen: list[int] = []
    given = {"slots": 8, "prefill_tokens": BUDGET, "context_tokens": 2048} | way
    with answers.running(model, answers=told, **given) as (engine, _):

        def follow(request: Request) -> None:
            count = len(told.tokens[running[0]])
            if request is running[0] and count == 3:
                engine.submit(long)
            if request is running[0] and count == 8:
                engine.submit(short)
                passes.seen.clear()
            if request is short and not seen:
                seen.extend(passes.seen)

        told.after = follow
        for request in running:
            engine.submit(request)
        told.wait([*running, long, short])
    # A pass ahead: a step was launched before the short one was known, and one is before its token is read.
    assert seen.count(0) <= (2 if way else 0)
    assert sum(seen) <= (2 * BUDGET if way else 8)


def test_the_urgent_begin_first() -> None:
    told = answers.Answers()
    with answers.running(models.model(), answers=told, slots=1) as (engine, _):
        first = endless(2, 30)
        engine.submit(first)
        told.wait_for(lambda: first in told.tokens)
        bulk, urgent = [endless(2, 2) for _ in range(2)], [endless(2, 2, urgent=True) for _ in range(2)]
        for request in (*bulk, *urgent):
            engine.submit(request)
        told.wait([first, *bulk, *urgent])
    assert list(told.ended) == [first, *urgent, *bulk]
