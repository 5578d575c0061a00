"""The same prompt, parameters and seed give the same tokens, whoever runs beside them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.worker.local import answers, models
from worker.upstreams.local.requests import Request, Sampling

SAMPLINGS = (
    Sampling(seed=7),
    Sampling(seed=7, temperature=0.7, top_p=0.8),
    Sampling(seed=-3, temperature=1.5, top_k=20),
    Sampling(seed=2**62, top_p=0.95, top_k=50),
)


def _asked() -> list[Request]:
    prompts = answers.prompts((5, 40, 90, 12))
    return [
        Request(ids=ids, max_tokens=40, sampling=one, ends=frozenset())
        for ids, one in zip(prompts, SAMPLINGS, strict=True)
    ]


def _company() -> list[Request]:
    lengths = (33, 2, 70, 8, 100, 64, 20)
    return [
        Request(ids=ids, max_tokens=3 + 7 * n, sampling=Sampling(temperature=n % 3 / 2, top_p=0.9), ends=frozenset())
        for n, ids in enumerate(answers.prompts(lengths, seed=9))
    ]


WAYS: tuple[dict[str, Any], ...] = ({}, {"ahead": 1, "capture": lambda run: run})


@pytest.mark.parametrize("family", models.FAMILIES)
def test_tokens_are_the_same_alone_and_in_company(family: str) -> None:
    model = models.model(family)
    alone = [answers.run(model, [request]).tokens[request] for request in _asked()]
    for way in WAYS:
        asked, company = _asked(), _company()
        told = answers.run(model, [*company[:3], *asked[:2], *company[3:], *asked[2:]], slots=5, **way)
        assert [told.tokens[request] for request in asked] == alone


def test_another_seed_gives_other_tokens_and_so_does_none() -> None:
    model = models.model()
    ids = answers.prompts((10,))[0]
    seeds = (1, 2, 2**32 + 1, None, None)
    requests = [Request(ids=ids, max_tokens=30, sampling=Sampling(seed=seed), ends=frozenset()) for seed in seeds]
    told = answers.run(model, requests)
    assert len({tuple(told.tokens[request]) for request in requests}) == len(seeds)
