"""The key-value cache of slots: allocated once, one slot for each row, the decoding rows in the first ones.

It speaks as much of transformers' cache interface as a causal model asks of it. What a slot holds beyond the tokens of
its row is masked, but it must be finite: a masked key that is no number still poisons the sum. So all that belongs to
no row is zero: the cache begins so, and a row that leaves or moves leaves nothing behind.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.upstreams.local.attention import Layout, Piece, PromptLayout

Kept = tuple[int, int, torch.dtype]
"""Heads, the width of one, and the type of its numbers."""


class PastKeys(Protocol):
    """What a model is given as its cache, for one pass."""

    layout: Layout

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Called in each layer: keep what is new ([batch, heads, new, width]), give what it looks at."""


class SlotCache:
    """Keys and values, each [layers, slots, heads, context, width]: one tensor, so that moving a row is one copy."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._both = (keys, values)

    @classmethod
    def allocate(cls, model: PreTrainedModel, *, slots: int, context_tokens: int) -> SlotCache:
        """Raises ValueError where the layers of `model` do not all keep the same, as with sliding windows."""
        layers, *kept = _measure(model)
        keys, values = (
            torch.zeros(layers, slots, heads, context_tokens, width, dtype=dtype, device=model.device)
            for heads, width, dtype in kept
        )
        return cls(keys, values)

    @property
    def size_bytes(self) -> int:
        return sum(cached.nbytes for cached in self._both)

    def over(self, layout: Layout) -> PastKeys:
        return _SlotPass(*self._both, layout=layout)

    def move(self, source: int, target: int, *, length: int) -> None:
        """The first `length` tokens, all that there is; `target` is free."""
        for cached in self._both:
            cached[:, target, :, :length] = cached[:, source, :, :length]
            cached[:, source, :, :length] = 0

    def exchange(self, one: int, other: int, *, length: int) -> None:
        for cached in self._both:
            cached[:, [one, other], :, :length] = cached[:, [other, one], :, :length]

    def clear(self, slot: int, *, length: int | None) -> None:
        """The first `length` tokens; None: all."""
        for cached in self._both:
            cached[:, slot, :, :length] = 0


class _SlotPass:
    def __init__(self, keys: Tensor, values: Tensor, *, layout: Layout) -> None:
        self._keys, self._values = keys, values
        self.layout = layout

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        return self._keep(self._keys[layer], key), self._keep(self._values[layer], value)

    def _keep(self, cached: Tensor, new: Tensor) -> Tensor:
        cached[self.layout.slots, :, self.layout.positions] = new.transpose(1, 2).flatten(0, 1)
        return self.layout.read(cached)


class _Measuring:
    """Keeps nothing, and notes what each layer would keep."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.seen: dict[int, tuple[Kept, Kept]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        self.seen[layer] = _kept(key), _kept(value)
        return key, value


def _kept(states: Tensor) -> Kept:
    return states.shape[1], states.shape[3], states.dtype


def _measure(model: PreTrainedModel) -> tuple[int, Kept, Kept]:
    """By a pass of one token: families differ in what they keep (heads, or the latents of MLA), and none says it."""
    measuring = _Measuring(PromptLayout([Piece(slot=0, begin=0, end=1)], device=model.device))
    forward(model, torch.zeros(1, 1, dtype=torch.long, device=model.device), measuring, keep=1)
    found = set(measuring.seen.values())
    if len(found) != 1:
        what = "layers that keep different keys" if found else "no attention over a cache"
        raise ValueError(f"{type(model).__name__} has {what}: the local engine cannot run it")
    return len(measuring.seen), *found.pop()


def forward(model: PreTrainedModel, ids: Tensor, past: PastKeys, *, keep: int | Tensor) -> Tensor:
    """Logits, [batch, kept, vocabulary], of `ids` [batch, new]; `keep`: the last so many, or their places."""
    given: dict[str, Any] = {"past_key_values": past, "layout": past.layout, "logits_to_keep": keep}
    positions = past.layout.positions.view(ids.shape)
    logits: Tensor = model(input_ids=ids, position_ids=positions, use_cache=True, **given).logits
    return logits
