"""`tollgate models convert`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Tollgate
from tests.worker.local_chatglm import originals
from tests.worker.local_chatglm.originals import Original
from tollgate.cli import exits


@pytest.fixture
def original(tmp_path: Path) -> Original:
    originals.train_tokenizer(tmp_path / "tokenizer.model")
    return originals.write(tmp_path / "chatglm3-6b", tmp_path / "tokenizer.model")


def test_it_says_what_was_made_and_compared(original: Original, tollgate: Tollgate, tmp_path: Path) -> None:
    ended = tollgate("models", "convert", "chatglm3-6b", "my native")
    assert ended.code == exits.OK
    made, tokens, logits, run = ended.stdout.splitlines()
    assert made == f"{tmp_path}/my native: ChatGLM3 as a native GLM, 0.0 GB of weights"
    assert tokens.startswith("tokenizer: the same tokens as sentencepiece on 2,")
    assert "from the original's formulas in float32" in logits
    assert run == f"run it: tollgate worker --lanes local --model '{tmp_path}/my native'"
    assert json.loads((tmp_path / "my native" / "config.json").read_text())["architectures"] == ["GlmForCausalLM"]


def test_before_it_is_converted_its_command_is_told_and_after_it_the_engine_runs_it(
    original: Original, tollgate: Tollgate
) -> None:
    before = tollgate("models", "check", "chatglm3-6b", "--device-memory", "24GB")
    assert before.code == exits.FAILED
    assert "convert it, once: tollgate models convert chatglm3-6b chatglm3-6b-native" in before.stdout
    assert tollgate("models", "convert", "chatglm3-6b", "chatglm3-6b-native").code == exits.OK
    after = tollgate("models", "check", "chatglm3-6b-native", "--device-memory", "24GB")
    assert after.code == exits.OK
    assert "GlmForCausalLM (glm), native" in after.stdout


def test_a_script_reads_it_as_json(original: Original, tollgate: Tollgate, tmp_path: Path) -> None:
    ended = tollgate("models", "convert", "chatglm3-6b", "native", "--json")
    assert ended.json["folder"] == str(tmp_path / "native")
    assert ended.json["generation"] == 3
    assert ended.json["logit_difference"] < 1e-4
    assert ended.json["logit_difference_of_own_code"] is None


def test_a_damaged_original_is_wrong_usage(original: Original, tollgate: Tollgate, tmp_path: Path) -> None:
    (original.folder / "pytorch_model-00003-of-00003.bin").unlink()
    ended = tollgate("models", "convert", "chatglm3-6b", "native")
    assert ended.code == exits.USAGE
    assert "pytorch_model-00003-of-00003.bin is missing" in ended.stderr
    assert not (tmp_path / "native").exists()


def test_a_mismatch_is_a_failure(tollgate: Tollgate, tmp_path: Path) -> None:
    originals.train_tokenizer(tmp_path / "tokenizer.model", treat_whitespace_as_suffix=True)
    originals.write(tmp_path / "original", tmp_path / "tokenizer.model")
    ended = tollgate("models", "convert", "original", "native")
    assert ended.code == exits.FAILED
    assert "differs from sentencepiece at token" in ended.stderr
    assert not list(tmp_path.glob("native*"))


def test_a_name_that_is_nowhere_is_wrong_usage(tollgate: Tollgate) -> None:
    ended = tollgate("models", "convert", "nowhere", "native")
    assert ended.code == exits.USAGE
    assert "there is no folder nowhere" in ended.stderr
