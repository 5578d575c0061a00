"""Prompts counted by a real tokenizer: a sample of them, and the ratio to the estimate."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import tokenizers

from gateway.batches import tokens
from gateway.batches.tokens import Counter, Tokenizers
from tollgate import configuration
from tollgate.domain.errors import SettingsError
from tollgate.domain.routing import Catalog, Model, Route
from tollgate.domain.usage import estimate_prompt_tokens
from tollgate.settings import load


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Of words: each is a token. It would cut at 4 and fill up to 64."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_truncation(4)
    made.enable_padding(length=64)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def model(path: Path | None) -> Model:
    return Model(
        name="glm-4.7", routes=(Route(upstream="zhipu", model="x"),), tokenizer=None if path is None else str(path)
    )


def chat(words: int) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "hello " * words}]}


async def counter_of(path: Path) -> Counter:
    counter = await Tokenizers().counter(model(path))
    assert counter is not None
    return counter


async def test_words_are_counted_and_compared_with_the_estimate(tokenizer: Path) -> None:
    counter = await counter_of(tokenizer)
    for words in (10, 100):
        counter.look(chat(words))
    estimated = estimate_prompt_tokens(chat(10)) + estimate_prompt_tokens(chat(100))
    assert counter.ratio == pytest.approx((10 + 100 + 2 * 4) / estimated), "4 tokens a message, as estimated"
    assert counter.lines == 2


async def test_of_many_lines_a_sample_is_counted(tokenizer: Path) -> None:
    counter = await counter_of(tokenizer)
    for _ in range(tokens.COUNTED_FIRST + 10 * tokens.COUNTED_EACH):
        counter.look(chat(1))
    assert counter.lines == tokens.COUNTED_FIRST + 10


async def test_of_a_long_text_the_beginning_is_counted(tokenizer: Path) -> None:
    """Else a line of 10 MB would hold up the loop for seconds."""
    counter, short = await counter_of(tokenizer), await counter_of(tokenizer)
    counter.look({"input": ["hello " * 1_000_000]})
    short.look({"input": ["hello " * (tokens.CUT // 6)]})
    assert counter.ratio == pytest.approx(short.ratio, rel=0.01)


async def test_a_model_without_a_tokenizer_has_no_counter() -> None:
    assert await Tokenizers().counter(model(None)) is None


async def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{")
    with pytest.raises(SettingsError, match=r"tokenizer\.json cannot be read"):
        await Tokenizers().counter(model(broken))


def catalog_of(path: Path) -> Catalog:
    return Catalog(upstreams={}, models={"glm-4.7": model(path)})


def test_a_start_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model 'glm-4\.7': tokenizer: there is no file .*nothing\.json"):
        tokens.require(catalog_of(tmp_path / "nothing.json"))


def test_a_start_without_the_package_is_refused(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens.require(catalog_of(tokenizer))
    # It is installed here, for these tests.
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"pip install"):
        tokens.require(catalog_of(tokenizer))


def test_its_path_begins_where_the_models_file_is(tmp_path: Path) -> None:
    models = tmp_path / "models.toml"
    models.write_text(
        '[[upstream]]\nname = "vllm"\nkind = "openai"\nbase_url = "http://127.0.0.1:1"\n'
        '[[model]]\nname = "a"\nroutes = ["vllm/a"]\ntokenizer = "glm/tokenizer.json"\n'
        '[[model]]\nname = "b"\nroutes = ["vllm/b"]\ntokenizer = "/abs/tokenizer.json"\n'
    )
    catalog = configuration.load_catalog(load({"TOLLGATE_MODELS_FILE": str(models)}))
    assert catalog.models["a"].tokenizer == str(tmp_path / "glm" / "tokenizer.json")
    assert catalog.models["b"].tokenizer == "/abs/tokenizer.json"
