"""What a pass will say: its tokens are on the device until they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.upstreams.local.rows import Row


class Readback:
    """Tokens on their way to the host. On a GPU the copy is behind the pass in its stream, and nobody waits yet."""

    def __init__(self, tokens: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = tokens
        if tokens.is_cuda:
            self._host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            self._host.copy_(tokens, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> list[int]:
        """Errors of the device show here, also those of earlier passes."""
        if self._event is not None:
            self._event.synchronize()
        tokens: list[int] = self._host.tolist()
        return tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A pass that was launched, and for whom; a piece of a prompt that goes on has no token."""

    rows: Sequence[Row]
    weights: Sequence[int]
    """By which they share its time: the tokens that went in for each."""
    tokens: Readback
