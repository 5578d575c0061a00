from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.worker.local import models
from tests.worker.local_models import published
from tollgate.domain.errors import SettingsError
from worker.upstreams.local import architectures, attention, checkpoints, memory
from worker.upstreams.local.architectures import Architecture
from worker.upstreams.local.cache import SlotCache
from worker.upstreams.local.memory import Plan
from worker.upstreams.local.quantization import Quantization

GB = 10**9


def shape(config: published.Config) -> Architecture:
    found = architectures.of(config)
    assert found is not None
    return found


def planned(config: published.Config = published.GLM_4_9B, **given: Any) -> Plan:
    return memory.plan(shape(config), **{"dtype": "bfloat16", "free_bytes": None, **given})


@pytest.mark.parametrize(
    ("config", "quantization", "gigabytes"),
    [
        (published.GLM_4_9B, "none", 18.8),
        (published.GLM_4_9B, "int8", 10.6),
        (published.GLM_4_9B, "nf4", 7.1),
        (published.GLM_4_9B_0414, "none", 18.8),
        (published.GLM_4_5_AIR, "none", 213.7),
        (published.GLM_4_5_AIR, "nf4", 205.2),
        (published.GLM_4_7_FLASH, "none", 59.9),
    ],
)
def test_weights_weigh_what_was_measured(config: published.Config, quantization: str, gigabytes: float) -> None:
    assert planned(config, quantization=quantization).weights_bytes / GB == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize(
    ("config", "kibibytes"),
    [
        (published.GLM_4_9B, 40),
        (published.GLM_4_5_AIR, 184),
        (published.GLM_4_7_FLASH, 47 * 576 * 2 / 1024),
    ],
)
def test_a_token_takes_its_place_in_the_cache(config: published.Config, kibibytes: float) -> None:
    assert planned(config).token_bytes == kibibytes * 1024
    assert planned(config, dtype="float32").token_bytes == kibibytes * 2048


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_engine_allocates_the_cache_that_was_planned(family: str) -> None:
    model = models.model(family)
    attention.use(model)
    found = planned(model.config.to_dict(), dtype="float32", slots=3, context_tokens=100)
    assert SlotCache.allocate(model, slots=3, context_tokens=100).size_bytes == found.cache_bytes


@pytest.fixture
def converted(tmp_path: Path) -> Architecture:
    """ChatGLM3-6B as it is once converted."""
    published.write_json(tmp_path / "config.json", published.CHATGLM3_6B)
    found = checkpoints.read(str(tmp_path)).architecture
    assert found is not None
    return found


def test_a_converted_chatglm3_weighs_what_was_measured(converted: Architecture) -> None:
    found = memory.plan(converted, dtype="bfloat16", free_bytes=None)
    assert (round(found.weights_bytes / GB, 1), found.token_bytes) == (12.5, 28 * 1024)


