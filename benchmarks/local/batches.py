"""Slots against padded static batches: tokens per CPU-second, of the same requests, with the same tokens."""

from __future__ import annotations

from benchmarks.local import models, workload
from benchmarks.local.workload import Course
from benchmarks.report import Figure, ratio

SLOTS = 32
ALONE = 8
"""Of the 64, one by one: all would take minutes."""


def slots(*, runs: int) -> list[Figure]:
    """L2: 64 mixed requests on a model of 100M parameters, 32 slots against padded batches of 32."""
    model = models.glm_100m()
    asked = workload.requests(model.config.vocab_size)
    ours, batched, alone = [], [], []
    for _ in range(runs):
        ours.append(workload.slots(model, asked, count=SLOTS))
        batched.append(workload.padded(model, asked, size=SLOTS))
        alone.append(workload.one_by_one(model, asked[:ALONE]))
    speeds = {"32 slots": ours, "padded batches of 32": batched, f"one by one ({ALONE} of them)": alone}
    return [
        ratio("L2", "32 slots against padded batches of 32", _speeds(ours), _speeds(batched), target=1.5),
        Figure(
            name="L2", what="the same answers, of 64", values=[_same(*pair) for pair in zip(ours, batched, strict=True)]
        ),
        *(Figure(name="L2", what=f"tokens per CPU-second, {what}", values=_speeds(of)) for what, of in speeds.items()),
        ratio("L2", "32 slots against one by one, of the engine alone", _speeds(ours), _speeds(alone), target=4),
    ]


def _speeds(courses: list[Course]) -> list[float]:
    return [course.per_cpu_s for course in courses]


def _same(one: Course, other: Course) -> int:
    return sum(a == b for a, b in zip(one.answers, other.answers, strict=True))
