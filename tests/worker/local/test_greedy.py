"""Greedy tokens equal to those of `generate` in fp32, whatever the family and the way of decoding."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedModel

from tests.worker.local import answers, models
from worker.upstreams.local.requests import EndReason, Request

LENGTHS = (1, 3, 17, 63, 64, 65, 120, 30, 5, 90, 8, 200)
MAX_TOKENS = (9, 40, 1, 30, 20, 5, 33, 50, 2, 12, 56, 30)
WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "a pass ahead": {"ahead": 1},
    "static shapes": {"capture": lambda run: run},
    "static shapes, a pass ahead": {"capture": lambda run: run, "ahead": 1},
    "a slot for each": {"slots": 16, "prefill_tokens": 512},
}


@pytest.fixture(scope="module", params=models.FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, list[list[int]], list[list[int]]]:
    """A model, prompts, and the tokens that `generate` gives for them."""
    model = models.model(request.param)
    prompts = answers.prompts(LENGTHS)
    expected = [answers.generate(model, ids, count) for ids, count in zip(prompts, MAX_TOKENS, strict=True)]
    return model, prompts, expected


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_generate(
    family: tuple[PreTrainedModel, list[list[int]], list[list[int]]], way: str
) -> None:
    model, prompts, expected = family
    requests = [
        Request(ids=ids, max_tokens=count, sampling=answers.GREEDY)
        for ids, count in zip(prompts, MAX_TOKENS, strict=True)
    ]
    told = answers.run(model, requests, **WAYS[way])
    assert [told.tokens[request] for request in requests] == expected
    for request, tokens in zip(requests, expected, strict=True):
        ended = told.ended[request]
        assert ended.reason is (EndReason.STOP if tokens[-1] in answers.ENDS else EndReason.LENGTH)
        assert (ended.prompt_tokens, ended.completion_tokens) == (len(request.ids), len(tokens))


def test_an_answer_ends_with_the_first_of_its_own_ends(
    family: tuple[PreTrainedModel, list[list[int]], list[list[int]]],
) -> None:
    model, prompts, expected = family
    end = expected[1][4]
    request = Request(ids=prompts[1], max_tokens=40, sampling=answers.GREEDY, ends=frozenset({end}))
    told = answers.run(model, [request])
    assert told.tokens[request] == expected[1][: expected[1].index(end) + 1]
    assert told.ended[request].reason is EndReason.STOP
