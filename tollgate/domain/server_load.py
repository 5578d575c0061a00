"""What an inference server says of its load, in the text that it shows Prometheus. Pure.

vLLM: docs.vllm.ai, "Production Metrics". SGLang (with --enable-metrics): docs.sglang.io, "Production Metrics". The
format: prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
RANKS = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "pid"})
"""Of SGLang's processes that compute one request together: each tells the same number."""
NAMES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "vLLM": (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    ),
    "SGLang": ("sglang:num_running_reqs", "sglang:num_queue_reqs", ("sglang:token_usage",)),
}
"""Running, waiting, and the cache's use from 0 to 1, by its name now and before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLoad:
    """Of all engines behind one address."""

    server: str
    running: int
    """Requests in its batch."""
    waiting: int
    """Requests in its queue."""
    cache_used: float | None
    """Of the fullest key-value cache, 0 to 1; None: it does not say."""


def parse(text: str) -> ServerLoad | None:
    """None for the metrics of something else."""
    samples = list(_samples(text))
    for server, (running, waiting, cache) in NAMES.items():
        counts = [_combined(samples, (name,), sum) for name in (running, waiting)]
        if counts[0] is not None:
            used = _combined(samples, cache, max)
            return ServerLoad(server=server, running=round(counts[0]), waiting=round(counts[1] or 0), cache_used=used)
    return None


def _samples(text: str) -> Iterator[Sample]:
    """What cannot be read is passed over."""
    for line in text.splitlines():
        found = _SAMPLE.fullmatch(line.strip())
        if found is None:
            continue
        try:
            value = float(found[3])
        except ValueError:
            continue
        if math.isfinite(value):
            yield Sample(name=found[1], labels=dict(_LABEL.findall(found[2] or "")), value=value)


def _combined(
    samples: Iterable[Sample], names: Iterable[str], combine: Callable[[Iterable[float]], float]
) -> float | None:
    """Over the engines; None where none tells it."""
    for name in names:
        found = [sample for sample in samples if sample.name == name]
        # By priority, and of all together: the sum of both would count each request twice.
        found = [sample for sample in found if sample.labels.get("priority") == ""] or found
        by_engine: dict[frozenset[tuple[str, str]], float] = {}
        for sample in found:
            engine = frozenset((key, value) for key, value in sample.labels.items() if key not in RANKS)
            by_engine[engine] = max(sample.value, by_engine.get(engine, 0.0))
        if by_engine:
            return combine(by_engine.values())
    return None
