"""Choosing the next token of many rows at once, on the device, each row by its own parameters and seed.

The noise of a draw is a hash of (seed, position, token), not the next numbers of a generator: so a row's tokens do not
depend on who runs beside it, on its slot, or on the device, and no generator is kept for each row.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from worker.upstreams.local.requests import Sampling

CANDIDATES = 1024
"""So many of the likeliest tokens are sorted for a top_p; only where they do not reach it, all are."""
MIN_TEMPERATURE = 1e-5
"""Below it logits would overflow, and nothing but the likeliest token is left anyway."""
NOT_FINITE = -1
"""In place of a token: the row's logits are no numbers."""
_GOLDEN = 0x9E3779B97F4A7C15


class SlotParameters:
    """Of each slot, on the device."""

    def __init__(self, slots: int, *, device: torch.device) -> None:
        self.numbers = torch.zeros(2, slots, device=device)
        self.integers = torch.zeros(2, slots, dtype=torch.long, device=device)

    def set(self, slot: int, sampling: Sampling) -> None:
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.numbers[:, slot] = torch.tensor([max(sampling.temperature, MIN_TEMPERATURE), sampling.top_p])
        self.integers[:, slot] = torch.tensor([sampling.top_k, seed])


class Sampler:
    """Of one vocabulary."""

    def __init__(self, vocabulary: int, *, device: torch.device) -> None:
        self._hashed = _mixed(torch.arange(vocabulary, dtype=torch.int32, device=device))

    def choose(self, logits: Tensor, *, positions: Tensor, numbers: Tensor, integers: Tensor, draws: Draws) -> Tensor:
        """A token each of `logits` [rows, vocabulary], or NOT_FINITE. `positions` [rows]: where it will stand."""
        least, most = torch.aminmax(logits, dim=-1)
        chosen = logits.argmax(-1)
        if draws.rows:
            all_draw = len(draws.rows) == logits.shape[0]
            rows = slice(None) if all_draw else torch.tensor(draws.rows, device=logits.device)
            among = _limited(logits[rows].float() / numbers[0, rows, None], numbers[1, rows], integers[0, rows], draws)
            chosen[rows] = (among + self._noise(integers[1, rows], positions[rows])).argmax(-1)
        return chosen.where(torch.isfinite(least) & torch.isfinite(most), NOT_FINITE)

    def _noise(self, seeds: Tensor, positions: Tensor) -> Tensor:
        """Gumbel's, [rows, vocabulary]: the likeliest token with it is a draw from the softmax."""
        hashed = _mixed(self._hashed ^ _key(seeds, positions)[:, None])
        uniform = ((hashed & 0x7FFFFFFF).float() + 0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
        return uniform.neg_().log1p_().neg_().log_().neg_()


class Draws:
    """What the host knows of a step's rows, so that the device need not be asked."""

    def __init__(self, samplings: Sequence[Sampling]) -> None:
        self.rows = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
        drawn = [samplings[row] for row in self.rows]
        self.top_k = max((sampling.top_k for sampling in drawn), default=0)
        self.by_mass = any(sampling.top_p < 1 for sampling in drawn)
        self.unsorted = any(sampling.top_p < 1 and sampling.top_k == 0 for sampling in drawn)
        """A top_p over the whole vocabulary: how many tokens it takes is not known beforehand."""


def _limited(scores: Tensor, top_p: Tensor, top_k: Tensor, draws: Draws) -> Tensor:
    """`scores` with -inf where a row's top_k, or then its top_p of what that left, leaves a token out."""
    if not (draws.top_k or draws.by_mass):
        return scores
    vocabulary = scores.shape[-1]
    width = min(vocabulary, max(draws.top_k, CANDIDATES if draws.unsorted else 1))
    least, reached = _least(scores, top_p, top_k, width=width)
    if draws.unsorted and width < vocabulary and not bool(reached.all()):
        least, _ = _least(scores, top_p, top_k, width=vocabulary)
    return scores.masked_fill(scores < least, -math.inf)


def _least(scores: Tensor, top_p: Tensor, top_k: Tensor, *, width: int) -> tuple[Tensor, Tensor]:
    """The least score that a row keeps [rows, 1], and whether `width` tokens were enough to find it [rows]."""
    best = scores.topk(width).values
    limited = (top_k > 0)[:, None]
    kept = (torch.arange(width, device=scores.device) < top_k[:, None]) | ~limited
    norm = best.masked_fill(~kept, -math.inf).logsumexp(-1, keepdim=True)
    norm = norm.where(limited, scores.logsumexp(-1, keepdim=True))
    mass = (best - norm).exp().masked_fill(~kept, 0).cumsum(-1)
    before = torch.cat([torch.zeros_like(mass[:, :1]), mass[:, :-1]], dim=-1)
    nucleus = kept & (before < top_p[:, None])
    nucleus[:, 0] = True
    least = best.masked_fill(~nucleus, math.inf).amin(-1, keepdim=True)
    everything = ~limited & (top_p >= 1)[:, None]
    reached = limited[:, 0] | (top_p >= 1) | (mass[:, -1] >= top_p)
    return least.masked_fill(everything, -math.inf), reached


def _key(seeds: Tensor, positions: Tensor) -> Tensor:
    """32 bits of splitmix64 (Steele, Lea, Flood 2014) at `positions` of the sequence of `seeds`."""
    state = seeds + (positions + 1) * _signed(_GOLDEN, 64)
    state = (state ^ _shifted(state, 30, 64)) * _signed(0xBF58476D1CE4E5B9, 64)
    state = (state ^ _shifted(state, 27, 64)) * _signed(0x94D049BB133111EB, 64)
    return (state ^ _shifted(state, 31, 64)).to(torch.int32)


def _mixed(bits: Tensor) -> Tensor:
    """murmur3's finaliser of 32 bits (Appleby, public domain)."""
    bits = (bits ^ _shifted(bits, 16, 32)) * _signed(0x85EBCA6B, 32)
    bits = (bits ^ _shifted(bits, 13, 32)) * _signed(0xC2B2AE35, 32)
    return bits ^ _shifted(bits, 16, 32)


def _shifted(bits: Tensor, by: int, size: int) -> Tensor:
    """To the right without the sign: torch has no unsigned arithmetic."""
    return (bits >> by) & ((1 << (size - by)) - 1)


def _signed(constant: int, size: int) -> int:
    return constant - (1 << size) if constant >= 1 << (size - 1) else constant
