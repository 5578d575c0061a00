"""Which process serves a local model, and who never loads torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.worker.local import models
from tests.worker.local_upstream.conftest import settings_of
from tollgate.domain.errors import SettingsError
from tollgate.domain.model_file import parse_catalog
from tollgate.settings import Settings
from worker.upstreams.local import loading, serving
from worker.upstreams.local.cache import SlotCache

CATALOG = parse_catalog(
    """
[[upstream]]
name = "gpu"
kind = "local"

[[model]]
name = "tiny-glm"
routes = ["gpu/tiny-glm"]
""",
    source="the test",
)
TORCHLESS = """
import sys
import gateway, worker.process, worker.celery_run, tollgate.cli.embedded, tollgate.cli.app
from tollgate.domain.model_file import parse_catalog
from tollgate.settings import Settings
from worker.process import create_worker_app
from tollgate import configuration
settings = Settings(redis_url="redis://127.0.0.1:6379/0", environment={"ZHIPUAI_API_KEY": "id.secret"})
create_worker_app(settings, configuration.load_catalog(settings))
print(*{"torch", "transformers", "tokenizers", "jinja2", "bitsandbytes"} & {n.partition(".")[0] for n in sys.modules})
"""


def test_gateways_and_cloud_workers_never_load_torch() -> None:
    ended = subprocess.run([sys.executable, "-c", TORCHLESS], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (settings_of(lanes="local"), "the lanes local are served with a model: `tollgate worker --lanes local --model"),
        (settings_of(lanes="cloud", model="tiny"), "--model is served on the lanes local, and TOLLGATE_LANES is cloud"),
        (settings_of(lanes="local", model="nowhere"), "there is no folder nowhere"),
        (settings_of(lanes="local", model="cpu=tiny"), "models.toml has no local upstream 'cpu'"),
    ],
    ids=["no model", "no lane", "no folder", "no upstream"],
)
def test_what_cannot_be_served_is_said_before_anything_is_loaded(settings: Settings, told: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        serving.require(settings, CATALOG)
    assert told in str(refusal.value)


def test_a_missing_extra_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no second environment without torch: what finds packages is told that there is none.
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r'pip install "tollgate\[local\]"'):
        serving.require(settings_of(lanes="local", model=str(checkpoint)), CATALOG)


def test_a_process_with_a_model_serves_the_local_lanes_unless_it_is_told_others() -> None:
    assert serving.laned(settings_of(model="m"), default="local").lanes == "local"
    assert serving.laned(settings_of(), default="local").lanes == "cloud"
    told = settings_of(model="m", lanes="local.bulk", sources={"lanes": "environment"})
    assert serving.laned(told, default="local").lanes == "local.bulk"


async def test_the_upstream_is_connected_with_its_slots_and_others_are_not(checkpoint: Path) -> None:
    settings = settings_of(lanes="local", model=str(checkpoint), local_slots=3, local_context_tokens=64)
    async with serving.local_upstreams(settings, CATALOG, on_dead=lambda *_: None) as local:
        assert {name: connected.slots for name, connected in local.items()} == {"gpu": 3}
    async with serving.local_upstreams(settings_of(), CATALOG, on_dead=lambda *_: None) as local:
        assert local == {}


def test_a_model_that_does_not_fit_is_refused_with_what_would(checkpoint: Path) -> None:
    with pytest.raises(SettingsError) as refusal:
        loading.load(str(checkpoint), settings_of(local_slots=200_000))
    assert "200000 slots of 2,048 tokens" in str(refusal.value)
    assert "TOLLGATE_LOCAL_SLOTS=" in str(refusal.value)


async def test_an_engine_without_memory_for_its_cache_says_which_settings_help(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    # What another process took after the plan was made cannot be had in a test.
    monkeypatch.setattr(SlotCache, "allocate", allocate)
    settings = settings_of(lanes="local", model=str(checkpoint), local_slots=3, local_context_tokens=64)
    with pytest.raises(SettingsError, match=r"3 slots of 64 tokens: tried to allocate 2 GiB; set fewer"):
        await serving.local_upstreams(settings, CATALOG, on_dead=lambda *_: None).__aenter__()


@pytest.mark.parametrize(
    ("name", "torn", "told"),
    [
        ("tokenizer.json", "{", "the tokenizer of .*tiny cannot be read"),
        ("tokenizer.json", "{}", "the tokenizer of .*tiny cannot be read"),
        ("chat_template.jinja", "{% for", "the chat template of .*tiny does not work"),
        ("chat_template.jinja", "{{ messages | odd }}", "the chat template of .*tiny does not work"),
    ],
)
def test_words_that_no_request_could_be_put_into_stop_the_start(
    tmp_path: Path, name: str, torn: str, told: str
) -> None:
    """A template is read when it is used first: every request would be refused for good."""
    folder = models.checkpoint(tmp_path / "tiny")
    (folder / name).write_text(torn)
    with pytest.raises(SettingsError, match=told):
        loading.load(str(folder), settings_of(local_slots=1, local_context_tokens=64, local_threads=1))


def test_more_context_than_the_model_has_is_refused(checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match="the model has 2,048"):
        loading.load(str(checkpoint), settings_of(local_context_tokens=4096))


def test_sampling_is_by_default_as_the_checkpoint_has_it(tmp_path: Path) -> None:
    folder = models.checkpoint(tmp_path / "tiny")
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 7], "temperature": 0.6, "top_p": 0.95}')
    loaded = loading.load(str(folder), settings_of(local_slots=1, local_context_tokens=64, local_threads=1))
    assert (loaded.defaults.temperature, loaded.defaults.top_p, loaded.defaults.top_k) == (0.6, 0.95, 0)
    assert loaded.ends == {0, 7}
    assert loaded.defaults.do_sample


def test_a_checkpoint_that_says_so_does_not_sample(checkpoint: Path) -> None:
    loaded = loading.load(str(checkpoint), settings_of(local_slots=1, local_context_tokens=64, local_threads=1))
    assert not loaded.defaults.do_sample
