"""What is wrong with one request ends that one; what is wrong with the device ends all, as what may be tried again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.worker.local import answers, faulty, models
from worker.upstreams.local.cache import SlotCache
from worker.upstreams.local.engine import EngineState, EngineStopped
from worker.upstreams.local.requests import EndReason, Request

WAYS: tuple[dict[str, Any], ...] = ({}, {"ahead": 1, "capture": lambda run: run})
NEIGHBOURS = answers.prompts((40, 7, 90, 20, 60), seed=4, vocabulary=faulty.POISON)
DEVICE_ERRORS = (
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
)


def greedy(ids: list[int], max_tokens: int = 30) -> Request:
    return Request(ids=ids, max_tokens=max_tokens, sampling=answers.GREEDY, ends=frozenset())


@pytest.mark.parametrize("family", models.FAMILIES)
@pytest.mark.parametrize("way", WAYS, ids=("as it comes", "static, ahead"))
def test_a_row_of_no_numbers_ends_alone_and_leaves_nothing_in_its_slot(family: str, way: dict[str, Any]) -> None:
    """Masked keys that are no numbers would poison whoever has the slot next."""
    model = faulty.poisoned(models.model(family))
    expected = [answers.generate(model, ids, 30) for ids in NEIGHBOURS]
    good = [Request(ids=ids, max_tokens=30, sampling=answers.GREEDY) for ids in NEIGHBOURS]
    bad = [greedy([faulty.POISON] * 120), greedy([*NEIGHBOURS[0], faulty.POISON])]
    told = answers.run(model, [bad[0], good[0], bad[1], *good[1:]], slots=2, **way)
    assert [told.tokens[request] for request in good] == expected
    for request in bad:
        ended = told.ended[request]
        assert (ended.reason, ended.completion_tokens) == (EndReason.FAULT, 0)
        assert ended.error == "the model's logits are not finite"


@pytest.mark.parametrize("way", WAYS, ids=("as it comes", "static, ahead"))
@pytest.mark.parametrize("length", [20, 150])
def test_a_row_of_no_numbers_that_is_cancelled_before_anybody_knew_leaves_nothing_either(
    way: dict[str, Any], length: int
) -> None:
    """The late one has its slot: shorter than what was left there, or as long as the context that padded rows saw."""
    model = faulty.poisoned(models.model())
    running = [greedy(ids, 60) for ids in NEIGHBOURS[:3]]
    late = greedy(answers.prompts((length,), seed=8, vocabulary=faulty.POISON)[0])
    bad = greedy([faulty.POISON] * 190)
    told = answers.Answers()
    with answers.running(model, answers=told, slots=4, prefill_tokens=32, **way) as (engine, _):

        def follow(request: Request) -> None:
            if request is running[2] and len(told.tokens[request]) == 3:
                engine.submit(bad)
            if request is running[2] and len(told.tokens[request]) == 7:
                engine.cancel(bad)
                engine.submit(late)

        told.after = follow
        for request in running:
            engine.submit(request)
        told.wait([*running, bad, late])
    assert 32 <= told.ended[bad].prompt_tokens < 190
    for request in (*running, late):
        assert told.tokens[request] == alone(model, request)


def alone(model: PreTrainedModel, request: Request) -> list[int]:
    asked = greedy(list(request.ids), request.max_tokens)
    return answers.run(model, [asked]).tokens[asked]


def test_a_row_that_meets_no_numbers_while_it_decodes_ends_alone() -> None:
    model = models.model()
    ids = answers.prompts((10,))[0]
    expected = answers.generate(model, ids, 20)
    with torch.no_grad():
        faulty.embeddings(model)[expected[5]] = torch.nan
    bad, good = greedy(ids), greedy(NEIGHBOURS[1])
    told = answers.run(model, [bad, good])
    assert told.tokens[bad] == expected[:6]
    assert told.reasons([bad, good]) == [EndReason.FAULT, EndReason.LENGTH]


@pytest.mark.parametrize("error", [ValueError("no such thing"), torch.OutOfMemoryError("tried to allocate 2 GiB")])
@pytest.mark.parametrize("length", [10, 150])
def test_an_error_in_one_prefill_ends_that_request_only(error: Exception, length: int) -> None:
    """Alone in its pass, in company of it, and in the second piece of a prompt."""
    model = faulty.mined(models.model(), error)
    expected = [answers.generate(model, ids, 30) for ids in NEIGHBOURS]
    good = [Request(ids=ids, max_tokens=30, sampling=answers.GREEDY) for ids in NEIGHBOURS]
    bad = [greedy([*[30] * (length - 1), faulty.BOMB]) for _ in range(3)]
    told = answers.run(model, [bad[0], *good[:2], bad[1], *good[2:], bad[2]], slots=3, prefill_tokens=128)
    assert [told.tokens[request] for request in good] == expected
    assert [told.ended[request].error for request in bad] == [f"{type(error).__name__}: {error}"] * 3
    assert set(told.reasons(bad)) == {EndReason.FAULT}


@pytest.mark.parametrize("error", DEVICE_ERRORS, ids=str)
def test_a_device_error_ends_all_and_the_engine(error: Exception) -> None:
    model = faulty.mined(models.model(), error)
    died: list[BaseException] = []
    with answers.running(model, slots=2, on_dead=died.append) as (engine, told):
        running = [greedy(ids, 150) for ids in NEIGHBOURS[:2]]
        for request in running:
            engine.submit(request)
        told.wait_for(lambda: all(request in told.tokens for request in running))
        rest = [greedy([faulty.BOMB]), greedy([30])]
        for request in rest:
            engine.submit(request)
        engine.cancel(running[0])
        told.wait([*running, *rest])
        assert told.reasons([*running, *rest])[1:] == [EndReason.DEVICE] * 3
        assert told.ended[rest[1]].error == f"{type(error).__name__}: {error}"
        engine.stop(0)
        assert died == [error]
        assert engine.state is EngineState.DEAD
        with pytest.raises(EngineStopped, match="the engine is dead"):
            engine.submit(greedy([30]))


def test_a_device_error_while_a_row_leaves_ends_that_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another row is on its way into the free slot. A GPU is not at hand: the cache raises what torch raises of one."""

    def broken(*_: object, **__: object) -> None:
        raise DEVICE_ERRORS[0]

    told, leaving, staying = answers.Answers(), greedy([30], 100), greedy([30], 100)
    with answers.running(models.model(), answers=told) as (engine, _):

        def follow(request: Request) -> None:
            if request is leaving and len(told.tokens[leaving]) == 1:
                engine.submit(staying)
            if request is staying:
                monkeypatch.setattr(SlotCache, "move", broken)
                engine.cancel(leaving)

        told.after = follow
        engine.submit(leaving)
        told.wait([leaving, staying])
    assert told.reasons([leaving, staying]) == [EndReason.CANCELLED, EndReason.DEVICE]


def test_an_error_while_all_rows_decode_ends_the_engine() -> None:
    """Nobody knows whose it is."""

    def look(ids: Tensor) -> None:
        if ids.shape == (2, 1):
            raise ValueError("in the middle of a step")

    died: list[BaseException] = []
    requests = [greedy(ids) for ids in NEIGHBOURS[:2]]
    told = answers.run(faulty.watched(models.model(), look), requests, on_dead=died.append)
    assert told.reasons(requests) == [EndReason.DEVICE] * 2
    assert [told.ended[request].prompt_tokens for request in requests] == [40, 7]


def test_events_that_nobody_takes_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    told = answers.Answers()

    def fail(_: Request) -> None:
        told.after = lambda _: None
        raise RuntimeError("the loop is closed")

    told.after = fail
    request = greedy([30], 5)
    with answers.running(models.model(), answers=told) as (engine, _):
        engine.submit(request)
        told.wait([request])
    assert len(told.tokens[request]) == 5
    assert "could not be handed over" in caplog.text
