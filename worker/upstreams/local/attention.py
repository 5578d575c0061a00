"""Attention over the cache of slots, for any model of transformers that asks its attention by name.

A layout says where the tokens of one forward pass stand in the cache: pieces of prompts, or one token of each row. It
goes through the model as a keyword, since the mask alone would not say which keys belong to whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME = "tollgate_slots"
"""Under which transformers knows it. Not among its masks: none is made, unless a model asks by another way."""


class Layout(Protocol):
    """Of N new tokens, in the order of the forward pass."""

    slots: Tensor
    """[N]: whose they are."""
    positions: Tensor
    """[N]: where they stand in their slot."""

    def read(self, cached: Tensor) -> Tensor:
        """From one layer, [slots, heads, context, width], what these tokens look at: [batch, heads, length, width]."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """`query` [batch, heads, new, width], `key` and `value` as read, their heads a divisor of the query's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tokens `begin` to `end` of what stands in a slot."""

    slot: int
    begin: int
    end: int


class PromptLayout:
    """Pieces of prompts, one behind the other in a batch of one: each looks at its own slot only."""

    def __init__(self, pieces: Sequence[Piece], *, device: torch.device) -> None:
        self.pieces = pieces
        slots: list[int] = []
        positions: list[int] = []
        for piece in pieces:
            slots += [piece.slot] * (piece.end - piece.begin)
            positions += range(piece.begin, piece.end)
        self.slots = torch.tensor(slots, device=device)
        self.positions = torch.tensor(positions, device=device)
        self._masks = [self._mask(piece) for piece in pieces]

    def _mask(self, piece: Piece) -> Tensor | None:
        """[new, length], True where it may look; None for a prompt's beginning, which is plainly causal."""
        if piece.begin == 0:
            return None
        device = self.positions.device
        new = torch.arange(piece.begin, piece.end, device=device)
        return torch.arange(piece.end, device=device) <= new[:, None]

    def read(self, cached: Tensor) -> Tensor:
        seen = [cached[piece.slot, :, : piece.end] for piece in self.pieces]
        return (seen[0] if len(seen) == 1 else torch.cat(seen, dim=1))[None]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        queries = query.split([piece.end - piece.begin for piece in self.pieces], dim=2)
        lengths = [piece.end for piece in self.pieces]
        parts = zip(queries, key.split(lengths, dim=2), value.split(lengths, dim=2), self._masks, strict=True)
        return torch.cat([_attend_piece(*part, scale=scale) for part in parts], dim=2)


def _attend_piece(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scale: float | None) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    if mask is None:
        causal = query.shape[2] > 1
        return scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=grouped)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped)


class RowLayout:
    """The next token of the rows in the first slots. Nobody looks further than `length`."""

    def __init__(self, positions: Tensor, *, length: int) -> None:
        self.slots = torch.arange(positions.shape[0], device=positions.device)
        self.positions = positions
        self._length = length
        self._mask = (torch.arange(length, device=positions.device) <= positions[:, None])[:, None, None]

    def read(self, cached: Tensor) -> Tensor:
        return cached[: self.positions.shape[0], :, : self._length]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """The query heads that share a key head take the place of several tokens: GLM has 32 over 2, and repeating
        the cached heads would copy the cache 16-fold at every step."""
        rows, heads, _, width = query.shape
        grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
        seen = scaled_dot_product_attention(grouped, key, value, attn_mask=self._mask, scale=scale)
        return seen.reshape(rows, heads, 1, -1)


def use(model: PreTrainedModel) -> None:
    """Have `model` attend by layouts from now on."""
    AttentionInterface.register(NAME, _attention)
    model.set_attn_implementation(NAME)


def _attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; it wants [batch, new, heads, width]."""
    return layout.attend(query, key, value, scale=scaling).transpose(1, 2).contiguous(), None
