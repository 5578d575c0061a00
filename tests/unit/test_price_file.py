"""prices.toml: what it gives, and errors that say where and what to write."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from importlib import resources

import pytest

from tollgate.domain import price_file
from tollgate.domain.errors import SettingsError
from tollgate.domain.prices import Price, Tier

ENTRY = """
[[price]]
upstream = "zhipu"
model = "glm-x"
valid_from = 2024-01-01
"""
FLAT = ENTRY + 'input = "1"\noutput = "2"\n'


def parse(text: str, *, currency: str = "CNY") -> list[Price]:
    return price_file.parse_prices(text, source="my-prices.toml", currency=currency)


def test_a_flat_entry_is_one_tier() -> None:
    (price,) = parse(FLAT)
    assert price == Price(
        upstream="zhipu",
        model="glm-x",
        valid_from=datetime(2024, 1, 1, tzinfo=UTC),
        currency="CNY",
        tiers=(Tier(name="flat", input_nano=1_000_000_000, output_nano=2_000_000_000),),
    )


def test_numbers_without_quotes_are_exact() -> None:
    (price,) = parse(ENTRY + "input = 0.1\noutput = 3\ncached = 0.000000001\nbatch_factor = 0.3\n")
    (tier,) = price.tiers
    assert (tier.input_nano, tier.output_nano, tier.cached_nano) == (100_000_000, 3_000_000_000, 1)
    assert price.batch_factor == Fraction(3, 10)


def test_models_share_a_price() -> None:
    prices = parse(FLAT.replace('model = "glm-x"', 'models = ["a", "b"]'))
    assert [(price.model, price.tiers[0].input_nano) for price in prices] == [
        ("a", 1_000_000_000),
        ("b", 1_000_000_000),
    ]


def test_tiers_are_named_by_their_bounds_unless_they_have_a_name() -> None:
    tiers = """tiers = [
      { max_prompt_tokens = 10, max_completion_tokens = 5, input = 1, output = 1 },
      { max_prompt_tokens = 10, min_completion_tokens = 5, input = 1, output = 1 },
      { min_prompt_tokens = 10, input = 1, output = 1, name = "long" },
    ]"""
    (price,) = parse(ENTRY + tiers)
    assert [tier.name for tier in price.tiers] == [
        "prompt 0-9, completion 0-4",
        "prompt 0-9, completion 5+",
        "long",
    ]


@pytest.mark.parametrize(
    ("written", "start"),
    [
        ("2025-03-01", datetime(2025, 3, 1, tzinfo=UTC)),
        ("2025-03-01T00:00:00", datetime(2025, 3, 1, tzinfo=UTC)),
        ("2025-03-01T00:00:00+08:00", datetime(2025, 2, 28, 16, tzinfo=UTC)),
    ],
)
def test_a_day_begins_in_utc_unless_an_offset_is_written(written: str, start: datetime) -> None:
    (price,) = parse(FLAT.replace("2024-01-01", written))
    assert price.valid_from == start


def test_a_later_price_of_the_same_model_is_welcome() -> None:
    assert len(parse(FLAT + FLAT.replace("2024-01-01", "2025-01-01"))) == 2


def test_a_file_without_prices_has_none() -> None:
    assert parse("") == []


def tiers(*lines: str) -> str:
    return ENTRY + "tiers = [\n" + ",\n".join(lines) + "\n]"


SHORT = "{ max_prompt_tokens = 10, input = 1, output = 1 }"
LONG = "{ min_prompt_tokens = 10, input = 1, output = 1 }"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[price", ["not valid TOML"]),
        ("prices = 1", ["unknown key 'prices'", "currency, price"]),
        ("price = 1", ["price must be a list of tables"]),
        ('currency = "USD"\n' + FLAT, ["price 1 (glm-x)", "in USD", "counts in CNY"]),
        (FLAT + 'currency = "USD"', ["price 1 (glm-x)", "in USD"]),
        (FLAT.replace('model = "glm-x"', ""), ["price 1", "model is missing"]),
        (FLAT + 'models = ["a"]', ["both model and models"]),
        (FLAT.replace('model = "glm-x"', "models = []"), ["models is empty"]),
        (FLAT.replace('model = "glm-x"', "models = [1]"), ["models must be a list of texts"]),
        (FLAT.replace('upstream = "zhipu"', ""), ["(glm-x)", "upstream is missing"]),
        (FLAT.replace('"zhipu"', "5"), ["(glm-x)", "upstream must be a text"]),
        (FLAT.replace('"zhipu"', '"a/b"'), ["(glm-x)", "upstream 'a/b' must be"]),
        (FLAT.replace('"glm-x"', '"glm x"'), ["price 1", "the model 'glm x' must be"]),
        (FLAT.replace("valid_from = 2024-01-01", ""), ["valid_from is missing", "2024-01-01"]),
        (FLAT.replace("2024-01-01", '"2024-01-01"'), ["valid_from", "without quotes"]),
        (FLAT + "imput = 1", ["unknown key 'imput'", "input"]),
        (ENTRY + "input = 1", ["(glm-x)", "output is missing"]),
        (ENTRY + 'input = "-1"\noutput = 1', ["input is '-1'", "0 or more"]),
        (ENTRY + "input = nan\noutput = 1", ["input is NaN", "0 or more"]),
        (ENTRY + "input = inf\noutput = 1", ["input is Infinity", "0 or more"]),
        (ENTRY + "input = true\noutput = 1", ["input is True"]),
        (ENTRY + 'input = "two"\noutput = 1', ["input is 'two'"]),
        (ENTRY + 'input = "2 CNY"\noutput = 1', ["input is '2 CNY'"]),
        (ENTRY + 'input = "0.0000000001"\noutput = 1', ["nine digits"]),
        (ENTRY + "input = 1e-99999\noutput = 1", ["nine digits"]),
        (ENTRY + "input = 1e7\noutput = 1", ["per million tokens"]),
        (FLAT + "batch_factor = 2", ["batch_factor is 2", "0 to 1"]),
        (FLAT + "batch_factor = 1e-99999", ["batch_factor"]),
        (FLAT + "tiers = []", ["tiers and a price of its own"]),
        (ENTRY + "tiers = []", ["tiers is empty"]),
        (ENTRY + "tiers = 3", ["tiers must be a list of tables"]),
        (tiers("{ input = 1, output = 1, max_tokens = 3 }"), ["tiers 1", "unknown key 'max_tokens'"]),
        (tiers("{ input = 1, output = 1, max_prompt_tokens = 0 }"), ["max_prompt_tokens is 0", "1 or more"]),
        (tiers("{ input = 1, output = 1, max_prompt_tokens = 3.5 }"), ["max_prompt_tokens is 3.5", "whole number"]),
        (tiers("{ input = 1, output = 1, min_prompt_tokens = -1 }"), ["min_prompt_tokens is -1"]),
        (
            tiers("{ input = 1, output = 1, min_prompt_tokens = 5, max_prompt_tokens = 5 }"),
            ["max_prompt_tokens 5 must be above min_prompt_tokens 5"],
        ),
        (tiers(LONG, SHORT), ["not in order", "shortest"]),
        (tiers(SHORT, SHORT), ["overlap"]),
        (tiers(SHORT, LONG.replace("10", "9")), ["'prompt 0-9' and 'prompt 9+' overlap"]),
        (FLAT + FLAT, ["price 2", "zhipu/glm-x already has a price from 2024-01-01", "price 1"]),
        (FLAT.replace('model = "glm-x"', 'models = ["a", "a"]'), ["zhipu/a already has a price"]),
    ],
)
def test_a_mistake_is_refused_with_the_place_and_the_remedy(text: str, says: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("my-prices.toml: ")
    for part in says:
        assert part in message


def test_the_installations_currency_may_be_another() -> None:
    (price,) = parse(FLAT, currency="USD")
    assert price.currency == "USD"
    with pytest.raises(SettingsError, match="in CNY, but this installation counts in USD"):
        parse('currency = "CNY"\n' + FLAT, currency="USD")


def test_the_shipped_file_prices_each_model_once() -> None:
    text = (resources.files("tollgate") / "data" / "prices.toml").read_text("utf-8")
    prices = parse(text)
    assert {price.upstream for price in prices} == {"zhipu"}
    assert len({price.model for price in prices}) == len(prices) == 23
