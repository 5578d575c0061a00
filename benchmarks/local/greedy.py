"""Greedy tokens of the engine against those of `generate`, in fp32."""

from __future__ import annotations

from benchmarks.local import workload
from benchmarks.report import Figure
from tests.worker.local import models

SLOTS = 8
COUNT = 24


def equal(*, runs: int) -> list[Figure]:
    """L4: mixed requests on a tiny model of each family, in 8 slots and a prefill of 64 tokens a step."""
    found = []
    for family in models.FAMILIES:
        shares = []
        for run in range(runs):
            model = models.model(family, seed=run, eos_token_id=None)
            asked = workload.requests(models.VOCABULARY, count=COUNT)
            expected = workload.one_by_one(model, asked).answers
            got = workload.slots(model, asked, count=SLOTS, prefill_tokens=64).answers
            pairs = [pair for one in zip(got, expected, strict=True) for pair in zip(*one, strict=True)]
            shares.append(100 * sum(ours == theirs for ours, theirs in pairs) / len(pairs))
        found.append(
            Figure(name="L4", what=f"tokens equal to generate's, {family}", values=shares, unit="%", target=100)
        )
    return found
