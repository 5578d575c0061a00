"""Five hundred requests of all kinds, many of them cancelled at random: nothing is lost, nothing is left behind."""

from __future__ import annotations

import gc
import math
import random
from typing import Any

import pytest

from tests.worker.local import answers, faulty, models
from worker.upstreams.local.requests import EndReason, Request, Sampling


def asked(chance: random.Random) -> Request:
    kind = chance.random()
    ids = [chance.randrange(20, faulty.POISON) for _ in range(chance.choice((1, 4, 20, 60, 150)))]
    if kind < 0.04:
        ids[-1] = faulty.POISON
    elif kind < 0.08:
        ids[chance.randrange(len(ids))] = faulty.BOMB
    sampling = Sampling(
        temperature=chance.choice((0, 0.7, 1.3)), top_p=chance.choice((1, 0.8)), top_k=chance.choice((0, 10)), seed=1
    )
    return Request(ids=ids, max_tokens=chance.randrange(1, 40), sampling=sampling, urgent=chance.random() < 0.3)


@pytest.mark.parametrize(("count", "way"), [(500, {}), (150, {"ahead": 1, "capture": lambda run: run})])
def test_every_request_ends_once_as_it_should(count: int, way: dict[str, Any]) -> None:
    chance = random.Random(5)
    model = faulty.mined(faulty.poisoned(models.model()), ValueError("a mine"))
    told, cancelled = answers.Answers(), set[Request]()
    requests = [asked(chance) for _ in range(count)]
    with answers.running(model, answers=told, slots=8, **way) as (engine, _):

        def cancel_some(_: Request) -> None:
            if chance.random() < 0.03:
                request = chance.choice(requests)
                cancelled.add(request)
                engine.cancel(request)

        told.after = cancel_some
        for request in requests:
            engine.submit(request)
        told.wait(requests)
        stats = engine.stats()
    assert (stats.decoding, stats.prefilling, stats.waiting) == (0, 0, 0)
    assert math.isclose(sum(ended.engine_s for ended in told.ended.values()), stats.worked_s, rel_tol=1e-6)
    assert len(told.ended) == count
    for request in requests:
        check(request, told, cancelled=request in cancelled)


def check(request: Request, told: answers.Answers, *, cancelled: bool) -> None:
    ended, tokens = told.ended[request], told.tokens.get(request, [])
    assert ended.completion_tokens == len(tokens) <= request.max_tokens
    if ended.reason is EndReason.CANCELLED:
        assert cancelled
        return
    hurt = faulty.POISON in request.ids or faulty.BOMB in request.ids
    assert (ended.reason is EndReason.FAULT) == hurt
    if not hurt:
        assert ended.prompt_tokens == len(request.ids)
        assert (ended.reason is EndReason.STOP) == (tokens[-1] in answers.ENDS)
        assert ended.reason is EndReason.STOP or len(tokens) == request.max_tokens


def test_nothing_is_kept_of_what_has_ended() -> None:
    chance = random.Random(6)
    model = models.model()
    told = answers.Answers()
    with answers.running(model, answers=told, slots=8) as (engine, _):
        sizes, first = [], Request(ids=[], max_tokens=1).number
        for _round in range(3):
            requests = [
                Request(ids=[30] * chance.randrange(1, 60), max_tokens=chance.randrange(1, 20)) for _ in range(100)
            ]
            told.after = lambda request: engine.cancel(request) if chance.random() < 0.05 else None
            for request in requests:
                engine.submit(request)
            told.wait(requests)
            last = Request(ids=[30], max_tokens=1)  # with it the engine's thread lets go of what it told before
            engine.submit(last)
            told.wait([last])
            for told_of in (told.tokens, told.ended, told.deliveries):
                told_of.clear()
            del requests, request
            gc.collect()
            kept = [one for one in gc.get_objects() if type(one) is Request and one.number >= first]
            sizes.append(len([one for one in kept if one is not last]))
            del kept
        assert sizes == [0, 0, 0]
