"""What the engine refuses, and by which parameter; its neighbours do not notice."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest

from tests.worker.local import answers, models
from worker.upstreams.local.engine import Busy, EngineStopped, Refused
from worker.upstreams.local.requests import Request, Sampling

BAD: list[tuple[str, dict[str, Any]]] = [
    ("ids", {"ids": []}),
    ("ids", {"ids": [5, -1]}),
    ("ids", {"ids": [800]}),
    ("ids", {"ids": [10**30]}),
    ("ids", {"ids": [5, 6.0]}),
    ("ids", {"ids": [True]}),
    ("ids", {"ids": ["5"]}),
    ("ids", {"ids": [5] * 256}),
    ("max_tokens", {"ids": [5] * 200, "max_tokens": 57}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1}),
    ("max_tokens", {"max_tokens": 2.0}),
    ("temperature", {"temperature": math.nan}),
    ("temperature", {"temperature": math.inf}),
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 101}),
    ("temperature", {"temperature": None}),
    ("temperature", {"temperature": "1"}),
    ("top_p", {"top_p": 0}),
    ("top_p", {"top_p": 1.1}),
    ("top_p", {"top_p": math.nan}),
    ("top_k", {"top_k": -1}),
    ("top_k", {"top_k": 2**31}),
    ("top_k", {"top_k": 1.5}),
    ("seed", {"seed": 2**63}),
    ("seed", {"seed": -(2**63) - 1}),
    ("seed", {"seed": 1.0}),
    ("deadline_s", {"deadline_s": math.nan}),
]
EDGES: list[dict[str, Any]] = [
    {"ids": [0]},
    {"ids": [799]},
    {"ids": [5] * 255, "max_tokens": 1},
    {"temperature": 0},
    {"temperature": 100},
    {"temperature": 1e-300},
    {"top_p": 1},
    {"top_p": 1e-9},
    {"top_k": 800},
    {"top_k": 2**31 - 1},
    {"seed": -(2**63)},
    {"seed": 2**63 - 1},
]


def asked(changed: dict[str, Any]) -> Request:
    given: dict[str, Any] = {"ids": [30, 40], "max_tokens": 3}
    names = {"temperature", "top_p", "top_k", "seed"}
    sampling = Sampling(**cast("dict[str, Any]", {name: changed[name] for name in names & set(changed)}))
    return Request(sampling=sampling, **given | {name: changed[name] for name in set(changed) - names})


def test_what_cannot_be_run_is_refused_by_name_and_neighbours_go_on() -> None:
    model = models.model()
    ids = answers.prompts((20,))[0]
    expected = answers.generate(model, ids, 60)
    with answers.running(model) as (engine, told):
        neighbour = Request(ids=ids, max_tokens=60, sampling=answers.GREEDY)
        engine.submit(neighbour)
        for parameter, changed in BAD:
            with pytest.raises(Refused, match=f"^{parameter}: ") as refused:
                engine.submit(asked(changed))
            assert refused.value.parameter == parameter
        told.wait([neighbour])
        assert told.tokens[neighbour] == expected
        assert list(told.ended) == [neighbour]


@pytest.mark.parametrize("changed", EDGES, ids=" ".join)
def test_what_is_just_allowed_runs(changed: dict[str, Any]) -> None:
    request = asked(changed | {"ends": frozenset()})
    told = answers.run(models.model(), [request])
    assert len(told.tokens[request]) == request.max_tokens


def test_the_context_is_never_longer_than_the_models_own() -> None:
    model = models.model(max_position_embeddings=64)
    with answers.running(model, context_tokens=256) as (engine, _):
        assert engine.context_tokens == 64
        with pytest.raises(Refused, match="context of 64 tokens"):
            engine.submit(Request(ids=[5] * 60, max_tokens=5))


def test_only_so_many_may_wait() -> None:
    with answers.running(models.model(), slots=1, room=2) as (engine, told):
        running = Request(ids=[30], max_tokens=200, ends=frozenset())
        engine.submit(running)
        told.wait_for(lambda: running in told.tokens)
        waiting = [Request(ids=[30], max_tokens=1) for _ in range(2)]
        for request in waiting:
            engine.submit(request)
        with pytest.raises(Busy):
            engine.submit(Request(ids=[30], max_tokens=1))
        engine.cancel(running)
        told.wait([running, *waiting])
        engine.submit(Request(ids=[30], max_tokens=1))


def test_nothing_is_taken_after_the_stop() -> None:
    with answers.running(models.model()) as (engine, _):
        engine.stop(0)
        with pytest.raises(EngineStopped, match="the engine is stopped"):
            engine.submit(Request(ids=[30], max_tokens=1))
