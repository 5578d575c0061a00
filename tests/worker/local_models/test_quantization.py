"""bitsandbytes on a CPU: tiny models are packed while they are loaded, and still say what they said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.worker.local import answers
from tests.worker.local_models import published
from tests.worker.local_models.published import Config
from tollgate.domain.errors import SettingsError
from worker.upstreams.local import architectures, memory, quantization
from worker.upstreams.local.quantization import WEIGHT_BYTES, Quantization
from worker.upstreams.local.requests import Request

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")

_PLAIN = {"num_hidden_layers": 2, "vocab_size": 320, "hidden_size": 128, "pad_token_id": 0, "eos_token_id": [0, 1, 2]}
_SMALL = _PLAIN | {"intermediate_size": 256, "num_attention_heads": 4, "max_position_embeddings": 512}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "num_nextn_predict_layers": 0}
_LATENT = {"kv_lora_rank": 64, "q_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 32}
MODELS: dict[str, Config] = {
    "glm": published.GLM_4_9B | _SMALL | {"head_dim": 32},
    "glm4": published.GLM_4_9B_0414 | _SMALL | {"head_dim": 32},
    "glm4_moe": published.GLM_4_5_AIR | _SMALL | _EXPERTS | {"num_key_value_heads": 2, "head_dim": 32},
    "glm4_moe_lite": published.GLM_4_7_FLASH | _SMALL | _EXPERTS | _LATENT | {"num_key_value_heads": 4},
}


@pytest.fixture(scope="module", params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config, path = MODELS[request.param], tmp_path_factory.mktemp(request.param)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).save_pretrained(path)
    return config, path


def load(path: Path, kind: Quantization) -> PreTrainedModel:
    packed = quantization.config(kind, dtype="float32", device="cpu")
    options = {} if packed is None else {"quantization_config": packed, "device_map": {"": "cpu"}}
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
    model.eval()
    return model


@torch.inference_mode()
def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(2, 34)[None]
    found: torch.Tensor = model(input_ids=ids).logits
    return found


@pytest.mark.parametrize("kind", WEIGHT_BYTES)
def test_a_packed_model_says_nearly_the_same(saved: tuple[Config, Path], kind: Quantization) -> None:
    config, path = saved
    plain = logits(load(path, Quantization.NONE))
    model = load(path, kind)
    assert weighed(model) == weights_bytes(config, kind)
    error = (logits(model) - plain).std() / plain.std()
    assert 0 < error < {Quantization.INT8: 0.05, Quantization.NF4: 0.4}[kind]


@pytest.mark.parametrize("kind", WEIGHT_BYTES)
def test_the_engine_runs_a_packed_model(saved: tuple[Config, Path], kind: Quantization) -> None:
    model, (prompt,) = load(saved[1], kind), answers.prompts([30], vocabulary=320)
    expected = answers.generate(model, prompt, 12)
    with answers.running(model) as (engine, told):
        request = Request(ids=prompt, max_tokens=12, sampling=answers.GREEDY)
        engine.submit(request)
        told.wait([request])
    assert told.tokens[request] == expected


def weights_bytes(config: Config, kind: Quantization) -> int:
    shape = architectures.of(config)
    assert shape is not None
    return memory.plan(shape, dtype="float32", quantization=kind, free_bytes=None).weights_bytes


def weighed(model: PreTrainedModel) -> int:
    """What the weights of a loaded model take, the scales of nf4's blocks too."""
    states = (getattr(parameter, "quant_state", None) for parameter in model.parameters())
    scales = sum(state.absmax.nbytes for state in states if state is not None)
    corrections = sum(b.nbytes for name, b in model.named_buffers() if name.endswith("correction_bias"))
    total: int = sum(parameter.nbytes for parameter in model.parameters()) + scales + corrections
    return total


def test_a_model_that_is_not_packed_has_no_configuration() -> None:
    assert quantization.config("none", dtype="bfloat16", device="mps") is None


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SettingsError, match="TOLLGATE_LOCAL_QUANTIZATION is int4; write none, nf4 or int8"):
        quantization.config("int4", dtype="bfloat16", device="cpu")


def test_a_device_that_cannot_do_it_is_named() -> None:
    with pytest.raises(SettingsError, match="nf4 does not run on mps"):
        quantization.config("nf4", dtype="bfloat16", device="mps")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # It cannot be uninstalled for one test: as if nothing of it were found.
    monkeypatch.setattr(quantization, "find_spec", lambda _: None)
    with pytest.raises(
        SettingsError, match=r"needs bitsandbytes and accelerate: pip install 'tollgate\[quantization\]'"
    ):
        quantization.config("int8", dtype="bfloat16", device="cuda:0")
