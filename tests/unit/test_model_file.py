"""models.toml: what it gives, and errors that say where and what to write."""

from __future__ import annotations

from importlib import resources

import pytest

from tollgate.domain import model_file, price_file
from tollgate.domain.errors import SettingsError
from tollgate.domain.routing import Catalog, Cause, Credential, Model, Route, UpstreamSpec
from tollgate.domain.states import OnUncertain

UPSTREAM = """
[[upstream]]
name = "cloud"
kind = "zhipu"
base_url = "https://example.test/v4/"
keys = ["KEY"]
"""
MODEL = """
[[model]]
name = "glm-x"
routes = ["cloud/glm-x"]
"""


def parse(text: str) -> Catalog:
    return model_file.parse_catalog(text, source="my-models.toml")


def shipped(name: str) -> str:
    return (resources.files("tollgate") / "data" / name).read_text("utf-8")


def test_defaults_fill_what_is_not_written() -> None:
    catalog = parse(UPSTREAM + MODEL)
    assert catalog.upstreams == {
        "cloud": UpstreamSpec(
            name="cloud",
            kind="zhipu",
            base_url="https://example.test/v4",
            credentials=(Credential(variables=("KEY",)),),
        )
    }
    assert catalog.models == {
        "glm-x": Model(name="glm-x", routes=(Route(upstream="cloud", model="glm-x"),)),
    }


def test_everything_written_is_read() -> None:
    text = """
    [[upstream]]
    name = "cloud"
    kind = "zhipu"
    base_url_env = "CLOUD_URL"
    keys = [["KEY", "OLD_KEY"], "KEY_2"]
    max_in_flight = 7
    connect_timeout_s = 1
    first_byte_timeout_s = 2.5
    total_timeout_s = 30
    [[upstream]]
    name = "gpu"
    kind = "local"
    [[model]]
    name = "glm-x"
    routes = [
      { upstream = "cloud", model = "glm-x-2", mode = "async", on_uncertain = "fail" },
      "gpu/zai-org/glm-x",
    ]
    max_output_tokens = 100
    assumed_max_tokens = 50
    context_tokens = 1000
    endpoint = "embeddings"
    aliases = ["x"]
    deprecated = "use glm-y"
    fallback_on = ["pause", "rate_limit"]
    fallback_after = 3
    tokenizer = "glm/tokenizer.json"
    """
    catalog = parse(text)
    assert catalog.upstreams["cloud"] == UpstreamSpec(
        name="cloud",
        kind="zhipu",
        base_url_env="CLOUD_URL",
        credentials=(Credential(variables=("KEY", "OLD_KEY")), Credential(variables=("KEY_2",))),
        max_in_flight=7,
        connect_timeout_s=1.0,
        first_byte_timeout_s=2.5,
        total_timeout_s=30.0,
    )
    assert catalog.find("x") == Model(
        name="glm-x",
        routes=(
            Route(upstream="cloud", model="glm-x-2", mode="async", on_uncertain=OnUncertain.FAIL),
            Route(upstream="gpu", model="zai-org/glm-x"),
        ),
        max_output_tokens=100,
        assumed_max_tokens=50,
        context_tokens=1000,
        endpoints=frozenset({"embeddings"}),
        aliases=("x",),
        deprecated="use glm-y",
        fallback_on=frozenset({Cause.PAUSE, Cause.RATE_LIMIT}),
        fallback_after=3,
        tokenizer="glm/tokenizer.json",
    )


def test_fallbacks_may_be_turned_off() -> None:
    assert parse(UPSTREAM + MODEL + "fallback_on = []").find("glm-x").fallback_on == frozenset()


def test_an_openai_server_needs_no_key() -> None:
    catalog = parse('[[upstream]]\nname = "vllm"\nkind = "openai"\nbase_url = "http://127.0.0.1:8001/v1"\n')
    assert catalog.upstreams["vllm"].credentials == ()


