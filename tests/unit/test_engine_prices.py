"""Prices by the second of a local engine: what is billed, what is reserved, and what a price file says."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_price_file import parse
from tests.unit.test_prices import shipped
from tollgate.domain import prices
from tollgate.domain.engine_rates import EngineRate
from tollgate.domain.errors import SettingsError
from tollgate.domain.prices import Charge, Price, Tier
from tollgate.domain.usage import TokenUsage

START = datetime(2026, 1, 1, tzinfo=UTC)
ENTRY = """
[[price]]
upstream = "gpu"
model = "glm-4-9b"
valid_from = 2026-01-01
"""
RATE = EngineRate(second_nano=2_500_000, tokens_per_second=1_500, alone_tokens_per_second=60)


def price(engine: EngineRate = RATE) -> Price:
    return Price(upstream="gpu", model="glm-4-9b", valid_from=START, currency="CNY", engine=engine)


@pytest.mark.parametrize(
    ("second_nano", "engine_us", "cost_nano"),
    [
        (2_500_000, 1_000_000, 2_500_000),
        (2_500_000, 3_600_000_000, 9_000_000_000),  # an hour: 9 CNY
        (2_500_000, 1, 2),  # 2.5, half to even
        (2_500_000, 3, 8),  # 7.5, half to even
        (1, 499_999, 0),
        (1, 500_001, 1),
        (0, 10**12, 0),
    ],
)
def test_a_task_pays_for_its_share_of_the_engines_time(second_nano: int, engine_us: int, cost_nano: int) -> None:
    rate = EngineRate(second_nano=second_nano, tokens_per_second=1, alone_tokens_per_second=1)
    usage = TokenUsage(prompt_tokens=7, completion_tokens=9, engine_us=engine_us)
    assert prices.charge(price(rate), usage) == Charge(cost_nano=cost_nano, tier="engine", estimated=False)


def test_where_the_time_is_not_known_the_tokens_tell_it_and_the_charge_is_an_estimate() -> None:
    usage = TokenUsage(prompt_tokens=1_000, completion_tokens=2_000)
    assert prices.charge(price(), usage) == Charge(cost_nano=2 * 2_500_000, tier="engine", estimated=True)
    assert prices.charge(price(), TokenUsage(prompt_tokens=3_000, split_known=False)).cost_nano == 2 * 2_500_000


def test_a_time_that_is_known_is_exact_however_its_tokens_were_counted() -> None:
    assert not prices.charge(price(), TokenUsage(prompt_tokens=3, engine_us=5, estimated=True)).estimated


def test_by_tokens_the_time_costs_nothing() -> None:
    tier = Tier(name="flat", input_nano=1_000_000, output_nano=1_000_000)
    by_tokens = Price(upstream="gpu", model="m", valid_from=START, currency="CNY", tiers=(tier,))
    assert prices.charge(by_tokens, TokenUsage(prompt_tokens=7, engine_us=10**9)).cost_nano == 7


def test_what_is_reserved_is_what_a_request_alone_would_take() -> None:
    # 300 / 1500 s for the prompt and 120 / 60 s for the answer.
    assert prices.worst_case_nano(price(), prompt_tokens=300, completion_tokens=120) == 2_200 * 2_500


def test_it_is_never_nothing_unless_a_second_is_free() -> None:
    tiny, free = (EngineRate(second_nano=n, tokens_per_second=10**9, alone_tokens_per_second=10**9) for n in (1, 0))
    assert prices.worst_case_nano(price(tiny), prompt_tokens=1, completion_tokens=0) == 1
    assert prices.worst_case_nano(price(tiny), prompt_tokens=0, completion_tokens=0) == 1
    assert prices.worst_case_nano(price(free), prompt_tokens=10**9, completion_tokens=10**9) == 0


RATES = st.builds(
    lambda second_nano, alone, busier: EngineRate(
        second_nano=second_nano, tokens_per_second=alone + busier, alone_tokens_per_second=alone
    ),
    st.integers(0, 10**12),
    st.integers(1, 10**6),
    st.integers(0, 10**6),
)
TOKENS = st.integers(0, 2**31 - 1)


@given(RATES, st.integers(1, 10**13), st.booleans())
def test_a_charge_is_within_half_a_nano_of_the_exact_cost(rate: EngineRate, engine_us: int, batch: bool) -> None:
    usage = TokenUsage(prompt_tokens=1, engine_us=engine_us)
    exact = Fraction(engine_us * rate.second_nano, 10**6) / (2 if batch else 1)
    assert abs(prices.charge(price(rate), usage, batch=batch).cost_nano - exact) <= Fraction(1, 2)


@given(RATES, st.lists(st.integers(1, 10**10), min_size=1, max_size=20))
def test_shares_cost_together_what_the_engine_cost_within_their_rounding(
    rate: EngineRate, shares_us: list[int]
) -> None:
    apart = sum(prices.charge(price(rate), TokenUsage(prompt_tokens=1, engine_us=us)).cost_nano for us in shares_us)
    whole = Fraction(sum(shares_us) * rate.second_nano, 10**6)
    assert abs(apart - whole) <= Fraction(len(shares_us), 2)


@given(RATES, TOKENS, TOKENS, st.fractions(0, 1), st.fractions(0, 1), st.booleans())
def test_what_is_estimated_by_tokens_never_exceeds_what_was_reserved(
    rate: EngineRate, prompt: int, completion: int, of_prompt: Fraction, of_completion: Fraction, batch: bool
) -> None:
    usage = TokenUsage(prompt_tokens=int(prompt * of_prompt), completion_tokens=int(completion * of_completion))
    most = prices.worst_case_nano(price(rate), prompt_tokens=prompt, completion_tokens=completion, batch=batch)
    assert 0 <= prices.charge(price(rate), usage, batch=batch).cost_nano <= most
    assert most > 0 or rate.second_nano == 0


@given(RATES)
def test_a_price_survives_its_json_exactly(rate: EngineRate) -> None:
    back = prices.price_from_json(prices.price_to_json(price(rate)))
    assert (back, back.id, back.tiers) == (price(rate), price(rate).id, ())


@pytest.mark.parametrize("engine", ["1", "{}", '{"second_nano": 1}', '{"second_nano": 1, "per": 2}'])
def test_json_with_another_engine_is_refused(engine: str) -> None:
    text = prices.price_to_json(price())
    whole = '{"alone_tokens_per_second":60,"second_nano":2500000,"tokens_per_second":1500}'
    with pytest.raises(ValueError, match="not a price"):
        prices.price_from_json(text.replace(whole, engine))


def test_the_prices_by_tokens_have_the_ids_they_always_had() -> None:
    """What was billed names them, and the database has them under these."""
    assert [shipped(model).id for model in ("chatglm_pro", "glm-4-air", "glm-4.7", "glm-5")] == [
        "zhipu/chatglm_pro@2024-01-01#fce4001f",
        "zhipu/glm-4-air@2024-01-01#d6d992a0",
        "zhipu/glm-4.7@2024-01-01#6252570f",
        "zhipu/glm-5@2024-01-01#1cc7f54f",
    ]


def test_a_price_is_by_tokens_or_by_the_second() -> None:
    tier = Tier(name="flat", input_nano=1, output_nano=1)
    with pytest.raises(ValueError, match="or else a rate of an engine"):
        Price(upstream="u", model="m", valid_from=START, currency="CNY", tiers=(tier,), engine=RATE)


@pytest.mark.parametrize(("second_nano", "busy", "alone"), [(-1, 1, 1), (1, 0, 0), (1, 5, 0), (1, 5, 6)])
def test_impossible_rates_are_refused(second_nano: int, busy: int, alone: int) -> None:
    with pytest.raises(ValueError, match="second"):
        EngineRate(second_nano=second_nano, tokens_per_second=busy, alone_tokens_per_second=alone)


def test_an_entry_by_the_second() -> None:
    (found,) = parse(ENTRY + 'engine_second = "0.0025"\ntokens_per_second = 1500\nalone_tokens_per_second = 60\n')
    assert found == Price(
        upstream="gpu", model="glm-4-9b", valid_from=START, currency="CNY", engine=RATE, batch_factor=Fraction(1)
    )


@pytest.mark.parametrize(("busy", "alone"), [(1_500, 150), (9, 1), (1, 1)])
def test_alone_it_makes_a_tenth_unless_told(busy: int, alone: int) -> None:
    (found,) = parse(ENTRY + f"engine_second = 0.0025\ntokens_per_second = {busy}\n")
    assert found.engine is not None
    assert found.engine.alone_tokens_per_second == alone


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('engine_second = "0.1"', r"price 1 \(glm-4-9b\): tokens_per_second is missing; .*tokens_per_second = 1500"),
        ("tokens_per_second = 5", 'tokens_per_second goes with a price by the second; write engine_second = "0.0025"'),
        ("alone_tokens_per_second = 5", "alone_tokens_per_second goes with a price by the second"),
        ('engine_second = "0.1"\ninput = "1"', "has engine_second and input; a price is by the second or by tokens"),
        ('engine_second = "0.1"\ntiers = []', "has engine_second and tiers"),
        ('engine_second = "0.1"\nbatch_factor = "0.5"', "has engine_second and batch_factor"),
        ('engine_second = "-1"\ntokens_per_second = 5', "engine_second is '-1'; write a number of 0 or more"),
        ('engine_second = "1001"\ntokens_per_second = 5', "it is the price of one second, and at most 1000"),
        ('engine_second = "1e-10"\ntokens_per_second = 5', "at most nine digits after the point"),
        ("engine_second = 1\ntokens_per_second = 0", "tokens_per_second is 0; write a whole number, 1 or more"),
        ("engine_second = 1\ntokens_per_second = 1.5", "tokens_per_second is 1.5; write a whole number"),
        (
            "engine_second = 1\ntokens_per_second = 5\nalone_tokens_per_second = 6",
            "alone_tokens_per_second is 6; write a whole number from 1 to 5",
        ),
    ],
)
def test_a_wrong_entry_is_explained(written: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        parse(ENTRY + written)
