"""Decoding in a few repeated shapes, each recorded once and replayed: on a GPU the launches cost more than the pass.

A shape is (rows, length), both rounded up. The rows that are too many are free slots, or slots whose prompt is on its
way in; what they compute is thrown away, and what they keep stands where nobody looks (`Steps`).
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

Run = Callable[[], None]
Capture = Callable[[Run], Run]
"""Records what a run does on the device, and gives what does it again. Without a device: the run itself will do."""

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LENGTHS = (*range(128, 1024, 128), *range(1024, 4096, 256), *range(4096, 32_768 + 1, 2048))
"""Finer than doublings: what a row looks at in vain is read from memory too."""
MAX_GRAPHS = 96
"""Each takes some tens of megabytes and about as many milliseconds as its pass has launches."""


class StaticShapes:
    """Runs a pass `run(rows, length)`, which takes its inputs from and puts its logits into tensors that stay."""

    def __init__(
        self,
        run: Callable[[int, int], None],
        *,
        slots: int,
        context_tokens: int,
        capture: Capture,
        max_graphs: int = MAX_GRAPHS,
    ) -> None:
        self._run, self._capture = run, capture
        self._rows = _up_to(ROWS, slots)
        self._lengths = _up_to(LENGTHS, context_tokens)
        self._left = max_graphs
        self._graphs: dict[tuple[int, int], Run | None] = {}

    @property
    def captured(self) -> int:
        return sum(graph is not None for graph in self._graphs.values())

    def __call__(self, rows: int, length: int) -> None:
        """A shape runs plainly the first time, which is its warm-up, and is recorded the second time."""
        shape = (_at_least(self._rows, rows), _at_least(self._lengths, length))
        if shape not in self._graphs:
            self._graphs[shape] = None
            self._run(*shape)
            return
        replay = self._graphs[shape] or self._record(shape)
        if replay is None:
            self._run(*shape)
        else:
            replay()

    def _record(self, shape: tuple[int, int]) -> Run | None:
        if self._left <= 0:
            return None
        self._left -= 1
        try:
            self._graphs[shape] = self._capture(lambda: self._run(*shape))
        except Exception as error:
            # Some models ask the device in the middle of a pass (experts by `nonzero`): they run as they are. If the
            # device is what failed, the plain run that follows says so.
            log.warning("no CUDA graphs for this model", extra={"rows": shape[0], "length": shape[1]}, exc_info=error)
            self._left = 0
        return self._graphs[shape]


class CudaGraphs:
    """Capture by CUDA. All share one pool of memory: they never run at once, and none keeps what another needs."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        self._pool = self._pool or graph.pool()
        return graph.replay


def _up_to(sizes: tuple[int, ...], most: int) -> tuple[int, ...]:
    return (*(size for size in sizes if size < most), most)


def _at_least(sizes: tuple[int, ...], wanted: int) -> int:
    return sizes[bisect.bisect_left(sizes, wanted)]
