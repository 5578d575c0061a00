"""A converted checkpoint answers as its original, in whichever files that came."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.worker.local_chatglm import answers, originals
from tests.worker.local_chatglm.originals import FORMS
from worker.upstreams.local.chatglm import conversion, layout, safetensors_writer

IDS = torch.randint(originals.VOCABULARY, (40,), generator=torch.Generator().manual_seed(3))
ROUNDED = 1e-4
"""What float32 rounds in sums of another order; the logits' spread is some 1.7."""


@pytest.mark.parametrize(
    ("generation", "form", "changes"),
    [
        *((3, form, {}) for form in FORMS),
        (2, "one .bin", {}),
        (2, "sharded .bin", {"rope_ratio": 4}),
        (3, "sharded .bin", {"rope_ratio": 50}),
        (3, "one .bin", {"multi_query_attention": False}),
        (3, "one .bin", {"add_qkv_bias": False}),
        (3, "one .bin", {"multi_query_group_num": 1, "kv_channels": 16}),
    ],
    ids=str,
)
def test_logits_are_the_originals(
    generation: int, form: str, changes: dict[str, Any], sentencepiece_model: Path, tmp_path: Path
) -> None:
    original = originals.write(tmp_path / "original", sentencepiece_model, generation=generation, form=form, **changes)
    made = conversion.convert(original.folder, tmp_path / "native")
    right, got = answers.of_original(original, IDS), answers.of_converted(made.folder, IDS)
    assert float((right - got).abs().max()) < ROUNDED
    assert made.agreement.difference < ROUNDED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native", "original"]


@pytest.mark.parametrize("generation", [2, 3])
def test_greedy_tokens_are_the_originals(generation: int, sentencepiece_model: Path, tmp_path: Path) -> None:
    original = originals.write(tmp_path / "original", sentencepiece_model, generation=generation)
    made = conversion.convert(original.folder, tmp_path / "native")
    prompt = IDS[:7]
    right = answers.greedy_of_original(original, prompt, count=24)
    assert answers.greedy_of_converted(made.folder, prompt, count=24) == right
    assert len(set(right)) > 5


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_unpacked_to_the_last_bit(bits: int, sentencepiece_model: Path, tmp_path: Path) -> None:
    half = torch.float16
    packed = originals.write(
        tmp_path / "packed", sentencepiece_model, form="one .bin", bits=bits, dtype=half, kv_channels=16
    )
    made = conversion.convert(packed.folder, tmp_path / "native")
    assert made.unpacked_bits == bits
    found = load_file(made.folder / "model.safetensors")
    name, top = "mlp.dense_h_to_4h", 2 ** (bits - 1) - 1
    whole = packed.read(f"transformer.encoder.layers.1.{name}.weight")
    scale = whole.abs().amax(-1, keepdim=True) / top
    right = torch.round(whole / scale).to(torch.int8).to(half) * scale
    assert torch.equal(found["model.layers.1.mlp.gate_up_proj.weight"], right)
    assert found["model.layers.1.mlp.gate_up_proj.weight"].dtype is half


def test_an_index_left_beside_one_file_is_passed_over(sentencepiece_model: Path, tmp_path: Path) -> None:
    original = originals.write(tmp_path / "original", sentencepiece_model, form="one .bin")
    (original.folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "gone.bin"}}')
    assert conversion.convert(original.folder, tmp_path / "native").agreement.difference < ROUNDED


def test_a_model_without_a_head_of_its_own_answers_with_its_embedding(
    sentencepiece_model: Path, tmp_path: Path
) -> None:
    original = originals.write(tmp_path / "original", sentencepiece_model, form="one .bin")
    del original.tensors[layout.HEAD]
    torch.save(original.tensors, original.folder / "pytorch_model.bin")
    made = conversion.convert(original.folder, tmp_path / "native")
    right, got = answers.of_original(original, IDS), answers.of_converted(made.folder, IDS)
    assert float((right - got).abs().max()) < ROUNDED


def test_precision_stays_and_large_models_are_divided(
    sentencepiece_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two gigabytes would be much for a test.
    monkeypatch.setattr(safetensors_writer.write, "__kwdefaults__", {"file_bytes": 40_000})
    original = originals.write(tmp_path / "original", sentencepiece_model, dtype=torch.bfloat16)
    made = conversion.convert(original.folder, tmp_path / "native")
    files = sorted(made.folder.glob("*.safetensors"))
    index = json.loads((made.folder / "model.safetensors.index.json").read_text())
    assert len(files) > 3
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == made.bytes
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert answers.of_converted(made.folder, IDS).dtype is torch.bfloat16


def test_what_ends_an_answer_is_in_the_configuration(sentencepiece_model: Path, tmp_path: Path) -> None:
    first = originals.VOCABULARY
    for generation, ends in ((2, [2]), (3, [2, first + 6, first + 8])):
        original = originals.write(tmp_path / f"original{generation}", sentencepiece_model, generation=generation)
        folder = conversion.convert(original.folder, tmp_path / f"native{generation}").folder
        generating = json.loads((folder / "generation_config.json").read_text())
        assert generating["eos_token_id"] == ends
        assert (generating["temperature"], generating["top_p"]) == (0.8, 0.8)
