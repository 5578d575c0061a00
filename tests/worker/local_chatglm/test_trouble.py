"""What is wrong with a checkpoint is said by name, and nothing that looks finished stays behind."""

from __future__ import annotations

import fcntl
import json
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.worker.local_chatglm import originals
from tests.worker.local_chatglm.originals import Original
from worker.upstreams.local.chatglm import architecture, conversion, destination, logits_check
from worker.upstreams.local.chatglm.errors import DestinationError, MismatchError, OriginalError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
CHATGLM3 = {"generation": 3}


class Harmful:
    """Unpickled, it would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-run"),))


@pytest.fixture
def sharded(sentencepiece_model: Path, tmp_path: Path) -> Original:
    return originals.write(tmp_path / "original", sentencepiece_model)


@pytest.fixture
def single(sentencepiece_model: Path, tmp_path: Path) -> Original:
    return originals.write(tmp_path / "original", sentencepiece_model, form="one .bin")


def refused(original: Original, reason: str) -> None:
    """The conversion ends with an OriginalError that says `reason`, and leaves nothing."""
    target = original.folder.with_name("native")
    with pytest.raises(OriginalError, match=reason):
        conversion.convert(original.folder, target)
    assert [path.name for path in target.parent.iterdir()] == ["original"]


def second(original: Original) -> Path:
    return original.folder / "pytorch_model-00002-of-00003.bin"


def test_a_shard_that_is_missing(sharded: Original) -> None:
    second(sharded).unlink()
    refused(sharded, r"pytorch_model-00002-of-00003\.bin is missing, which pytorch_model\.bin\.index\.json names")


def test_a_shard_that_is_cut_short(sharded: Original) -> None:
    second(sharded).write_bytes(second(sharded).read_bytes()[:-500])
    refused(sharded, r"pytorch_model-00002-of-00003\.bin (cannot be read|holds more).*download it again")


def test_a_shard_that_is_empty(sharded: Original) -> None:
    second(sharded).write_bytes(b"")
    refused(sharded, r"pytorch_model-00002-of-00003\.bin cannot be read")


def test_a_shard_that_was_never_pulled(sharded: Original) -> None:
    second(sharded).write_bytes(POINTER)
    refused(sharded, "pointer of Git LFS, not the file: run git lfs pull")


def test_safetensors_that_are_cut_short(sentencepiece_model: Path, tmp_path: Path) -> None:
    original = originals.write(tmp_path / "original", sentencepiece_model, form="sharded safetensors")
    path = original.folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(original, r"model-00002-of-00003\.safetensors cannot be read")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', "\x00"])
def test_an_index_that_is_none(text: str, sharded: Original) -> None:
    (sharded.folder / "pytorch_model.bin.index.json").write_text(text)
    refused(sharded, r"pytorch_model\.bin\.index\.json is no index of weights")


def test_an_index_that_names_what_is_not_there(sharded: Original) -> None:
    found = torch.load(second(sharded), weights_only=True)
    name = next(iter(found))
    del found[name]
    torch.save(found, second(sharded))
    refused(sharded, f"has no tensor {name}, which the index says it has")


def test_no_weights_at_all(sharded: Original) -> None:
    for path in sharded.folder.glob("pytorch_model*"):
        path.unlink()
    refused(sharded, r"has no weights: none of model\.safetensors")


def test_code_in_a_pickle_is_not_run(single: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({**single.tensors, "more": Harmful()}, single.folder / "pytorch_model.bin")
    refused(single, "holds more than tensors, or is damaged; code in it is never run")
    (single.folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful(), protocol=2))
    refused(single, "code in it is never run")


def test_a_list_of_tensors_is_no_checkpoint(single: Original) -> None:
    torch.save(list(single.tensors.values()), single.folder / "pytorch_model.bin")
    refused(single, "something else than named tensors")


def test_a_tensor_that_is_missing(single: Original) -> None:
    del single.tensors["transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"]
    torch.save(single.tensors, single.folder / "pytorch_model.bin")
    refused(single, r"has no tensor transformer\.encoder\.layers\.1\.mlp\.dense_4h_to_h\.weight: the checkpoint is")


def test_a_tensor_that_no_chatglm_has(single: Original) -> None:
    torch.save(single.tensors | {"lora_A": torch.ones(2)}, single.folder / "pytorch_model.bin")
    refused(single, r"1 tensors that ChatGLM2 and 3 have not \(lora_A")


def test_a_tensor_of_no_numbers(single: Original) -> None:
    single.tensors["transformer.output_layer.weight"][3, 3] = torch.nan
    torch.save(single.tensors, single.folder / "pytorch_model.bin")
    refused(single, r"transformer\.output_layer\.weight has values that are no numbers")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": 64}, "the files do not belong together"),
        ({"num_layers": 4}, r"has no tensor transformer\.encoder\.layers\.3"),
        ({"num_layers": 2}, "7 tensors that ChatGLM2 and 3 have not"),
        ({"num_layers": "3"}, "num_layers is '3', and should be a whole number over 0"),
        ({"kv_channels": None}, "kv_channels is None"),
        ({"padded_vocab_size": 703}, "makes 709 tokens, and the model knows 703"),
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"position_encoding_2d": True}, "first generation.*docs/chatglm.md"),
        ({"eos_token_id": [151329, 151336]}, "GLM-4 with code of its own.*-hf"),
        ({"pre_seq_len": 128}, "P-Tuning"),
        ({"rmsnorm": False}, "rmsnorm = False; the published ChatGLM2 and 3 have True"),
        ({"add_bias_linear": True}, "add_bias_linear = True"),
        ({"quantization_bit": 3}, "quantization_bit = 3; 4 and 8 can be unpacked"),
    ],
    ids=str,
)
def test_a_configuration_of_another_model(changes: dict[str, Any], reason: str, sharded: Original) -> None:
    (sharded.folder / "config.json").write_text(json.dumps(sharded.config | changes))
    refused(sharded, reason)


@pytest.mark.parametrize("text", ["", "{", "[]", None])
def test_a_configuration_that_cannot_be_read(text: str | None, sharded: Original) -> None:
    path = sharded.folder / "config.json"
    path.unlink() if text is None else path.write_text(text)
    refused(sharded, r"config\.json (cannot be read|is no JSON object)")


def test_packed_weights_that_the_configuration_does_not_mention(sentencepiece_model: Path, tmp_path: Path) -> None:
    original = originals.write(tmp_path / "original", sentencepiece_model, form="one .bin", bits=8)
    (original.folder / "config.json").write_text(json.dumps(original.config | {"quantization_bit": 0}))
    refused(original, "tensors that ChatGLM2 and 3 have not")


def test_a_checkpoint_that_does_not_say_its_generation(sharded: Original, tmp_path: Path) -> None:
    (sharded.folder / "tokenization_chatglm.py").unlink()
    (sharded.folder / "config.json").write_text(json.dumps(sharded.config | {"_name_or_path": "models/mine"}))
    refused(sharded, "say --generation 2 or --generation 3")
    assert conversion.convert(sharded.folder, tmp_path / "native", generation=3).generation == 3


def test_a_native_model_is_not_asked_for_its_generation(sharded: Original) -> None:
    (sharded.folder / "tokenization_chatglm.py").unlink()
    (sharded.folder / "config.json").write_text(json.dumps({"model_type": "glm"}))
    refused(sharded, "model_type 'glm'.*served as it is")


def test_the_name_tells_the_generation_where_no_code_does(sharded: Original, tmp_path: Path) -> None:
    (sharded.folder / "tokenization_chatglm.py").unlink()
    assert conversion.convert(sharded.folder, tmp_path / "native").generation == 3


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def swap_gate_and_up(tensors: dict[str, torch.Tensor]) -> None:
    name = "model.layers.1.mlp.gate_up_proj.weight"
    tensors[name] = torch.cat(list(reversed(tensors[name].chunk(2)))).contiguous()


def lose_a_bias(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.2.self_attn.q_proj.bias"].zero_()


def shift_the_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"].roll(1, 0)


@pytest.mark.parametrize(
    ("change", "where"), [(swap_gate_and_up, "layer 1"), (lose_a_bias, "layer 2"), (shift_the_head, "logits")]
)
def test_a_model_that_answers_otherwise_is_told_apart(
    change: Callable[[dict[str, torch.Tensor]], None], where: str, single: Original, tmp_path: Path
) -> None:
    folder = conversion.convert(single.folder, tmp_path / "native").folder
    changed(folder, change)
    model = architecture.read(single.config, **CHATGLM3)
    with pytest.raises(MismatchError, match=f"^{where}: the converted model is"):
        logits_check.check(folder, model, read=single.read, tied=False, answered=None, told=lambda _: None)


def test_another_rotary_base_is_told_apart(single: Original, tmp_path: Path) -> None:
    folder = conversion.convert(single.folder, tmp_path / "native").folder
    model = architecture.read(single.config | {"rope_ratio": 2}, **CHATGLM3)
    with pytest.raises(MismatchError, match=r"^layer 0"):
        logits_check.check(folder, model, read=single.read, tied=False, answered=None, told=lambda _: None)


def test_a_folder_with_something_in_it_is_not_written(single: Original, tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "native" / "mine").write_text("mine")
    with pytest.raises(DestinationError, match="native is not empty"):
        conversion.convert(single.folder, tmp_path / "native")
    assert (tmp_path / "native" / "mine").read_text() == "mine"


def test_an_empty_folder_is_written(single: Original, tmp_path: Path) -> None:
    (tmp_path / "native").mkdir()
    conversion.convert(single.folder, tmp_path / "native")
    assert (tmp_path / "native" / "config.json").exists()


def test_a_file_is_no_folder(single: Original, tmp_path: Path) -> None:
    (tmp_path / "native").write_text("")
    with pytest.raises(DestinationError, match="is no folder"):
        conversion.convert(single.folder, tmp_path / "native")


def test_two_conversions_into_one_folder_are_one_too_many(single: Original, tmp_path: Path) -> None:
    (tmp_path / "native.partial").mkdir()
    with (tmp_path / "native.partial" / destination.LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DestinationError, match="another conversion is writing"):
            conversion.convert(single.folder, tmp_path / "native")
        assert (tmp_path / "native.partial").exists()


def test_what_a_killed_conversion_left_is_written_over(single: Original, tmp_path: Path) -> None:
    left = tmp_path / "native.partial"
    left.mkdir()
    for name in (destination.LOCK, "model-00001-of-00009.safetensors"):
        (left / name).write_text("")
    made = conversion.convert(single.folder, tmp_path / "native")
    assert not left.exists()
    assert not (made.folder / "model-00001-of-00009.safetensors").exists()
    assert not (made.folder / destination.LOCK).exists()


def test_a_folder_of_somebody_elses_is_not_written_over(single: Original, tmp_path: Path) -> None:
    (tmp_path / "native.partial").mkdir()
    (tmp_path / "native.partial" / "mine").write_text("mine")
    with pytest.raises(DestinationError, match="no conversion's: move it away"):
        conversion.convert(single.folder, tmp_path / "native")
    assert (tmp_path / "native.partial" / "mine").exists()


@pytest.mark.parametrize("step", ["tokenizer", "weights", "comparing"])
def test_an_interrupt_leaves_nothing(step: str, single: Original, tmp_path: Path) -> None:
    def interrupt(present: str, *_: int) -> None:
        if present == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.convert(single.folder, tmp_path / "native", told=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match=r"GB free, and the converted model needs 1000000\.1 GB"):
        destination.require_room(tmp_path, size=10**15)


def test_a_disk_that_fills_up_leaves_nothing(single: Original, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: str, done: int, _: int) -> None:
        if step == "weights" and done > 100_000:
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))

    try:
        with pytest.raises(DestinationError, match="cannot be written: File too large"):
            conversion.convert(single.folder, tmp_path / "native", told=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["original"]
