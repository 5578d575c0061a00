"""Draws on the device follow the softmax that temperature, top_k and top_p leave."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from worker.upstreams.local import sampling
from worker.upstreams.local.requests import Sampling
from worker.upstreams.local.sampling import NOT_FINITE, Draws, Sampler, SlotParameters

DRAWS = 20_000
CPU = torch.device("cpu")
PROBABILITIES = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01])


def choose(logits: Tensor, samplings: list[Sampling], *, positions: Tensor | None = None) -> Tensor:
    parameters = SlotParameters(len(samplings), device=CPU)
    for row, one in enumerate(samplings):
        parameters.set(row, one)
    return Sampler(logits.shape[-1], device=CPU).choose(
        logits,
        positions=torch.zeros(len(samplings), dtype=torch.long) if positions is None else positions,
        numbers=parameters.numbers,
        integers=parameters.integers,
        draws=Draws(samplings),
    )


def frequencies(probabilities: Tensor, one: Sampling) -> Tensor:
    """Of DRAWS tokens, one at each position of one sequence."""
    parameters = SlotParameters(1, device=CPU)
    parameters.set(0, one)
    tokens = Sampler(len(probabilities), device=CPU).choose(
        probabilities.log().expand(DRAWS, -1),
        positions=torch.arange(DRAWS),
        numbers=parameters.numbers.expand(-1, DRAWS),
        integers=parameters.integers.expand(-1, DRAWS),
        draws=Draws([one] * DRAWS),
    )
    return tokens.bincount(minlength=len(probabilities)) / DRAWS


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (Sampling(seed=1), [0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01]),
        (Sampling(seed=2, top_k=2), [0.4, 0.25]),
        (Sampling(seed=3, top_p=0.65), [0.4, 0.25]),
        (Sampling(seed=4, top_p=0.66), [0.4, 0.25, 0.15]),
        (Sampling(seed=5, top_p=0.01), [1.0]),
        (Sampling(seed=6, top_k=3, top_p=0.8), [0.4, 0.25]),
        (Sampling(seed=7, top_k=10_000), [0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01]),
        (Sampling(seed=8, temperature=0.5), [0.16, 0.0625, 0.0225, 0.01, 0.0036, 0.0009, 0.0001]),
        (Sampling(seed=9, temperature=1e-30), [1.0]),
    ],
)
def test_tokens_come_as_often_as_they_should(one: Sampling, expected: list[float]) -> None:
    """Pearson's chi-square over the tokens that may come, against its quantile of 0.9999 for 6 degrees of freedom."""
    wanted = torch.zeros(len(PROBABILITIES))
    wanted[: len(expected)] = torch.tensor(expected) / sum(expected)
    found = frequencies(PROBABILITIES, one)
    may = wanted > 0
    assert found[~may].sum() == 0
    assert float((DRAWS * (found - wanted)[may] ** 2 / wanted[may]).sum()) < 27.9


def test_a_top_p_that_takes_more_than_the_candidates_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of candidates is a matter of speed, so a small one stands for a flat vocabulary of 150,000."""
    monkeypatch.setattr(sampling, "CANDIDATES", 2)
    found = frequencies(PROBABILITIES, Sampling(seed=4, top_p=0.66))
    assert (found > 0).tolist() == [True, True, True, False, False, False, False]


def test_each_row_is_drawn_by_its_own_parameters() -> None:
    logits = torch.tensor([[0.0, 5.0, 4.0, 3.0]]).expand(4, -1)
    samplings = [
        Sampling(temperature=0),
        Sampling(seed=1, top_k=1),
        Sampling(seed=1, temperature=100.0, top_p=0.25),
        Sampling(temperature=0),
    ]
    assert choose(logits, samplings).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("one", [Sampling(temperature=0), Sampling(seed=1), Sampling(seed=1, top_p=0.5)])
def test_a_row_whose_logits_are_no_numbers_has_no_token_and_its_neighbours_do(bad: float, one: Sampling) -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    alone = choose(logits, [one] * 3).tolist()
    logits[1, 7] = bad
    assert choose(logits, [one] * 3).tolist() == [alone[0], NOT_FINITE, alone[2]]


def test_the_noise_of_two_positions_and_of_two_seeds_is_unrelated() -> None:
    flat = torch.zeros(2000, 1000)
    rows = [Sampling(seed=1 if row < 1000 else 2) for row in range(2000)]
    tokens = choose(flat, rows, positions=torch.arange(2000) % 1000)
    same = (tokens[:1000] == tokens[1000:]).sum() + (tokens[:999] == tokens[1:1000]).sum()
    assert int(same) <= 12, "2 are expected of 1,999 pairs over 1,000 tokens"
