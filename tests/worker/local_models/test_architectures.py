from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.worker.local_models import published
from tests.worker.local_models.published import Config
from worker.upstreams.local import architectures, quantization

FAMILIES = {
    "glm": published.GLM_4_9B,
    "glm, embeddings shared": published.GLM_4_9B | {"tie_word_embeddings": True, "num_key_value_heads": 4},
    "glm4": published.GLM_4_9B_0414,
    "glm4_moe": published.GLM_4_5_AIR,
    "glm4_moe, keys normed": published.GLM_4_5_AIR | {"use_qk_norm": True, "first_k_dense_replace": 3},
    "glm4_moe_lite": published.GLM_4_7_FLASH,
    "glm4_moe_lite, plain queries": published.GLM_4_7_FLASH | {"q_lora_rank": None, "attention_bias": True},
}


def shape_only(config: Config) -> PreTrainedModel:
    """The model as transformers makes it, without memory for its weights."""
    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return made


def packed(model: PreTrainedModel) -> int:
    """Weights of the layers that `quantization` lets bitsandbytes replace."""
    kinds = ((name.rpartition(".")[2], module) for name, module in model.named_modules())
    return sum(m.weight.numel() for name, m in kinds if type(m) is nn.Linear and name not in quantization.PLAIN)


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_parameters_are_counted_as_transformers_makes_them(config: Config) -> None:
    model, counted = shape_only(config), architectures.of(config)
    assert counted is not None
    assert counted.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert counted.linear == packed(model)
    assert counted.buffers == sum(b.numel() for name, b in model.named_buffers() if name.endswith("correction_bias"))


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (published.GLM_4_9B, 40 * 2 * (128 + 128)),
        (published.GLM_4_5_AIR, 46 * 8 * (128 + 128)),
        (published.GLM_4_7_FLASH, 47 * (512 + 64)),
    ],
)
def test_the_cache_keeps_key_heads_or_the_latent_of_all(config: Config, values: int) -> None:
    counted = architectures.of(config)
    assert counted is not None
    assert counted.cache_values == values


@pytest.mark.parametrize("value", [None, "40", 4.5, -1, True])
def test_a_number_that_is_none_is_named(value: object) -> None:
    with pytest.raises(architectures.MissingNumberError, match="num_hidden_layers"):
        architectures.of(published.GLM_4_9B | {"num_hidden_layers": value})


def test_other_models_have_no_known_shape() -> None:
    assert architectures.of({"model_type": "llama"}) is None
