"""`models check` of a model for a device of one's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Tollgate
from tests.worker.local_models import published
from tests.worker.local_models.published import write_checkpoint, write_json

WEIGHTS = {"model.layers.0.x": ("BF16", [9_399_951_360])}


@pytest.fixture
def nine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """GLM-4-9B: every number of it true, its weights a hole in the file system. Without torch: nothing needs it."""
    monkeypatch.setitem(sys.modules, "torch", None)
    return write_checkpoint(tmp_path / "glm-4-9b", published.GLM_4_9B, weights=WEIGHTS)


def test_a_model_that_fits_is_told_with_its_command(tollgate: Tollgate, nine: Path) -> None:
    ended = tollgate("models", "check", str(nine), "--device-memory", "24GB")
    assert (ended.code, ended.stderr) == (0, "")
    assert "GlmForCausalLM (glm), native" in ended.stdout
    assert re.search(r"parameters +9,399,951,360\s+on disk +18\.8 GB in 1 file, mostly BF16", ended.stdout)
    assert re.search(r"cache +40\.0 KiB a token in bfloat16", ended.stdout)
    assert re.search(r"none +18\.8 GB +8 +8,192 +2\.7 GB +2\.4 GB +23\.9 GB +yes", ended.stdout)
    assert ended.stdout.endswith(
        f"It fits, with 8 slots of 8,192 tokens: tollgate worker --lanes local --model {nine}\n"
    )


def test_a_model_that_does_not_fit_says_what_would(tollgate: Tollgate, nine: Path) -> None:
    ended = tollgate("models", "check", str(nine), "--device-memory", "14GB")
    assert ended.code == 1
    *_, heading, int8, nf4 = ended.stdout.splitlines()
    assert heading == "It does not fit with quantization none. What would:"
    assert int8.startswith("  TOLLGATE_LOCAL_QUANTIZATION=int8: 10.6 GB of weights, ")
    assert nf4 == "  TOLLGATE_LOCAL_QUANTIZATION=nf4: 7.1 GB of weights, 13 slots of 8,192 tokens"
    packed = tollgate("models", "check", str(nine), "--device-memory", "14GB", "--quantization", "nf4")
    assert packed.code == 0
    assert ": TOLLGATE_LOCAL_QUANTIZATION=nf4 tollgate worker --lanes local " in packed.stdout


def test_options_and_settings_choose_what_is_asked(tollgate: Tollgate, nine: Path) -> None:
    asked = ("models", "check", str(nine), "--device-memory", "24GB", "--json")
    by_option = tollgate(*asked, "--dtype", "float16", "--slots", "4", "--context-tokens", "16384").json
    set_to = {"DTYPE": "float16", "SLOTS": "4", "CONTEXT_TOKENS": "16384"}
    by_setting = tollgate(*asked, **{f"TOLLGATE_LOCAL_{name}": value for name, value in set_to.items()}).json
    assert by_option == by_setting
    needs = by_option["memory"][0]
    assert (needs["dtype"], needs["slots"], needs["context_tokens"]) == ("float16", 4, 16_384)
    assert needs["cache_bytes"] == 4 * 16_384 * 40 * 1024


def test_a_script_reads_everything(tollgate: Tollgate, nine: Path) -> None:
    told = tollgate("models", "check", str(nine), "--device-memory", "24GiB", "--json").json
    assert (told["servable"], told["fits"], told["native"], told["class"]) == (True, True, True, "GlmForCausalLM")
    assert told["files"] == {"count": 1, "bytes": (nine / "model.safetensors").stat().st_size, "dtype": "BF16"}
    assert told["device"]["free_bytes"] == 24 * 2**30
    assert told["shape"]["kv_heads"] == 2
    assert [needs["quantization"] for needs in told["memory"]] == ["none", "int8", "nf4"]


def test_without_torch_the_device_is_unknown(tollgate: Tollgate, nine: Path) -> None:
    ended = tollgate("models", "check", str(nine))
    assert ended.code == 0
    assert "note: the device is unknown: torch is not installed (pip install 'tollgate[local]')" in ended.stdout
    assert "It can be served, where it fits: " in ended.stdout
    assert tollgate("models", "check", str(nine), "--json").json["fits"] is None


def test_this_machines_own_memory_is_asked(tollgate: Tollgate, tmp_path: Path) -> None:
    small = write_checkpoint(tmp_path / "small")
    told = tollgate("models", "check", str(small), "--json", TOLLGATE_LOCAL_DEVICE="cpu").json
    assert (told["device"]["name"], told["fits"]) == ("cpu", True)
    assert {needs["dtype"] for needs in told["memory"]} == {"float32"}


def test_what_is_wrong_is_told_with_its_fix(tollgate: Tollgate, nine: Path) -> None:
    (nine / "tokenizer.json").unlink()
    ended = tollgate("models", "check", str(nine), "--device-memory", "80GB")
    assert ended.code == 1
    assert ended.stdout.splitlines()[-2:] == [
        "error: there is no tokenizer.json: copy it from the model that this one was made from",
        "It cannot be served like this.",
    ]


def test_a_model_to_be_converted_is_weighed_as_it_will_be(tollgate: Tollgate, tmp_path: Path) -> None:
    path = tmp_path / "chatglm3-6b"
    path.mkdir()
    write_json(path / "config.json", published.CHATGLM3_6B)
    ended = tollgate("models", "check", str(path), "--device-memory", "24GB")
    assert ended.code == 1
    assert "ChatGLMModel (chatglm), not native" in ended.stdout
    assert re.search(r"none +12\.5 GB", ended.stdout)
    assert f"tollgate models convert {path} {path}-native" in ended.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device-memory", "24"), "write a number and GB or GiB, such as 24GB"),
        (("--device-memory", "80GB", "--context-tokens", "200000"), "the model has 131,072"),
    ],
)
def test_an_option_that_makes_no_sense_is_explained(
    tollgate: Tollgate, nine: Path, options: tuple[str, ...], message: str
) -> None:
    ended = tollgate("models", "check", str(nine), *options)
    assert (ended.code, message in ended.stderr) == (2, True)


def test_a_folder_that_is_not_there_is_named(tollgate: Tollgate) -> None:
    ended = tollgate("models", "check", "/nowhere")
    assert (ended.code, "there is no folder /nowhere" in ended.stderr) == (2, True)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_of_a_checkpoint_is_answered_with_its_folder(tollgate: Tollgate, nine: Path, file: str) -> None:
    ended = tollgate("models", "check", str(nine / file))
    assert (ended.code, ended.stderr) == (
        2,
        f"tollgate: {nine / file} is one file of a checkpoint: name the folder, {nine}\n",
    )


@pytest.mark.parametrize("options", [("--slots", "3"), ("--device-memory", "24GB"), ("--json",)])
def test_an_option_of_a_checkpoint_is_not_passed_over_without_one(tollgate: Tollgate, options: tuple[str, ...]) -> None:
    ended = tollgate("models", "check", *options)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == f"tollgate: {options[0]} asks about a checkpoint: name its folder, or its name on the hub\n"


def test_a_price_file_is_not_passed_over_beside_a_checkpoint(tollgate: Tollgate, nine: Path) -> None:
    ended = tollgate("models", "check", str(nine), "--prices", "prices.toml")
    assert (ended.code, ended.stderr) == (
        2,
        "tollgate: --prices is checked with a models.toml, not with a checkpoint\n",
    )
