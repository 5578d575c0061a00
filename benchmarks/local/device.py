"""Tokens per second of the engine on a GPU, against what its memory's bandwidth allows at best."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.local import models
from benchmarks.report import Figure
from worker.upstreams.local.engine import Engine
from worker.upstreams.local.requests import Event, Request, Sampling

ROWS = (1, 64, 128)
TARGETS = {64: 0.5}
PROMPT_TOKENS = 256
ANSWER_TOKENS = 256
SETTLE_TOKENS = 16
"""Of each answer's ends, not counted: until all rows decode, and once the first has ended."""
COPY_BYTES = 4 << 30
MATMUL_SIDE = 8192
LIMIT_S = 300.0


class SkippedError(Exception):
    """There is nothing here to measure it on. Says what it would take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What a decoding step cannot be faster than: it reads the weights and the rows' keys and values once."""

    weight_bytes: int
    cache_bytes_per_token: int
    parameters: int
    bytes_per_s: float
    flop_per_s: float

    def tokens_per_s(self, rows: int, *, context_tokens: float) -> float:
        read_s = (self.weight_bytes + rows * context_tokens * self.cache_bytes_per_token) / self.bytes_per_s
        return rows / max(read_s, 2 * self.parameters * rows / self.flop_per_s)


def decoding(*, runs: int) -> list[Figure]:
    """L6: random GLM-4-9B in bf16: tokens per second at 1, 64 and 128 rows, against the bandwidth floor."""
    if not torch.cuda.is_available():
        raise SkippedError("L6 is not measured: no CUDA device here. On one with 48 GB: make bench-local BENCH=L6")
    device = torch.device("cuda")
    return _measure(models.glm_4_9b(device), ROWS, runs=runs, copy_bytes=COPY_BYTES, matmul_side=MATMUL_SIDE)


def rehearsed(*, runs: int) -> list[Figure]:
    """L6: the same on this CPU with a tiny model: shows that it runs, its figures mean nothing."""
    as_there = {"ahead": 1, "capture": lambda run: run}
    return _measure(models.glm_tiny(), (1, 4), runs=runs, copy_bytes=1 << 24, matmul_side=256, **as_there)


def _measure(
    model: PreTrainedModel, rows: Sequence[int], *, runs: int, copy_bytes: int, matmul_side: int, **engine: Any
) -> list[Figure]:
    floor = _floor(model, copy_bytes=copy_bytes, matmul_side=matmul_side)
    found = [Figure(name="L6", what="memory copied", values=[floor.bytes_per_s / 1e9], unit="GB/s")]
    for count in rows:
        speeds = _speeds(model, count, runs=runs, **engine)
        best = floor.tokens_per_s(count, context_tokens=PROMPT_TOKENS + ANSWER_TOKENS / 2)
        shares = [speed / best for speed in speeds]
        found += [
            Figure(name="L6", what=f"tokens/s, {count} rows", values=speeds),
            Figure(
                name="L6", what=f"of the floor's {best:,.0f}, {count} rows", values=shares, target=TARGETS.get(count)
            ),
        ]
    return found


def _speeds(model: PreTrainedModel, rows: int, *, runs: int, **changed: Any) -> list[float]:
    """The first two courses, in which shapes are warmed up and recorded, do not count."""
    told = _Told()
    engine = Engine(
        model,
        slots=rows,
        context_tokens=PROMPT_TOKENS + ANSWER_TOKENS,
        ends=frozenset(),
        deliver=told.deliver,
        prefill_tokens=2048,
        **changed,
    )
    engine.start()
    try:
        return [_course(engine, told, rows) for _ in range(runs + 2)][2:]
    finally:
        engine.stop(0)


def _course(engine: Engine, told: _Told, rows: int) -> float:
    """Tokens per second while all rows decode."""
    told.clear()
    asked = [
        Request(ids=[100 + row] * PROMPT_TOKENS, max_tokens=ANSWER_TOKENS, sampling=Sampling(temperature=0))
        for row in range(rows)
    ]
    for request in asked:
        engine.submit(request)
    told.wait(lambda: len(told.seen) == rows and min(told.seen.values()) >= SETTLE_TOKENS)
    before, started = told.total, time.perf_counter()
    told.wait(lambda: max(told.seen.values()) >= ANSWER_TOKENS - SETTLE_TOKENS)
    speed = (told.total - before) / (time.perf_counter() - started)
    told.wait(lambda: told.total == rows * ANSWER_TOKENS)
    return speed


class _Told:
    def __init__(self) -> None:
        self.clear()
        self._changed = threading.Condition()

    def clear(self) -> None:
        self.seen: dict[Request, int] = {}
        self.total = 0

    def deliver(self, events: Sequence[Event]) -> None:
        with self._changed:
            for event in events:
                if hasattr(event, "ids"):
                    self.seen[event.request] = self.seen.get(event.request, 0) + 1
                    self.total += 1
            self._changed.notify_all()

    def wait(self, holds: Callable[[], bool]) -> None:
        with self._changed:
            if not self._changed.wait_for(holds, LIMIT_S):
                raise TimeoutError("the engine told nothing more")


def _floor(model: PreTrainedModel, *, copy_bytes: int, matmul_side: int) -> Floor:
    configuration = model.config
    size = model.dtype.itemsize
    parameters = sum(one.numel() for one in model.parameters())
    embedded = configuration.vocab_size * configuration.hidden_size
    """Looked up, not read."""
    kept = 2 * configuration.num_hidden_layers * configuration.num_key_value_heads * configuration.head_dim
    source = torch.empty(copy_bytes, dtype=torch.uint8, device=model.device)
    target = torch.empty_like(source)
    copied_s = _seconds(lambda: target.copy_(source), model.device)
    square = torch.randn(matmul_side, matmul_side, device=model.device, dtype=model.dtype)
    multiplied_s = _seconds(lambda: square @ square, model.device)
    return Floor(
        weight_bytes=(parameters - embedded) * size,
        cache_bytes_per_token=kept * size,
        parameters=parameters,
        bytes_per_s=2 * copy_bytes / copied_s,
        flop_per_s=2 * matmul_side**3 / multiplied_s,
    )


def _seconds(run: Callable[[], object], device: torch.device, *, times: int = 10) -> float:
    """Median of one."""
    taken = []
    for _ in range(times):
        _synchronise(device)
        started = time.perf_counter()
        run()
        _synchronise(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
