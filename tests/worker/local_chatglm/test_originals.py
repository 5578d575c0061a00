"""Published names: in processes of their own, since the hub's client reads its address and its cache once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.processes import clean_environment
from tests.worker.local_chatglm import originals
from tests.worker.local_models import hub as stand_in
from worker.upstreams.local.chatglm import originals as published

FIND = "import sys; from worker.upstreams.local.chatglm import originals; print(originals.find(sys.argv[1]))"


def fetched(folder: Path, cache: Path) -> set[str]:
    """The names of what is fetched for chatglm3-6b, where `folder` is the model on the hub."""
    with stand_in.serve(folder, name="zai-org/chatglm3-6b") as address:
        environment = clean_environment() | {
            "HF_ENDPOINT": address,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, "-c", FIND, "chatglm3-6b"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {path.name for path in Path(done.stdout.strip()).iterdir()}


@pytest.mark.parametrize(
    ("form", "weights"),
    [
        ("sharded .bin", {f"pytorch_model-0000{n}-of-00003.bin" for n in (1, 2, 3)}),
        ("sharded safetensors", {f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)}),
    ],
)
def test_a_published_name_needs_no_owner_and_its_weights_come_in_one_form(
    form: str, weights: set[str], sentencepiece_model: Path, tmp_path: Path
) -> None:
    original = originals.write(tmp_path / "original", sentencepiece_model, form=form)
    (original.folder / "README.md").write_text("not needed")
    if form == "sharded safetensors":
        (original.folder / "pytorch_model-00001-of-00001.bin").write_text("the same once more")
    found = fetched(original.folder, tmp_path / "cache")
    index = {"sharded .bin": "pytorch_model.bin.index.json", "sharded safetensors": "model.safetensors.index.json"}
    assert found == weights | {"config.json", "tokenizer.model", "tokenization_chatglm.py", index[form]}


def test_a_folder_comes_before_a_name(
    sentencepiece_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    originals.write(tmp_path / "chatglm3-6b", sentencepiece_model)
    assert published.find("chatglm3-6b").resolve() == tmp_path / "chatglm3-6b"
