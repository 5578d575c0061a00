from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.local_models import published
from tests.worker.local_models.published import SMALL, SMALL_NUMBERS, write_checkpoint, write_json, write_weights
from tollgate.domain.errors import SettingsError
from worker.upstreams.local import checkpoints

INDEX = "model.safetensors.index.json"


def problems(path: Path) -> list[str]:
    return [finding.problem for finding in checkpoints.read(str(path)).findings]


def fixes(path: Path) -> list[str]:
    return [finding.fix for finding in checkpoints.read(str(path)).findings]


def test_a_good_checkpoint_is_told_whole(tmp_path: Path) -> None:
    found = checkpoints.require(str(write_checkpoint(tmp_path)))
    assert (found.class_name, found.native, found.servable, found.findings) == ("GlmForCausalLM", True, True, ())
    assert (found.parameters, found.files.numbers, found.files.dtype) == (SMALL_NUMBERS, SMALL_NUMBERS, "BF16")
    assert (found.has_tokenizer, found.has_chat_template, found.ends) == (True, True, frozenset({0, 1}))


def test_the_ends_of_generation_config_win(tmp_path: Path) -> None:
    write_json(write_checkpoint(tmp_path) / "generation_config.json", {"eos_token_id": 7})
    assert checkpoints.read(str(tmp_path)).ends == {7}


def test_the_files_of_an_index_are_added_up(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_weights(tmp_path / "a.safetensors", {"x": ("F32", [100]), "rotary_emb.inv_freq": ("F32", [8])})
    write_weights(tmp_path / "b.safetensors", {"y": ("BF16", [SMALL_NUMBERS - 100])})
    write_json(tmp_path / INDEX, {"metadata": {}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})
    found = checkpoints.read(str(tmp_path))
    assert (found.findings, found.files.dtypes) == ((), {"F32": 100, "BF16": SMALL_NUMBERS - 100})


def test_layers_after_the_models_last_are_not_its_own(tmp_path: Path) -> None:
    """GLM-4.5 and later bring a layer that guesses the token after the next; transformers leaves it out."""
    weights = {"model.layers.1.x": ("BF16", [SMALL_NUMBERS]), "model.layers.2.x": ("BF16", [1_000])}
    found = checkpoints.read(str(write_checkpoint(tmp_path, weights=weights)))
    assert (found.files.numbers, found.files.beyond, found.findings) == (SMALL_NUMBERS, 1_000, ())


def without_a_shard(path: Path) -> None:
    (path / "model.safetensors").unlink()
    write_json(path / INDEX, {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})
    write_weights(path / "a.safetensors", {"x": ("BF16", [SMALL_NUMBERS])})


def with_a_broken_index(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / INDEX).write_text('{"weight_map": {"x"', encoding="utf-8")


def cut_off(path: Path) -> None:
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(1_000)


def as_a_pointer(path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"
    (path / "model.safetensors").write_text(text, encoding="utf-8")


def as_nothing_known(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"PK\x03\x04 a pickle")


def of_another_model(path: Path) -> None:
    write_weights(path / "model.safetensors", {"x": ("BF16", [SMALL_NUMBERS - 64])})


def without_a_template(path: Path) -> None:
    (path / "chat_template.jinja").unlink()
    write_json(path / "tokenizer_config.json", {"model_max_length": 8})


@pytest.mark.parametrize(
    ("damage", "problem", "fix"),
    [
        (without_a_shard, "1 of 2 weight files are missing: b.safetensors", "download them again"),
        (with_a_broken_index, "the index of the weights cannot be read: ", "download the index again"),
        (cut_off, "model.safetensors is damaged: it has 1,000 bytes where its header tells 230,", "download model.sa"),
        (as_a_pointer, "model.safetensors is a Git LFS pointer, not the weights", "run `git lfs pull` there"),
        (as_nothing_known, "model.safetensors is damaged: it has no safetensors header", "download model.safetensors"),
        (of_another_model, "the files hold 64 numbers fewer than config.json describes", "download both again"),
        (lambda path: (path / "model.safetensors").unlink(), "no weights (model.safetensors or ", "download the whole"),
        (lambda path: (path / "tokenizer.json").unlink(), "there is no tokenizer.json", "copy it from the model"),
        (without_a_template, "there is no chat template", "a base model cannot answer messages"),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(
    tmp_path: Path, damage: Callable[[Path], None], problem: str, fix: str
) -> None:
    damage(write_checkpoint(tmp_path))
    (found,) = checkpoints.read(str(tmp_path)).findings
    assert (found.problem[: len(problem)], fix in found.fix, found.fatal) == (problem, True, True)
    with pytest.raises(SettingsError, match="cannot be served") as caught:
        checkpoints.require(str(tmp_path))
    assert problem in str(caught.value)
    assert fix in str(caught.value)


def test_a_chat_template_may_stand_in_the_tokenizers_configuration(tmp_path: Path) -> None:
    write_json(write_checkpoint(tmp_path) / "tokenizer_config.json", {"chat_template": "{{ messages }}"})
    (tmp_path / "chat_template.jinja").unlink()
    assert checkpoints.read(str(tmp_path)).has_chat_template


def test_pickles_are_weighed_by_the_configuration(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    found = checkpoints.read(str(tmp_path))
    assert (found.files.numbers, found.parameters, found.servable) == (None, SMALL_NUMBERS, True)


def test_chatglm3_is_converted_by_the_command_that_is_told(tmp_path: Path) -> None:
    path = tmp_path / "chat glm3"
    path.mkdir()
    write_json(path / "config.json", published.CHATGLM3_6B)
    found = checkpoints.read(str(path))
    assert (found.native, found.parameters) == (False, 6_243_584_000)
    assert fixes(path) == [f"convert it, once: tollgate models convert '{path}' '{path}-native'"]


def test_chatglm3_that_cannot_be_converted_says_why(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", published.CHATGLM3_6B | {"pre_seq_len": 128})
    assert ["P-Tuning" in fix for fix in fixes(tmp_path)] == [True]


def test_chatglm_of_the_first_generation_is_a_server_of_its_own(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", published.CHATGLM_6B)
    assert fixes(tmp_path) == ["run it beside the worker, as a server of its own: see docs/chatglm.md"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "llama"}, "its model type is llama; the engine runs glm, glm4, glm4_moe, glm4_moe_lite"),
        ({"model_type": None}, "its model type is None; "),
        ({"quantization_config": {"quant_method": "fp8"}}, "its weights are quantised already (fp8)"),
        ({"hidden_size": "64"}, "config.json has no good value of hidden_size"),
    ],
)
def test_a_model_that_the_engine_does_not_run_is_refused(
    tmp_path: Path, change: published.Config, problem: str
) -> None:
    (told,) = problems(write_checkpoint(tmp_path, SMALL | change))
    assert told.startswith(problem)


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        ("config.json", "{", "cannot be read: "),
        ("config.json", "[]", "is not a JSON object"),
        ("config.json", None, "has no config.json"),
        ("tokenizer_config.json", '{"chat_template": ', "cannot be read: "),
        ("generation_config.json", "\x00", "cannot be read: "),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, name: str, written: str | None, message: str) -> None:
    path = write_checkpoint(tmp_path) / name
    (tmp_path / "chat_template.jinja").unlink()
    if written is None:
        path.unlink()
    else:
        path.write_text(written, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        checkpoints.read(str(tmp_path))
