"""The model and what it knows of each slot: forward passes over the cache, each with the tokens chosen after it.

All of it is on the device, the last token and the position of each slot too: a pass can be launched before the tokens
of the one before have been read. Who sits in which slot, and for how long, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.upstreams.local import attention, cache
from worker.upstreams.local.attention import Piece, PromptLayout, RowLayout
from worker.upstreams.local.cache import SlotCache
from worker.upstreams.local.graphs import Capture, StaticShapes
from worker.upstreams.local.requests import Sampling
from worker.upstreams.local.rows import Move
from worker.upstreams.local.sampling import Draws, Sampler, SlotParameters

LENGTH_BUCKET = 64
"""Rows look at the first so many positions, rounded up: shapes repeat, and little is looked at in vain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPiece:
    """What one pass takes of one prompt."""

    slot: int
    begin: int
    ids: Sequence[int]
    """From `begin` on."""

    @property
    def end(self) -> int:
        return self.begin + len(self.ids)


class Steps:
    """Of one model. Only the engine's thread may use it, in inference mode."""

    def __init__(
        self, model: PreTrainedModel, *, slots: int, context_tokens: int, capture: Capture | None = None
    ) -> None:
        """`capture`: decode in static shapes, recorded by it; None: in the shape that comes."""
        attention.use(model)
        model.eval()
        self._model = model
        self._device = model.device
        self._context_tokens = context_tokens
        places = context_tokens if capture is None else context_tokens + 1
        self.cache = SlotCache.allocate(model, slots=slots, context_tokens=places)
        self._parameters = SlotParameters(slots, device=self._device)
        self._sampler = Sampler(vocabulary_of(model), device=self._device)
        self._last = torch.zeros(slots, dtype=torch.long, device=self._device)
        self._positions = torch.zeros(slots, dtype=torch.long, device=self._device)
        """Where the last token of each decoding slot will stand."""
        self._static = None if capture is None else self._static_shapes(slots, capture)

    def begin(self, slot: int, sampling: Sampling) -> None:
        """A new row in `slot`."""
        self._parameters.set(slot, sampling)

    def prefill(self, piece: PromptPiece) -> Tensor:
        """A piece of a prompt that goes on after it: no token."""
        self._pass_prompts([piece])
        return self._last[:0]

    def finish_prompts(self, pieces: Sequence[PromptPiece], samplings: Sequence[Sampling]) -> Tensor:
        """The last pieces of prompts: their first tokens [pieces], NOT_FINITE where there is none."""
        logits = self._pass_prompts(pieces)
        slots = torch.tensor([piece.slot for piece in pieces], device=self._device)
        positions = torch.tensor([piece.end for piece in pieces], device=self._device)
        tokens = self._choose(logits, slots=slots, positions=positions, draws=Draws(samplings))
        self._last[slots], self._positions[slots] = tokens.clamp(min=0), positions
        return tokens

    def decode(self, rows: int, *, length: int, draws: Draws) -> Tensor:
        """The next tokens of the first `rows` slots, of which the longest will hold `length` tokens."""
        logits = self._pass_rows(rows, length)
        positions = self._positions[:rows]
        positions += 1
        tokens = self._choose(logits, slots=slice(rows), positions=positions, draws=draws)
        self._last[:rows] = tokens.clamp(min=0)
        return tokens

    def move(self, move: Move) -> None:
        """What stands in one slot, to another."""
        if move.exchanged:
            self.cache.exchange(move.source, move.target, length=move.length)
        else:
            self.cache.move(move.source, move.target, length=move.length)
        there, here = [move.target, move.source], [move.source, move.target]
        for state in (self._last, self._positions, self._parameters.numbers.T, self._parameters.integers.T):
            state[there] = state[here]

    def clear(self, slot: int, *, length: int | None) -> None:
        """The row in `slot` is gone, and kept at most `length` tokens; None: nobody knows how many."""
        self.cache.clear(slot, length=length)

    @property
    def graphs(self) -> int:
        """Shapes that are replayed."""
        return 0 if self._static is None else self._static.captured

    def _pass_prompts(self, pieces: Sequence[PromptPiece]) -> Tensor:
        """Logits [pieces, vocabulary] after the last token of each."""
        places = [Piece(slot=piece.slot, begin=piece.begin, end=piece.end) for piece in pieces]
        layout = PromptLayout(places, device=self._device)
        ids = torch.tensor([[token for piece in pieces for token in piece.ids]], device=self._device)
        ends = torch.tensor([len(piece.ids) for piece in pieces]).cumsum(0) - 1
        return cache.forward(self._model, ids, self.cache.over(layout), keep=ends.to(self._device))[0]

    def _pass_rows(self, rows: int, length: int) -> Tensor:
        """Logits [rows, vocabulary]."""
        if self._static is None:
            return self._forward(self._positions[:rows], length=min(self._context_tokens, _rounded(length)))
        # A row that is none must keep its token somewhere: behind the context, where nobody looks.
        torch.where(self._slots < rows, self._positions, self._unseen, out=self._static_positions)
        self._static(rows, length)
        logits: Tensor = self._static_logits[:rows]
        return logits

    def _forward(self, positions: Tensor, *, length: int) -> Tensor:
        ids = self._last[: positions.shape[0], None]
        past = self.cache.over(RowLayout(positions, length=length))
        return cache.forward(self._model, ids, past, keep=1)[:, -1]

    def _static_shapes(self, slots: int, capture: Capture) -> StaticShapes:
        self._slots = torch.arange(slots, device=self._device)
        self._unseen = torch.full_like(self._positions, self._context_tokens)
        self._static_positions = self._unseen.clone()
        self._static_logits = torch.zeros(
            slots, vocabulary_of(self._model), dtype=self._model.dtype, device=self._device
        )
        return StaticShapes(self._run_static, slots=slots, context_tokens=self._context_tokens, capture=capture)

    def _run_static(self, rows: int, length: int) -> None:
        self._static_logits[:rows] = self._forward(self._static_positions[:rows], length=length)

    def _choose(self, logits: Tensor, *, slots: Tensor | slice, positions: Tensor, draws: Draws) -> Tensor:
        numbers, integers = self._parameters.numbers[:, slots], self._parameters.integers[:, slots]
        return self._sampler.choose(logits, positions=positions, numbers=numbers, integers=integers, draws=draws)


def vocabulary_of(model: PreTrainedModel) -> int:
    """How many tokens it can be asked."""
    return int(model.config.get_text_config().vocab_size)


def _rounded(length: int) -> int:
    return -(-length // LENGTH_BUCKET) * LENGTH_BUCKET
