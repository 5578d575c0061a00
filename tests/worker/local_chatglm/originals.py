"""Tiny random checkpoints in the published form of ChatGLM2 and 3, and a tokenizer.model trained on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file

from worker.upstreams.local.chatglm import samples

VOCABULARY = 700
PADDED = 736
CODE = {
    2: '"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"',
    3: '"<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"',
}
"""What find_generation reads of tokenization_chatglm.py."""


def train_tokenizer(path: Path, **options: Any) -> None:
    """Write a BPE model with byte fallback, as ChatGLM's, to `path`."""
    texts = [line for text in samples.WRITTEN for line in text.split("\n") if line.strip() and "\x00" not in line]
    chosen: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": VOCABULARY,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "character_coverage": 0.98,
        "minloglevel": 2,
    }
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts * 3), model_writer=file, **chosen | options
        )


def config(generation: int, **changes: Any) -> dict[str, Any]:
    """As the published config.json, with small numbers."""
    return {
        "_name_or_path": f"THUDM/chatglm{generation}-6b",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "ffn_hidden_size": 48,
        "hidden_size": 32,
        "kv_channels": 8,
        "layernorm_epsilon": 1e-05,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 4,
        "num_layers": 3,
        "original_rope": True,
        "padded_vocab_size": PADDED,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": 512,
        "torch_dtype": "float16",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "pad_token_id": 0,
    } | changes


def tensors(made: dict[str, Any], *, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Random weights under the original's names, biases and norms included."""
    chance = torch.Generator().manual_seed(1)
    hidden, ffn = made["hidden_size"], made["ffn_hidden_size"]
    wide = made["kv_channels"] * made["num_attention_heads"]
    groups = made["multi_query_group_num"] if made["multi_query_attention"] else made["num_attention_heads"]
    mixed = wide + 2 * groups * made["kv_channels"]
    shapes: dict[str, tuple[int, ...]] = {"embedding.word_embeddings.weight": (made["padded_vocab_size"], hidden)}
    for layer in range(made["num_layers"]):
        of = f"encoder.layers.{layer}."
        shapes |= {
            of + "input_layernorm.weight": (hidden,),
            of + "self_attention.query_key_value.weight": (mixed, hidden),
            of + "self_attention.query_key_value.bias": (mixed,),
            of + "self_attention.dense.weight": (hidden, wide),
            of + "post_attention_layernorm.weight": (hidden,),
            of + "mlp.dense_h_to_4h.weight": (2 * ffn, hidden),
            of + "mlp.dense_4h_to_h.weight": (hidden, ffn),
        }
    if not made["add_qkv_bias"]:
        shapes = {name: shape for name, shape in shapes.items() if not name.endswith(".bias")}
    shapes |= {"encoder.final_layernorm.weight": (hidden,), "output_layer.weight": (made["padded_vocab_size"], hidden)}
    found = {}
    for name, shape in shapes.items():
        numbers = torch.randn(shape, generator=chance)
        scaled = 1 + 0.2 * numbers if "layernorm" in name else 0.3 * numbers
        found[f"transformer.{name}"] = scaled.to(dtype)
    found["transformer.rotary_pos_emb.inv_freq"] = torch.ones(made["kv_channels"] // 4, dtype=dtype)
    return found


def quantize(found: dict[str, torch.Tensor], *, bits: int) -> dict[str, torch.Tensor]:
    """Layers' matrices as the int4 and int8 checkpoints have them."""
    packed = {}
    for name, tensor in found.items():
        if tensor.dim() != 2 or ".layers." not in name:
            packed[name] = tensor
            continue
        scale = tensor.abs().amax(-1) / (2 ** (bits - 1) - 1)
        whole = torch.round(tensor / scale[:, None]).to(torch.int8)
        if bits == 4:
            high, low = whole[:, 0::2].view(torch.uint8), whole[:, 1::2].view(torch.uint8)
            whole = ((high << 4) | (low & 15)).view(torch.int8)
        packed |= {name: whole, f"{name}_scale": scale}
    return packed


def _single_pickle(folder: Path, found: dict[str, torch.Tensor]) -> None:
    torch.save(found, folder / "pytorch_model.bin")


def _old_pickle(folder: Path, found: dict[str, torch.Tensor]) -> None:
    torch.save(found, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def _pickles(folder: Path, found: dict[str, torch.Tensor]) -> None:
    _sharded(folder, found, "pytorch_model-{:05}-of-00003.bin", "pytorch_model.bin.index.json", torch.save)


def _safetensors(folder: Path, found: dict[str, torch.Tensor]) -> None:
    _sharded(folder, found, "model-{:05}-of-00003.safetensors", "model.safetensors.index.json", save_file)


def _sharded(
    folder: Path, found: dict[str, torch.Tensor], pattern: str, index: str, save: Callable[[Any, Path], None]
) -> None:
    names = list(found)
    places = {name: pattern.format(1 + 3 * i // len(names)) for i, name in enumerate(names)}
    for file in sorted(set(places.values())):
        save({name: found[name] for name in names if places[name] == file}, folder / file)
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))


FORMS: dict[str, Callable[[Path, dict[str, torch.Tensor]], None]] = {
    "one .bin": _single_pickle,
    "one .bin of old": _old_pickle,
    "sharded .bin": _pickles,
    "sharded safetensors": _safetensors,
}


@dataclass(kw_only=True)
class Original:
    """A checkpoint in a folder, and what it holds."""

    folder: Path
    generation: int
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(repr=False)
    """Not packed."""

    def read(self, name: str) -> torch.Tensor:
        return self.tensors[name]


def write(
    folder: Path,
    tokenizer: Path,
    *,
    generation: int = 3,
    form: str = "sharded .bin",
    bits: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Original:
    """Write a checkpoint into `folder`, which is made; `changes` go into its configuration."""
    folder.mkdir(parents=True)
    made = config(generation, **({"quantization_bit": bits} if bits else {}), **changes)
    found = tensors(made, dtype=dtype)
    (folder / "config.json").write_text(json.dumps(made))
    (folder / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    (folder / "tokenization_chatglm.py").write_text(f"special_tokens = [{CODE[generation]}]\n")
    FORMS[form](folder, quantize(found, bits=bits) if bits else found)
    return Original(folder=folder, generation=generation, config=made, tensors=found)
