"""Charges: the shipped prices against numbers worked out by hand, and the laws of rounding."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import price_file, prices
from tollgate.domain.prices import Price, PriceTable, Tier
from tollgate.domain.usage import TokenUsage

START = datetime(2024, 1, 1, tzinfo=UTC)
SHIPPED = PriceTable(
    price_file.parse_prices(
        (resources.files("tollgate") / "data" / "prices.toml").read_text("utf-8"), source="prices.toml"
    )
)


def shipped(model: str) -> Price:
    price = SHIPPED.find("zhipu", model, at=START)
    assert price is not None
    return price


def flat(input_nano: int, output_nano: int, cached_nano: int | None = None) -> Price:
    tier = Tier(name="flat", input_nano=input_nano, output_nano=output_nano, cached_nano=cached_nano)
    return Price(upstream="u", model="m", valid_from=START, currency="CNY", tiers=(tier,))


# Costs are nano-CNY: tokens x CNY per million x 1e9 / 1e6 = tokens x CNY per million x 1000.
@pytest.mark.parametrize(
    ("model", "prompt", "cached", "completion", "cost_nano", "tier"),
    [
        # 2 / 8 / 0.4: (1000 - 400) x 2000 + 400 x 400 + 199 x 8000
        ("glm-4.7", 1_000, 400, 199, 1_200_000 + 160_000 + 1_592_000, "prompt 0-31999, completion 0-199"),
        # 3 / 14 / 0.6: 600 x 3000 + 400 x 600 + 200 x 14000
        ("glm-4.7", 1_000, 400, 200, 1_800_000 + 240_000 + 2_800_000, "prompt 0-31999, completion 200+"),
        # 31,999 x 2000 + 1 x 8000, and one token more in the next tier: 32,000 x 4000 + 1 x 16000
        ("glm-4.7", 31_999, 0, 1, 64_006_000, "prompt 0-31999, completion 0-199"),
        ("glm-4.7", 32_000, 0, 1, 128_016_000, "prompt 32000-199999"),
        # 4 / 16 / 0.8: 30,000 x 4000 + 10,000 x 800 + 500 x 16000
        ("glm-4.7", 40_000, 10_000, 500, 136_000_000, "prompt 32000-199999"),
        # Beyond every bound the last tier bills: 200,000 x 4000
        ("glm-4.7", 200_000, 0, 0, 800_000_000, "prompt 32000-199999"),
        # 4 / 18 / 1 and 6 / 22 / 1.5
        ("glm-5", 31_999, 0, 10, 128_176_000, "prompt 0-31999"),
        ("glm-5", 32_000, 0, 10, 192_220_000, "prompt 32000+"),
        ("glm-5", 32_000, 32_000, 10, 48_220_000, "prompt 32000+"),
        ("glm-5.1", 10, 4, 1, 6 * 6_000 + 4 * 1_300 + 24_000, "prompt 0-31999"),
        ("glm-4-plus", 3, 1, 1, 17_500, "flat"),
        ("glm-4-flash", 1_000_000, 0, 1_000_000, 0, "flat"),
        ("embedding-3", 7, 0, 0, 3_500, "flat"),
    ],
)
def test_the_shipped_prices_bill_what_the_price_list_says(
    model: str, prompt: int, cached: int, completion: int, cost_nano: int, tier: str
) -> None:
    usage = TokenUsage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
    charge = prices.charge(shipped(model), usage)
    assert (charge.cost_nano, charge.tier, charge.estimated) == (cost_nano, tier, False)


@pytest.mark.parametrize(
    ("model", "cost_nano"),
    [
        ("chatglm_pro", 10_000_000),  # 0.01 CNY for a thousand tokens
        ("chatglm_std", 5_000_000),
        ("chatglm_turbo", 5_000_000),
        ("chatglm_lite", 2_000_000),
        ("glm-4-airx", 10_000_000),
    ],
)
def test_a_total_alone_is_exact_where_all_tokens_cost_the_same(model: str, cost_nano: int) -> None:
    usage = TokenUsage(prompt_tokens=1_000, split_known=False)
    charge = prices.charge(shipped(model), usage)
    assert (charge.cost_nano, charge.estimated) == (cost_nano, False)


@pytest.mark.parametrize(
    ("model", "cost_nano"),
    [
        ("glm-4.7", 8_000_000),  # 1000 tokens at the dearer 8
        ("glm-4-plus", 5_000_000),  # the cached part is not known
    ],
)
def test_a_total_alone_is_an_estimate_where_tokens_differ_in_price(model: str, cost_nano: int) -> None:
    charge = prices.charge(shipped(model), TokenUsage(prompt_tokens=1_000, split_known=False))
    assert (charge.cost_nano, charge.estimated) == (cost_nano, True)


def test_tiers_of_different_price_make_a_total_an_estimate() -> None:
    low = Tier(name="low", max_prompt_tokens=10, input_nano=5, output_nano=5)
    high = Tier(name="high", min_prompt_tokens=10, input_nano=9, output_nano=9)
    price = Price(upstream="u", model="m", valid_from=START, currency="CNY", tiers=(low, high))
    assert prices.charge(price, TokenUsage(prompt_tokens=5, split_known=False)).estimated


def test_estimated_tokens_make_an_estimated_charge() -> None:
    assert prices.charge(flat(1, 1), TokenUsage(prompt_tokens=5, estimated=True)).estimated


def test_cached_input_costs_as_much_as_input_unless_told() -> None:
    usage = TokenUsage(prompt_tokens=10, cached_tokens=10)
    assert prices.charge(flat(2_000_000, 0), usage).cost_nano == 20
    assert prices.charge(flat(2_000_000, 0, 0), usage).cost_nano == 0


@pytest.mark.parametrize(
    ("list_nano", "batch_nano"),
    [(1, 0), (3, 2), (5, 2), (7, 4)],  # 0.5, 1.5, 2.5 and 3.5, half to even
)
def test_a_batch_costs_half_and_an_odd_nano_is_rounded_half_even(list_nano: int, batch_nano: int) -> None:
    price = flat(1_000_000, 1_000_000)
    usage = TokenUsage(prompt_tokens=list_nano)
    assert prices.charge(price, usage).cost_nano == list_nano
    assert prices.charge(price, usage, batch=True).cost_nano == batch_nano


def test_rounding_happens_once_at_the_end() -> None:
    # 0.4 + 0.4 nano is 0.8, so 1; each rounded alone would give 0.
    both = TokenUsage(prompt_tokens=1, completion_tokens=1)
    assert prices.charge(flat(400_000, 400_000), both).cost_nano == 1
    # 2.6 nano halved is 1.3, so 1; rounded to 3 before, it would be 1.5 and so 2.
    assert prices.charge(flat(2_600_000, 0), TokenUsage(prompt_tokens=1), batch=True).cost_nano == 1


@pytest.mark.parametrize(
    ("model", "prompt", "completion", "cost_nano"),
    [
        ("glm-4.7", 1_000, 100, 1_000 * 2_000 + 100 * 8_000),
        ("glm-4.7", 1_000, 4_096, 1_000 * 3_000 + 4_096 * 14_000),
        ("glm-4.7", 40_000, 4_096, 40_000 * 4_000 + 4_096 * 16_000),
        ("glm-5", 31_999, 10, 128_176_000),
        ("chatglm_pro", 500, 500, 10_000_000),
        ("glm-4-flash", 500, 500, 0),
    ],
)
def test_the_worst_case_is_that_of_the_dearest_tier_in_reach(
    model: str, prompt: int, completion: int, cost_nano: int
) -> None:
    price = shipped(model)
    assert prices.worst_case_nano(price, prompt_tokens=prompt, completion_tokens=completion) == cost_nano


def test_the_worst_case_may_lie_in_a_shorter_and_dearer_tier() -> None:
    dear = Tier(name="dear", max_completion_tokens=100, input_nano=0, output_nano=90_000_000)
    cheap = Tier(name="cheap", min_completion_tokens=100, input_nano=0, output_nano=1_000_000)
    price = Price(upstream="u", model="m", valid_from=START, currency="CNY", tiers=(dear, cheap))
    assert prices.worst_case_nano(price, prompt_tokens=0, completion_tokens=200) == 99 * 90


RATES = st.integers(min_value=0, max_value=10**12)
BOUNDS = st.integers(min_value=0, max_value=60)
TIERS = st.builds(
    Tier,
    name=st.text(max_size=10),
    min_prompt_tokens=BOUNDS,
    max_prompt_tokens=st.none() | BOUNDS,
    min_completion_tokens=BOUNDS,
    max_completion_tokens=st.none() | BOUNDS,
    input_nano=RATES,
    output_nano=RATES,
    cached_nano=st.none() | RATES,
)
PRICES = st.builds(
    Price,
    upstream=st.text(max_size=10),
    model=st.text(max_size=10),
    valid_from=st.datetimes(timezones=st.just(UTC)),
    currency=st.sampled_from(["CNY", "USD"]),
    tiers=st.lists(TIERS, min_size=1, max_size=4).map(tuple),
    batch_factor=st.fractions(min_value=0, max_value=1),
)
COUNTS = st.integers(min_value=0, max_value=80)


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    prompt = draw(COUNTS)
    cached = draw(st.integers(min_value=0, max_value=prompt))
    return TokenUsage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=draw(COUNTS))


@given(PRICES, usages(), COUNTS, COUNTS, st.booleans())
def test_no_usage_within_the_limits_costs_more_than_the_worst_case(
    price: Price, usage: TokenUsage, more_prompt: int, more_completion: int, batch: bool
) -> None:
    worst = prices.worst_case_nano(
        price,
        prompt_tokens=usage.prompt_tokens + more_prompt,
        completion_tokens=usage.completion_tokens + more_completion,
        batch=batch,
    )
    assert 0 <= prices.charge(price, usage, batch=batch).cost_nano <= worst


@given(PRICES, usages(), st.booleans())
def test_a_charge_is_within_half_a_nano_of_the_exact_cost(price: Price, usage: TokenUsage, batch: bool) -> None:
    charge = prices.charge(price, usage, batch=batch)
    fitting = [
        tier
        for tier in price.tiers
        if tier.fits(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
    ]
    tier = fitting[0] if fitting else price.tiers[-1]
    cached_rate = tier.input_nano if tier.cached_nano is None else tier.cached_nano
    exact = Fraction(usage.prompt_tokens - usage.cached_tokens, 10**6) * tier.input_nano
    exact += Fraction(usage.cached_tokens, 10**6) * cached_rate
    exact += Fraction(usage.completion_tokens, 10**6) * tier.output_nano
    exact *= price.batch_factor if batch else 1
    assert charge.tier == tier.name
    assert abs(charge.cost_nano - exact) <= Fraction(1, 2)


@given(RATES, RATES, usages(), usages())
def test_two_attempts_cost_what_their_tokens_cost_together_within_rounding(
    input_nano: int, output_nano: int, one: TokenUsage, other: TokenUsage
) -> None:
    price = flat(input_nano, output_nano)
    both = TokenUsage(
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
    )
    apart = prices.charge(price, one).cost_nano + prices.charge(price, other).cost_nano
    assert abs(apart - prices.charge(price, both).cost_nano) <= 1


@given(PRICES)
def test_a_price_survives_its_json_exactly(price: Price) -> None:
    back = prices.price_from_json(prices.price_to_json(price))
    assert back == price
    assert back.id == price.id
    assert prices.price_to_json(back) == prices.price_to_json(price)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"tiers": 1, "valid_from": "x"}'])
def test_json_that_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        prices.price_from_json(text)


def test_a_corrected_price_of_the_same_day_has_another_id() -> None:
    one, other = flat(1, 1), flat(1, 2)
    assert one.id.startswith("u/m@2024-01-01#")
    assert len(one.id) == len("u/m@2024-01-01#") + 8
    assert one.id != other.id
    assert one.id == flat(1, 1).id


@pytest.mark.parametrize("valid_from", [datetime(2024, 1, 1), START.astimezone(timezone(timedelta(hours=8)))])  # noqa: DTZ001 - the refused case
def test_a_price_begins_at_a_time_in_utc(valid_from: datetime) -> None:
    tier = Tier(name="flat", input_nano=1, output_nano=1)
    with pytest.raises(ValueError, match="UTC"):
        Price(upstream="u", model="m", valid_from=valid_from, currency="CNY", tiers=(tier,))


def test_a_price_without_tiers_is_refused() -> None:
    with pytest.raises(ValueError, match="tier"):
        Price(upstream="u", model="m", valid_from=START, currency="CNY", tiers=())


def dated(days: int, input_nano: int) -> Price:
    tier = Tier(name="flat", input_nano=input_nano, output_nano=0)
    start = START + timedelta(days=days)
    return Price(upstream="u", model="m", valid_from=start, currency="CNY", tiers=(tier,))


@pytest.mark.parametrize(
    ("seconds", "input_nano"),
    [(-1, None), (0, 1), (86_399, 1), (86_400, 3), (10 * 86_400 - 1, 3), (10 * 86_400, 4)],
)
def test_the_price_in_force_is_the_latest_that_has_begun(seconds: int, input_nano: int | None) -> None:
    # Given out of order; of the two from day 1, the one given last (3) wins.
    table = PriceTable([dated(10, 4), dated(1, 2), dated(0, 1), dated(1, 3)])
    found = table.find("u", "m", at=START + timedelta(seconds=seconds))
    assert (found.tiers[0].input_nano if found else None) == input_nano


def test_an_unknown_model_has_no_price() -> None:
    assert PriceTable([dated(0, 1)]).find("u", "other", at=START) is None
    assert PriceTable([dated(0, 1)]).find("other", "m", at=START) is None
