"""The sizes of a ChatGLM2 or 3 model, from its config.json, and the same in GlmConfig's words. No torch.

Source: `configuration_chatglm.py` and `modeling_chatglm.py` of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.upstreams.local.chatglm import detection
from worker.upstreams.local.chatglm.errors import OriginalError

_AS_PUBLISHED = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "original_rope": True,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
}
"""What the native model has no setting for: a checkpoint of another value is another model."""
ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    layers: int
    hidden: int
    ffn: int
    """Width of the gate, and of what it gates."""
    heads: int
    groups: int
    """Key and value heads."""
    head_dim: int
    vocabulary: int
    """Rows of the embedding: more than the tokenizer has tokens."""
    epsilon: float
    qkv_bias: bool
    interleaved: bool
    """Without multi-query attention, query, key and value alternate head by head in one matrix."""
    context_tokens: int
    rope_ratio: float
    """What the context was stretched by."""
    interpolated: bool
    """ChatGLM2 divides positions by the ratio; ChatGLM3 multiplies the rotary base by it."""
    bits: int
    """Of a quantised checkpoint's weights, 4 or 8; 0: not quantised."""

    @property
    def query_rows(self) -> int:
        return self.heads * self.head_dim

    @property
    def group_rows(self) -> int:
        return self.groups * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Half of a head turns with the position."""
        return self.head_dim // 2


def refuse_other_models(config: Mapping[str, Any]) -> None:
    """Raises OriginalError: it is neither ChatGLM2 nor ChatGLM3."""
    kind = detection.detect(config)
    if kind is None:
        raise OriginalError(
            f"config.json says model_type {config.get('model_type')!r}; only ChatGLM2 and 3 can be converted; "
            "`tollgate models check` says whether it is served as it is"
        )
    if kind is not detection.Kind.CONVERTIBLE:
        raise OriginalError(f"this is {kind}, which cannot be converted: {detection.advice(kind, path='')}")


def read(config: Mapping[str, Any], *, generation: int) -> Architecture:
    """Of a config.json. Raises OriginalError for what cannot become a native GLM."""
    refuse_other_models(config)
    _refuse_others(config)
    heads, multi_query = _number(config, "num_attention_heads"), bool(config["multi_query_attention"])
    return Architecture(
        layers=_number(config, "num_layers"),
        hidden=_number(config, "hidden_size"),
        ffn=_number(config, "ffn_hidden_size"),
        heads=heads,
        groups=_number(config, "multi_query_group_num") if multi_query else heads,
        head_dim=_number(config, "kv_channels"),
        vocabulary=_number(config, "padded_vocab_size"),
        epsilon=float(config.get("layernorm_epsilon", 1e-5)),
        qkv_bias=bool(config.get("add_qkv_bias", False)),
        interleaved=not multi_query,
        context_tokens=_number(config, "seq_length"),
        rope_ratio=float(config.get("rope_ratio", 1)),
        interpolated=generation == 2,
        bits=int(config.get("quantization_bit") or 0),
    )


def native(model: Architecture, *, tied: bool, ends: list[int], pad: int, dtype: str) -> dict[str, Any]:
    """The fields of its GlmConfig. `ends`: the tokens that end an answer; `dtype`: as "float16"."""
    return {
        "vocab_size": model.vocabulary,
        "hidden_size": model.hidden,
        "intermediate_size": model.ffn,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.groups,
        "head_dim": model.head_dim,
        "rms_norm_eps": model.epsilon,
        "attention_bias": model.qkv_bias,
        "max_position_embeddings": model.context_tokens,
        "rope_parameters": _rope(model),
        "tie_word_embeddings": tied,
        "eos_token_id": ends,
        "pad_token_id": pad,
        "dtype": dtype,
        "architectures": ["GlmForCausalLM"],
    }


def _rope(model: Architecture) -> dict[str, Any]:
    if model.interpolated and model.rope_ratio != 1:
        turned: dict[str, Any] = {"rope_type": "linear", "factor": model.rope_ratio, "rope_theta": ROPE_BASE}
    else:
        turned = {"rope_type": "default", "rope_theta": ROPE_BASE * model.rope_ratio}
    return turned | {"partial_rotary_factor": 0.5}


def _refuse_others(config: Mapping[str, Any]) -> None:
    for name, published in _AS_PUBLISHED.items():
        if config.get(name, published) != published:
            raise OriginalError(
                f"config.json has {name} = {config[name]!r}; the published ChatGLM2 and 3 have {published!r}, "
                "and a native GLM can be nothing else"
            )
    if config.get("pre_seq_len"):
        raise OriginalError(
            "config.json has pre_seq_len: a P-Tuning v2 prefix, which a native GLM has no place for; "
            "convert the model it was tuned from"
        )
    if (bits := config.get("quantization_bit") or 0) not in (0, 4, 8):
        raise OriginalError(f"config.json has quantization_bit = {bits!r}; 4 and 8 can be unpacked")


def _number(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OriginalError(f"config.json: {name} is {value!r}, and should be a whole number over 0")
    return value
