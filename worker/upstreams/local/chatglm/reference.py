"""ChatGLM2 and 3 in plain tensors, from the original's weights: what a conversion is compared with.

Written from the formulas of the published `modeling_chatglm.py`, in float32, and apart from transformers' GLM: each
layer is x + attention(norm(x)), then x + down(silu(gate) * up) of norm(x).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from worker.upstreams.local.chatglm import layout
from worker.upstreams.local.chatglm.architecture import ROPE_BASE, Architecture

Read = Callable[[str], Tensor]


def layer(model: Architecture, number: int, states: Tensor, positions: Tensor, *, read: Read) -> Tensor:
    """One layer. `states` [tokens, hidden] of tokens at `positions`; `read` gives the original's tensor of a name."""
    prefix = layout.original_layer(number)

    def of(name: str) -> Tensor:
        return read(f"{prefix}.{name}").float()

    seen = normalize(states, of("input_layernorm.weight"), model.epsilon)
    bias = of("self_attention.query_key_value.bias") if model.qkv_bias else None
    mixed = functional.linear(seen, of("self_attention.query_key_value.weight"), bias)
    states = states + attend(model, mixed, positions) @ of("self_attention.dense.weight").T
    seen = normalize(states, of("post_attention_layernorm.weight"), model.epsilon)
    gate, up = (seen @ of("mlp.dense_h_to_4h.weight").T).chunk(2, dim=-1)
    return states + (functional.silu(gate) * up) @ of("mlp.dense_4h_to_h.weight").T


def normalize(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm."""
    return weight * (states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + epsilon))


def attend(model: Architecture, mixed: Tensor, positions: Tensor) -> Tensor:
    """Attention of each token to those before it; `mixed` [tokens, query, key and value rows]."""
    query, key, value = _heads(model, mixed)
    query, key = (_turned(model, part, positions) for part in (query, key))
    key, value = (part.repeat_interleave(model.heads // model.groups, dim=1) for part in (key, value))
    scores = torch.einsum("ahd,bhd->hab", query, key) / math.sqrt(model.head_dim)
    later = torch.ones(len(mixed), len(mixed), dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    return torch.einsum("hab,bhd->ahd", weights, value).flatten(1)


def _heads(model: Architecture, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, [tokens, heads, head_dim] each."""
    if model.interleaved:
        query, key, value = mixed.view(len(mixed), model.heads, 3 * model.head_dim).chunk(3, dim=-1)
        return query, key, value
    ends = (model.query_rows, model.query_rows + model.group_rows)
    query, key, value = mixed.tensor_split(ends, dim=-1)
    return _by_head(model, query), _by_head(model, key), _by_head(model, value)


def _by_head(model: Architecture, rows: Tensor) -> Tensor:
    return rows.view(len(rows), -1, model.head_dim)


def _turned(model: Architecture, heads: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions: neighbours of the first half of a head are turned as complex numbers, the rest stays."""
    base = ROPE_BASE if model.interpolated else ROPE_BASE * model.rope_ratio
    scaled = positions / model.rope_ratio if model.interpolated else positions
    theta = 1.0 / base ** (torch.arange(0, model.rotary_dim, 2).float() / model.rotary_dim)
    angles = torch.outer(scaled.float(), theta)[:, None]
    turning, resting = heads[..., : model.rotary_dim], heads[..., model.rotary_dim :]
    real, imaginary = turning[..., 0::2], turning[..., 1::2]
    turned = torch.stack(
        (real * angles.cos() - imaginary * angles.sin(), imaginary * angles.cos() + real * angles.sin()), dim=-1
    )
    return torch.cat((turned.flatten(-2), resting), dim=-1)
