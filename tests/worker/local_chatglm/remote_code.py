"""A checkpoint's own code, small, in the form of the published `modeling_chatglm.py`, for the transformers of today.

It is copied beside a checkpoint's weights, whose names it shares, and imports nothing of this project.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class OwnConfig(PreTrainedConfig):
    model_type = "chatglm"


class Rotary(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.inv_freq: torch.Tensor
        self.register_buffer("inv_freq", torch.ones(dim // 2))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        theta = 1.0 / (10_000 ** (torch.arange(0, self.dim, 2, dtype=torch.float) / self.dim))
        angles = torch.outer(positions.float(), theta)
        return torch.stack([angles.cos(), angles.sin()], dim=-1).to(self.inv_freq.dtype)


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.weight * (states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-5))


class Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads, self.groups, self.size = (
            config.num_attention_heads,
            config.multi_query_group_num,
            config.kv_channels,
        )
        rows = (self.heads + 2 * self.groups) * self.size
        self.query_key_value = nn.Linear(config.hidden_size, rows, bias=True)
        self.dense = nn.Linear(self.heads * self.size, config.hidden_size, bias=False)

    def forward(self, states: torch.Tensor, turning: torch.Tensor) -> torch.Tensor:
        mixed = self.query_key_value(states).unflatten(-1, (-1, self.size)).transpose(1, 2)
        query, key, value = mixed.split([self.heads, self.groups, self.groups], dim=1)
        attended = nn.functional.scaled_dot_product_attention(
            turned(query, turning), turned(key, turning), value, is_causal=True, enable_gqa=True
        )
        return self.dense(attended.transpose(1, 2).flatten(2))


def turned(heads: torch.Tensor, turning: torch.Tensor) -> torch.Tensor:
    size = turning.shape[-2] * 2
    pairs, rest = heads[..., :size].unflatten(-1, (-1, 2)), heads[..., size:]
    real, imaginary, cos, sin = pairs[..., 0], pairs[..., 1], turning[..., 0], turning[..., 1]
    out = torch.stack([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1)
    return torch.cat([out.flatten(-2), rest], dim=-1)


class Mlp(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 2 * config.ffn_hidden_size, bias=False)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        gate, up = self.dense_h_to_4h(states).chunk(2, dim=-1)
        return self.dense_4h_to_h(nn.functional.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size)
        self.self_attention = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size)
        self.mlp = Mlp(config)

    def forward(self, states: torch.Tensor, turning: torch.Tensor) -> torch.Tensor:
        states = states + self.self_attention(self.input_layernorm(states), turning)
        return states + self.mlp(self.post_attention_layernorm(states))


class Embedding(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.word_embeddings(ids)


class Encoder(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_layernorm = Norm(config.hidden_size)


class Transformer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embedding = Embedding(config)
        self.rotary_pos_emb = Rotary(config.kv_channels // 2)
        self.encoder = Encoder(config)
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transformer = Transformer(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """All of them are loaded."""

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, use_cache: bool) -> Any:
        core = self.transformer
        states, turning = core.embedding(input_ids), core.rotary_pos_emb(position_ids[0])
        for block in core.encoder.layers:
            states = block(states, turning)
        return CausalLMOutputWithPast(logits=core.output_layer(core.encoder.final_layernorm(states)))