LOCAL = '[[upstream]]\nname = "gpu"\nkind = "local"\n'
OPENAI = '[[upstream]]\nname = "vllm"\nkind = "openai"\nbase_url = "http://h/v1"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[upstream", ["not valid TOML"]),
        ("[models]", ["unknown key 'models'"]),
        ("upstream = 1", ["upstream must be a list of tables"]),
        (UPSTREAM.replace('name = "cloud"', ""), ["upstream 1", "name is missing"]),
        (UPSTREAM.replace('"cloud"', '"a/b"'), ["upstream 1", "'a/b'"]),
        (UPSTREAM.replace('"zhipu"', '"zhipuai"'), ["'cloud'", "kind is 'zhipuai'", "zhipu, openai, local"]),
        (UPSTREAM + "speed = 1", ["'cloud'", "unknown key 'speed'"]),
        (UPSTREAM.replace("base_url =", "#"), ["'cloud'", "base_url is missing"]),
        (UPSTREAM.replace("https://", ""), ["base_url is 'example.test/v4/'"]),
        (UPSTREAM + 'base_url_env = "a b"', ["base_url_env", "environment variable"]),
        (UPSTREAM.replace("keys =", "#"), ["keys is missing"]),
        (UPSTREAM.replace('["KEY"]', '"KEY"'), ["keys must be a list"]),
        (UPSTREAM.replace('["KEY"]', '[["KEY"], []]'), ["environment variables"]),
        (UPSTREAM.replace('["KEY"]', '["KEY", ["KEY"]]'), ["a variable twice"]),
        (UPSTREAM + "max_in_flight = 0", ["max_in_flight is 0", "1 or more"]),
        (UPSTREAM + "max_in_flight = true", ["max_in_flight is True"]),
        (UPSTREAM + "connect_timeout_s = 0", ["connect_timeout_s is 0", "seconds"]),
        (UPSTREAM + "total_timeout_s = inf", ["total_timeout_s"]),
        (UPSTREAM + "total_timeout_s = nan", ["total_timeout_s"]),
        (UPSTREAM + 'total_timeout_s = "300"', ["total_timeout_s is '300'", "number of seconds"]),
        (UPSTREAM + UPSTREAM, ["upstream 'cloud' is defined twice"]),
        (LOCAL + 'base_url = "http://h"', ["'gpu'", "a local upstream has no base_url"]),
        (UPSTREAM + MODEL.replace('name = "glm-x"', ""), ["model 1", "name is missing"]),
        (UPSTREAM + MODEL.replace('"glm-x"', '"glm x"'), ["model 1", "'glm x'"]),
        (UPSTREAM + MODEL.replace('"glm-x"', '"' + "x" * 129 + '"'), ["1 to 128"]),
        (UPSTREAM + MODEL.replace("routes =", "#"), ["'glm-x'", "routes is missing"]),
        (UPSTREAM + MODEL.replace('["cloud/glm-x"]', "[]"), ["routes is missing or empty"]),
        (UPSTREAM + MODEL.replace('["cloud/glm-x"]', "[1]"), ["routes must be a list"]),
        (UPSTREAM + MODEL.replace("cloud/glm-x", "glm-x"), ["'glm-x'", "upstream/model"]),
        (UPSTREAM + MODEL.replace("cloud/glm-x", "cloud/"), ["routes", "model must be a text"]),
        (
            UPSTREAM + MODEL.replace("cloud/glm-x", "cluod/glm-x"),
            ["model 'glm-x', routes", "no upstream is named 'cluod'", "use one of: cloud"],
        ),
        (UPSTREAM + MODEL.replace('"cloud/glm-x"', '"cloud/glm-x", "cloud/glm-x"'), ["'cloud/glm-x' twice"]),
        (
            UPSTREAM + MODEL.replace('"cloud/glm-x"', '{ upstream = "cloud", model = "m", mode = "fast" }'),
            ["mode is 'fast'", "direct, async"],
        ),
        (
            UPSTREAM + MODEL.replace('"cloud/glm-x"', '{ upstream = "cloud", model = "m", retry = 1 }'),
            ["unknown key 'retry'"],
        ),
        (
            OPENAI + MODEL.replace('"cloud/glm-x"', '{ upstream = "vllm", model = "m", mode = "async" }'),
            ["async", "'vllm' is 'openai'"],
        ),
        (UPSTREAM + MODEL + 'max_output_tokens = "many"', ["max_output_tokens is 'many'"]),
        (UPSTREAM + MODEL + "assumed_max_tokens = 0", ["assumed_max_tokens is 0"]),
        (UPSTREAM + MODEL + 'endpoint = "images"', ["endpoint is 'images'", "chat, embeddings"]),
        (UPSTREAM + MODEL + "endpoint = [1]", ["endpoint is [1]"]),
        (UPSTREAM + MODEL + 'aliases = ["a b"]', ["'a b'"]),
        (UPSTREAM + MODEL + 'aliases = ["glm-x"]', ["'glm-x' is taken"]),
        (UPSTREAM + MODEL + MODEL, ["'glm-x' is taken"]),
        (
            UPSTREAM + MODEL + 'fallback_on = ["outages"]',
            ["'glm-x'", "fallback_on names 'outages'", "overload, outage, pause, rate_limit, or [] for never"],
        ),
        (UPSTREAM + MODEL + 'fallback_on = "outage"', ["fallback_on must be a list"]),
        (
            UPSTREAM + '[[model]]\nname = "m"\nroutes = "cloud/glm-x"',
            ["'m'", 'routes must be a list; write routes = ["cloud/glm-x"]'],
        ),
        (UPSTREAM + '[[model]]\nname = "m"\nroutes = []', ["routes is missing or empty"]),
        (UPSTREAM + MODEL + "fallback_after = 0", ["fallback_after is 0", "from 1 to 100"]),
        (UPSTREAM + MODEL + "fallback_after = 101", ["fallback_after is 101", "from 1 to 100"]),
        (UPSTREAM + MODEL + "max_tokens = 5", ["'glm-x'", "unknown key 'max_tokens'"]),
    ],
)
def test_a_mistake_is_refused_with_the_place_and_the_remedy(text: str, says: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("my-models.toml: ")
    for part in says:
        assert part in message


def test_a_key_pasted_where_its_variable_belongs_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(UPSTREAM.replace('"KEY"', '"0123456789abcdef.S3CRET"'))
    assert "S3CRET" not in str(caught.value)
    assert "never holds a key" in str(caught.value)


def test_every_shipped_model_has_a_price_for_its_first_route() -> None:
    catalog = parse(shipped("models.toml"))
    priced = {
        (price.upstream, price.model) for price in price_file.parse_prices(shipped("prices.toml"), source="prices.toml")
    }
    assert {(m.routes[0].upstream, m.routes[0].model) for m in catalog.models.values()} == priced


@pytest.mark.parametrize("name", ["chatglm_pro", "chatglm_std", "chatglm_lite", "chatglm_turbo", "embedding-2"])
def test_old_names_go_upstream_as_they_are(name: str) -> None:
    catalog = parse(shipped("models.toml"))
    assert catalog.find(name).routes == (Route(upstream="zhipu", model=name),)


@pytest.mark.parametrize(("name", "cap"), [("glm-4.7", 131_072), ("glm-4.6", 131_072), ("glm-4.5-air", 98_304)])
def test_known_output_caps_are_shipped(name: str, cap: int) -> None:
    assert parse(shipped("models.toml")).find(name).max_output_tokens == cap


def test_the_shipped_key_has_two_names() -> None:
    first, second = parse(shipped("models.toml")).upstreams["zhipu"].credentials
    assert first.variables == ("TOLLGATE_ZHIPU_API_KEY", "ZHIPUAI_API_KEY")
    assert second.name == "ZHIPU_API_KEY_2"


@pytest.mark.parametrize(
    ("begins", "ends", "route"),
    [
        ('# [[upstream]]\n# name = "vllm"', "# A checkpoint", "vllm/zai-org/glm-4-9b-chat-hf"),
        ('# [[upstream]]\n# name = "gpu"', "# GLM-5\n", "gpu/glm-4-9b-chat-hf"),
    ],
)
def test_the_commented_examples_are_valid_when_the_comments_are_removed(begins: str, ends: str, route: str) -> None:
    text = shipped("models.toml")
    example = text[text.index(begins) : text.index(ends)]
    catalog = parse("\n".join(line.removeprefix("# ") for line in example.splitlines()))
    assert catalog.find("glm-4-9b").routes[0].id == route


def test_an_answer_of_ones_own_device_may_take_longer() -> None:
    catalog = parse(
        '[[upstream]]\nname = "gpu"\nkind = "local"\n[[upstream]]\nname = "s"\nkind = "local"\ntotal_timeout_s = 5'
    )
    assert [catalog.upstreams[name].total_timeout_s for name in ("gpu", "s")] == [3600, 5]