def test_the_table_of_the_documentation_is_true(converted: Architecture) -> None:
    models = {
        "chatglm3-6b, converted": converted,
        "glm-4-9b-chat-hf, GLM-4-9B-0414": shape(published.GLM_4_9B),
        "GLM-4-32B-0414": shape(published.GLM_4_32B_0414),
        "GLM-4.7-Flash": shape(published.GLM_4_7_FLASH),
        "GLM-4.5-Air": shape(published.GLM_4_5_AIR),
    }
    text = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    table = text.partition("cache a token |\n|---|---|---|---|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [documented(name, model) for name, model in models.items()]


def documented(name: str, model: Architecture) -> str:
    """A row of the table."""
    plans = [memory.plan(model, dtype="bfloat16", quantization=each, free_bytes=None) for each in Quantization]
    cells = [name, f"{model.parameters / GB:.2f} billion", *(f"{plan.weights_bytes / GB:.1f} GB" for plan in plans)]
    return f"| {' | '.join(cells)} | {plans[0].token_bytes / 1024:.0f} KiB |"


def test_as_many_slots_as_fit() -> None:
    found = planned(free_bytes=24 * GB)
    assert found.fits
    assert (found.context_tokens, 8 <= found.slots < memory.MOST_SLOTS) == (8_192, True)
    assert not planned(free_bytes=24 * GB, slots=found.slots + 1, context_tokens=8_192).fits


def test_no_more_slots_than_are_worth_having() -> None:
    assert planned(free_bytes=141 * GB).slots == memory.MOST_SLOTS
    assert planned(free_bytes=141 * GB, most_slots=32).slots == 32


def test_slots_are_shortened_where_too_few_would_fit() -> None:
    found = planned(free_bytes=22 * GB)
    assert found.fits
    assert (found.context_tokens, found.slots >= memory.ENOUGH_SLOTS) == (4_096, True)


def test_a_short_model_has_short_slots() -> None:
    assert planned(published.SMALL, free_bytes=GB * 8).context_tokens == 2_048


def test_what_is_set_stays_as_it_is() -> None:
    found = planned(free_bytes=24 * GB, slots=48, context_tokens=16_384)
    assert (found.slots, found.context_tokens, found.fits) == (48, 16_384, False)


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(SettingsError, match="slots of 131,073 tokens: the model has 131,072"):
        planned(context_tokens=131_073)


@pytest.mark.parametrize("free", [8, 12, 20, 24, 40, 80])
@pytest.mark.parametrize("config", [published.GLM_4_9B, published.GLM_4_7_FLASH])
def test_what_is_advised_fits(config: published.Config, free: int) -> None:
    """Each line names one setting and its value; set, it fits."""
    asked = planned(config, free_bytes=free * GB, slots=64, context_tokens=8_192)
    names = {"SLOTS": "slots", "CONTEXT_TOKENS": "context_tokens"}
    for line in memory.advice(asked):
        setting, _, value = line.partition(":")[0].removeprefix("TOLLGATE_LOCAL_").partition("=")
        if setting in names:
            kept = {"slots": 64, "context_tokens": 8_192, names[setting]: int(value)}
            assert planned(config, free_bytes=free * GB, **kept).fits, line
        elif setting == "QUANTIZATION":
            assert planned(config, free_bytes=free * GB, quantization=value).fits, line
        else:
            assert line.startswith("it needs more memory than this device has")


def test_far_too_many_slots_are_answered_with_how_many_fit() -> None:
    found = planned(slots=10**12, free_bytes=80 * GB)
    fewer = int(memory.advice(found)[0].partition("=")[2].partition(":")[0])
    assert planned(slots=fewer, free_bytes=80 * GB).fits
    assert not planned(slots=fewer + 1, free_bytes=80 * GB).fits


def test_what_fits_needs_no_advice() -> None:
    assert memory.advice(planned(free_bytes=80 * GB)) == []
    assert memory.advice(planned(free_bytes=None)) == []


def test_a_model_that_does_not_fit_is_packed_or_served_elsewhere() -> None:
    assert [line.partition(":")[0] for line in memory.advice(planned(free_bytes=14 * GB))] == [
        "TOLLGATE_LOCAL_QUANTIZATION=int8",
        "TOLLGATE_LOCAL_QUANTIZATION=nf4",
    ]
    (elsewhere,) = memory.advice(planned(published.GLM_4_5_AIR, free_bytes=80 * GB))
    assert "a server over several GPUs" in elsewhere


def test_32_bits_are_halved_first() -> None:
    first, *_ = memory.advice(planned(dtype="float32", free_bytes=24 * GB))
    assert first.startswith("TOLLGATE_LOCAL_DTYPE=bfloat16: 18.8 GB of weights")


def test_latent_attention_is_counted_unpacked_while_it_works() -> None:
    """transformers unpacks the latents of all that a step looks at: their room grows with slots and context."""
    few, many = (planned(published.GLM_4_7_FLASH, slots=slots, context_tokens=8_192) for slots in (16, 32))
    unpacked = 8_192 * 20 * (2 * 192 + 64 + 2 * 256) * 2
    assert many.working_bytes - few.working_bytes >= 16 * unpacked
