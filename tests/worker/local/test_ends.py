"""Cancel, deadline, drain and stop; usage and shares of time are exact in each."""

from __future__ import annotations

import math
import time

import pytest
from torch import Tensor

from tests.worker.local import answers, faulty, models
from worker.upstreams.local.engine import Engine, EngineState, EngineStopped
from worker.upstreams.local.requests import EndReason, Request

PAST_S = -1.0
"""Long ago, on the monotonic clock."""


def endless(length: int = 10, max_tokens: int = 1000) -> Request:
    return Request(ids=[30] * length, max_tokens=max_tokens, ends=frozenset())


def test_a_cancelled_request_ends_before_the_next_step_and_its_neighbour_goes_on() -> None:
    with answers.running(models.model(), context_tokens=2048) as (engine, told):
        one, other = endless(), endless()
        told.after = lambda _: engine.cancel(one) if len(told.tokens[one]) == 7 else None
        engine.submit(one)
        engine.submit(other)
        told.wait([one])
        assert told.ended[one].reason is EndReason.CANCELLED
        assert told.ended[one].completion_tokens == len(told.tokens[one]) == 7
        told.after = lambda _: None
        engine.cancel(other)
        engine.cancel(one)
        told.wait([other])


@pytest.mark.parametrize("how", [EndReason.CANCELLED, EndReason.DEADLINE])
def test_who_waits_or_is_prefilled_ends_too(how: EndReason) -> None:
    with answers.running(models.model(), slots=2, prefill_tokens=16, context_tokens=2048) as (engine, told):
        running, prefilled, waiting = endless(), endless(1000), endless()

        def end(request: Request) -> None:
            if len(told.tokens[request]) == 3:
                for one in (prefilled, waiting):
                    one.deadline_s = PAST_S if how is EndReason.DEADLINE else None
                    one.cancelled = how is EndReason.CANCELLED

        told.after = end
        for request in (running, prefilled, waiting):
            engine.submit(request)
        told.wait([prefilled, waiting])
        assert told.reasons([prefilled, waiting]) == [how, how]
        assert 0 < told.ended[prefilled].prompt_tokens < 1000
        assert (told.ended[waiting].prompt_tokens, told.ended[waiting].engine_s) == (0, 0.0)


def test_a_deadline_ends_a_row_while_it_decodes() -> None:
    with answers.running(models.model(), context_tokens=2048) as (engine, told):
        request = endless()
        request.deadline_s = time.monotonic() + 0.2
        engine.submit(request)
        told.wait([request])
        assert told.ended[request].reason is EndReason.DEADLINE
        assert told.ended[request].completion_tokens == len(told.tokens.get(request, []))


def test_a_drain_lets_all_that_was_taken_end() -> None:
    with answers.running(models.model(), slots=2) as (engine, told):
        requests = [endless(max_tokens=50) for _ in range(5)]
        for request in requests:
            engine.submit(request)
        engine.stop(answers.LIMIT_S)
        assert told.reasons(requests) == [EndReason.LENGTH] * 5
        assert engine.state is EngineState.STOPPED


def test_what_a_drain_has_no_time_for_may_be_tried_elsewhere() -> None:
    with answers.running(models.model(), slots=1, context_tokens=2048) as (engine, told):
        running, waiting = endless(), endless()
        engine.submit(running)
        engine.submit(waiting)
        told.wait_for(lambda: running in told.tokens)
        engine.stop(0)
        assert told.reasons([running, waiting]) == [EndReason.DEVICE] * 2
        assert told.ended[running].completion_tokens == len(told.tokens[running])
        with pytest.raises(EngineStopped):
            engine.submit(endless())


def test_the_shares_of_time_add_up_to_what_the_engine_worked() -> None:
    model = faulty.poisoned(models.model())
    with answers.running(model, slots=3) as (engine, told):
        requests = [endless(5 + 17 * n, max_tokens=1 + 9 * n) for n in range(8)]
        bad, gone = Request(ids=[faulty.POISON] * 9, max_tokens=5), endless(max_tokens=100)
        told.after = lambda request: engine.cancel(gone) if request is gone else None
        for request in (*requests[:4], bad, gone, *requests[4:]):
            engine.submit(request)
        told.wait([*requests, bad, gone])
        engine.stop(0)
        shares = [ended.engine_s for ended in told.ended.values()]
        assert min(shares) > 0
        assert math.isclose(sum(shares), engine.stats().worked_s, rel_tol=1e-9)


def test_a_pass_is_shared_by_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock by which each pass takes one second; a real one says nothing exact."""
    ticks = iter(range(1000))
    monkeypatch.setattr("worker.upstreams.local.stepper.time.perf_counter", lambda: float(next(ticks)))
    told = answers.Answers()
    with answers.running(models.model(), answers=told, prefill_tokens=40) as (engine, _):
        first, second, third = endless(10, max_tokens=4), endless(10, max_tokens=2), endless(30, max_tokens=1)

        def join(_: Request) -> None:
            told.after = lambda _: None
            engine.submit(second)
            engine.submit(third)

        told.after = join
        engine.submit(first)
        told.wait([first, second, third])
    # first: its prompt, a step alone, one with second, one alone. second and third: 10 and 30 of a pass of 40 tokens.
    assert [told.ended[request].engine_s for request in (first, second, third)] == [3.5, 0.75, 0.75]


def test_a_pass_that_fails_is_paid_by_those_it_was_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that counts passes."""
    passes: list[Tensor] = []
    model = faulty.mined(faulty.watched(models.model(), passes.append), ValueError("no such thing"))
    monkeypatch.setattr("worker.upstreams.local.stepper.time.perf_counter", lambda: float(len(passes)))
    first, good, bad = endless(max_tokens=8), endless(max_tokens=3), Request(ids=[*[30] * 9, faulty.BOMB], max_tokens=8)
    told = answers.Answers()
    with answers.running(model, answers=told) as (engine, _):
        passes.clear()  # one measured the cache

        def join(_: Request) -> None:
            told.after = lambda _: None
            engine.submit(good)
            engine.submit(bad)

        told.after = join
        engine.submit(first)
        told.wait([first, good, bad])
        engine.stop(0)
        assert sum(ended.engine_s for ended in told.ended.values()) == engine.stats().worked_s == len(passes)
    # Half of the pass that failed for both, and the one that failed for it alone.
    assert told.ended[bad].engine_s == 1.5


def test_the_first_request_pays_for_no_time_before_the_engine_began() -> None:
    """It may be there before the engine's thread looks for the first time."""
    told, began_s = answers.Answers(), time.perf_counter()
    engine = Engine(models.model(), deliver=told.deliver, slots=1, context_tokens=64, ends=answers.ENDS)
    request = endless(max_tokens=3)
    with engine._changed:  # the thread waits for it
        engine.start()
        engine.submit(request)
    told.wait([request])
    engine.stop(0)
    assert told.ended[request].engine_s < time.perf_counter() - began_s
