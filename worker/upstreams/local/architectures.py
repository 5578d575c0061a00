"""What a config.json says of a model: its family, its shape, and how many weights of which kind. No torch, no files.

The counts are those of transformers' own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

NATIVE = {
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "glm4_moe_lite": "Glm4MoeLiteForCausalLM",
}
"""The families that the engine runs, and their classes in transformers."""


class MissingNumberError(ValueError):
    """config.json lacks a number, or has something else in its place. The message is the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder's shape."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    """Heads of the cache: under latent attention one, which all heads read."""
    key_dim: int
    """Values of one token, layer and head that the cache keeps as key."""
    value_dim: int
    expanded_dim: int
    """Values a head and token that latent attention unpacks of the cache in each step; 0 for all others."""
    widest: int
    """Of the layers' inner sizes, the largest."""
    vocabulary: int
    context_tokens: int
    linear: int
    """Weights that `quantization` packs."""
    other: int
    """All other parameters: embeddings, the output layer, biases, norms, what unpacks a latent cache, and experts:
    transformers stacks them, and packs linear layers only."""
    buffers: int
    """Numbers in the files that are no parameters: the experts' corrections, kept as 32-bit floats."""

    @property
    def parameters(self) -> int:
        return self.linear + self.other

    @property
    def cache_values(self) -> int:
        """Numbers that the cache keeps of one token, all layers together."""
        return self.layers * self.kv_heads * (self.key_dim + self.value_dim)


def of(config: Config) -> Architecture | None:
    """The architecture, or None of a model type that is not known here. Raises MissingNumberError."""
    family = config.get("model_type")
    if family in ("glm", "glm4"):
        return _dense(config, family=family)
    if family == "glm4_moe":
        return _experts(config)
    return _latent(config) if family == "glm4_moe_lite" else None


def _dense(config: Config, *, family: str) -> Architecture:
    hidden, layers, inner = (
        _number(config, name) for name in ("hidden_size", "num_hidden_layers", "intermediate_size")
    )
    linear, other = _attention(config, biased=bool(config.get("attention_bias", True)))
    norms = 2 if family == "glm" else 4
    return Architecture(
        **_shape(config),
        family=family,
        widest=inner,
        linear=layers * (linear + 3 * hidden * inner),
        other=layers * (other + norms * hidden) + _ends(config),
        buffers=0,
    )


def _experts(config: Config) -> Architecture:
    linear, other = _attention(config, biased=bool(config.get("attention_bias", False)))
    if config.get("use_qk_norm"):
        other += 2 * _head_dim(config)
    dense = min(_number(config, "first_k_dense_replace", 1), _number(config, "num_hidden_layers"))
    return _sparse(config, _shape(config), family="glm4_moe", linear=linear, other=other, dense=dense)


def _latent(config: Config) -> Architecture:
    """Latent attention: the cache keeps one compressed vector and one rotated key a token, whatever the heads.

    DeepSeek-V2, section 2.1 (https://arxiv.org/abs/2405.04434).
    """
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    names = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    latent, rotated, plain, value = (_number(config, name) for name in names)
    queries = config.get("q_lora_rank")
    biased = bool(config.get("attention_bias", False))
    linear = hidden * (latent + rotated) + heads * value * hidden
    other = latent + latent * heads * (plain + value) + (latent + rotated + hidden if biased else 0)
    if queries is None:
        linear += hidden * heads * (plain + rotated)
    else:
        linear += hidden * queries + queries * heads * (plain + rotated)
        other += queries + (queries if biased else 0)
    kinds = config.get("mlp_layer_types")
    dense = list(kinds).count("dense") if kinds else 1
    shape = _shape(config, cached=(1, latent, rotated), expanded_dim=2 * plain + rotated + 2 * value)
    return _sparse(config, shape, family="glm4_moe_lite", linear=linear, other=other, dense=dense)


def _sparse(config: Config, shape: dict[str, int], *, family: str, linear: int, other: int, dense: int) -> Architecture:
    """`dense` layers of the common kind, all others of experts; `linear` and `other` are one layer's attention."""
    names = ("hidden_size", "num_hidden_layers", "intermediate_size", "moe_intermediate_size", "n_routed_experts")
    hidden, layers, inner, expert, experts = (_number(config, name) for name in names)
    sparse = layers - dense
    shared = 3 * hidden * expert * _number(config, "n_shared_experts", 1)
    return Architecture(
        **shape,
        family=family,
        widest=max(inner, expert * _number(config, "num_experts_per_tok", 8)),
        linear=layers * linear + dense * 3 * hidden * inner + sparse * shared,
        other=layers * (other + 2 * hidden) + sparse * experts * (3 * hidden * expert + hidden) + _ends(config),
        buffers=sparse * experts,
    )


def _shape(config: Config, *, cached: tuple[int, int, int] | None = None, expanded_dim: int = 0) -> dict[str, int]:
    kv_heads, key, value = cached or (_kv_heads(config), _head_dim(config), _head_dim(config))
    return {
        "layers": _number(config, "num_hidden_layers"),
        "hidden": _number(config, "hidden_size"),
        "heads": _number(config, "num_attention_heads"),
        "kv_heads": kv_heads,
        "key_dim": key,
        "value_dim": value,
        "expanded_dim": expanded_dim,
        "vocabulary": _number(config, "vocab_size"),
        "context_tokens": _number(config, "max_position_embeddings"),
    }


def _attention(config: Config, *, biased: bool) -> tuple[int, int]:
    """Linear and other parameters of one layer of grouped-query attention."""
    hidden, head_dim = _number(config, "hidden_size"), _head_dim(config)
    queries, keys = _number(config, "num_attention_heads") * head_dim, _kv_heads(config) * head_dim
    return hidden * (2 * queries + 2 * keys), (queries + 2 * keys if biased else 0)


def _ends(config: Config) -> int:
    """The embeddings, the last norm, and the output layer unless it is the embeddings'."""
    hidden, tables = _number(config, "hidden_size"), 1 if config.get("tie_word_embeddings") else 2
    return hidden + tables * hidden * _number(config, "vocab_size")


def _head_dim(config: Config) -> int:
    return _number(config, "head_dim", _number(config, "hidden_size") // _number(config, "num_attention_heads"))


def _kv_heads(config: Config) -> int:
    return _number(config, "num_key_value_heads", _number(config, "num_attention_heads"))


def _number(config: Config, name: str, default: int | None = None) -> int:
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise MissingNumberError(name)
    return value
