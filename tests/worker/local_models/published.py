"""Configurations as they were published, and folders that look like a downloaded checkpoint without its gigabytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Config = dict[str, Any]
Tensors = Mapping[str, tuple[str, Sequence[int]]]
BYTES = {"BF16": 2, "F16": 2, "F32": 4}

GLM_4_9B: Config = {
    "architectures": ["GlmForCausalLM"],
    "model_type": "glm",
    "vocab_size": 151_552,
    "hidden_size": 4_096,
    "intermediate_size": 13_696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "attention_bias": True,
    "tie_word_embeddings": False,
    "eos_token_id": [151_329, 151_336, 151_338],
    "pad_token_id": 151_329,
    "dtype": "bfloat16",
}
"""zai-org/glm-4-9b-chat-hf."""
GLM_4_9B_0414 = GLM_4_9B | {
    "architectures": ["Glm4ForCausalLM"],
    "model_type": "glm4",
    "attention_bias": False,
    "max_position_embeddings": 32_768,
}
GLM_4_32B_0414 = GLM_4_9B_0414 | {
    "hidden_size": 6_144,
    "intermediate_size": 23_040,
    "num_hidden_layers": 61,
    "num_attention_heads": 48,
}
GLM_4_5_AIR: Config = {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "vocab_size": 151_552,
    "hidden_size": 4_096,
    "intermediate_size": 10_944,
    "moe_intermediate_size": 1_408,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 131_072,
    "attention_bias": True,
    "use_qk_norm": False,
    "tie_word_embeddings": False,
    "eos_token_id": [151_329, 151_336, 151_338],
}
GLM_4_7_FLASH: Config = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "vocab_size": 154_880,
    "hidden_size": 2_048,
    "intermediate_size": 10_240,
    "moe_intermediate_size": 1_536,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "kv_lora_rank": 512,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "num_nextn_predict_layers": 1,
    "max_position_embeddings": 202_752,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "eos_token_id": [154_820, 154_827, 154_829],
}
CHATGLM3_6B: Config = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "ffn_hidden_size": 13_696,
    "hidden_size": 4_096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "padded_vocab_size": 65_024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8_192,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CHATGLM_6B: Config = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "hidden_size": 4_096,
    "inner_hidden_size": 16_384,
    "max_sequence_length": 2_048,
    "num_attention_heads": 32,
    "num_layers": 28,
    "position_encoding_2d": True,
    "vocab_size": 130_528,
    "eos_token_id": 130_005,
}
SMALL = GLM_4_9B | {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "max_position_embeddings": 2_048,
    "pad_token_id": 0,
    "eos_token_id": [0, 1],
}
SMALL_NUMBERS = 115_264
"""Parameters of it."""


def write_checkpoint(folder: Path, config: Config = SMALL, *, weights: Tensors | None = None) -> Path:
    """A folder with everything that a chat model has; of its weights the header is true, and the rest a hole."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", {})
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    write_weights(
        folder / "model.safetensors",
        {"model.embed_tokens.weight": ("BF16", [SMALL_NUMBERS])} if weights is None else weights,
    )
    return folder


def write_weights(path: Path, tensors: Tensors) -> None:
    """A safetensors file whose values are a hole in the file system: it takes no room, however large."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    written = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + end)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
