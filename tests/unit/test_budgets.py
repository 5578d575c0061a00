"""What fits a budget, when it begins anew, and what an attempt counts for."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain.budgets import (
    COST_PATTERN,
    EPOCH,
    NOTHING,
    Amounts,
    Budget,
    Period,
    charged,
    fits,
    refusal,
    remaining,
    unpriced,
)
from tollgate.domain.errors import BudgetExceededError
from tollgate.domain.money import format_nano, to_nano
from tollgate.domain.settling import Bill
from tollgate.domain.states import AttemptOutcome

BUDGET = Budget(
    id=UUID(int=7), project_id=UUID(int=1), key_id=None, period=Period.MONTH, limit_nano=1_000, limit_tokens=100
)
COUNT = st.integers(0, 2_000)
AMOUNTS = st.builds(
    Amounts,
    reserved_nano=COUNT,
    reserved_tokens=COUNT,
    spent_nano=COUNT,
    spent_tokens=COUNT,
    uncertain_nano=COUNT,
    uncertain_tokens=COUNT,
)
ASKED = st.builds(Amounts, reserved_nano=COUNT, reserved_tokens=COUNT)
LIMIT = st.none() | COUNT
BUDGETS = st.builds(lambda nano, tokens: replace(BUDGET, limit_nano=nano, limit_tokens=tokens), LIMIT, LIMIT)
DAYS = st.dates(date(1970, 1, 1), date(9000, 1, 1))
BILL = Bill(prompt_tokens=10, completion_tokens=5, cost_nano=70)
DOUBT = Bill(possible_cost_nano=90, possible_tokens=40)


@given(BUDGETS, AMOUNTS, ASKED)
def test_what_fits_stays_within_every_limit_it_asks_of(budget: Budget, stands: Amounts, asked: Amounts) -> None:
    after = stands + asked
    too_much = budget.limit_nano is not None and asked.nano > 0 and after.nano > budget.limit_nano
    too_many = budget.limit_tokens is not None and asked.tokens > 0 and after.tokens > budget.limit_tokens
    assert fits(budget, stands, asked=asked) is not (too_much or too_many)


@given(BUDGETS, AMOUNTS)
def test_what_is_told_to_be_left_fits_and_no_more(budget: Budget, stands: Amounts) -> None:
    left = remaining(budget, stands)
    assert set(left) == {
        kind for kind, limit in (("cost", budget.limit_nano), ("tokens", budget.limit_tokens)) if limit is not None
    }
    nano, tokens = to_nano(Decimal(left.get("cost", 0))), int(left.get("tokens", 0))
    assert fits(budget, stands, asked=Amounts(reserved_nano=nano, reserved_tokens=tokens))
    if "cost" in left:
        assert not fits(budget, stands, asked=Amounts(reserved_nano=nano + 1))
    if "tokens" in left:
        assert not fits(budget, stands, asked=Amounts(reserved_tokens=tokens + 1))


@given(AMOUNTS)
def test_what_costs_nothing_fits_an_overdrawn_budget(stands: Amounts) -> None:
    assert fits(replace(BUDGET, limit_nano=0, limit_tokens=None), stands, asked=Amounts(reserved_tokens=5))


@given(AMOUNTS, AMOUNTS)
def test_amounts_are_added_and_taken_away_field_by_field(one: Amounts, other: Amounts) -> None:
    assert one + other - other == one
    assert (one + other).nano == one.nano + other.nano
    assert (one + other).tokens == one.tokens + other.tokens
    assert one + NOTHING == one


@given(DAYS, st.sampled_from(Period))
def test_a_day_lies_in_its_period_and_the_next_begins_where_that_ends(day: date, period: Period) -> None:
    start, after = period.starts_on(day), period.resets_on(day)
    assert start <= day
    assert period.starts_on(start) == start
    if after is None:
        assert (period.endless, start) == (True, EPOCH)
        return
    assert day < after
    assert period.starts_on(after) == after
    assert period.starts_on(after - timedelta(days=1)) == start


@pytest.mark.parametrize(
    ("period", "day", "start", "after"),
    [
        (Period.DAY, date(2026, 12, 31), date(2026, 12, 31), date(2027, 1, 1)),
        (Period.MONTH, date(2026, 12, 31), date(2026, 12, 1), date(2027, 1, 1)),
        (Period.MONTH, date(2028, 2, 29), date(2028, 2, 1), date(2028, 3, 1)),
        (Period.TOTAL, date(2028, 2, 29), EPOCH, None),
    ],
)
def test_periods_follow_the_calendar(period: Period, day: date, start: date, after: date | None) -> None:
    assert (period.starts_on(day), period.resets_on(day)) == (start, after)


def test_a_projects_budget_covers_all_its_keys_and_a_keys_only_its_own() -> None:
    assert BUDGET.covers("any")
    assert replace(BUDGET, key_id="mine").covers("mine")
    assert not replace(BUDGET, key_id="mine").covers("other")


@pytest.mark.parametrize(
    ("outcome", "bill", "counts"),
    [
        (AttemptOutcome.SUCCEEDED, BILL, Amounts(spent_nano=70, spent_tokens=15)),
        (AttemptOutcome.FAILED, BILL, Amounts(spent_nano=70, spent_tokens=15)),
        (AttemptOutcome.FAILED, Bill(), NOTHING),
        (AttemptOutcome.SUCCEEDED, replace(BILL, cost_nano=None), Amounts(spent_tokens=15)),
        (AttemptOutcome.UNCERTAIN, DOUBT, Amounts(uncertain_nano=90, uncertain_tokens=40)),
        (AttemptOutcome.OPEN, DOUBT, NOTHING),
        (AttemptOutcome.ABANDONED, Bill(), NOTHING),
    ],
)
def test_an_attempt_counts_for_what_it_cost_or_may_have(outcome: AttemptOutcome, bill: Bill, counts: Amounts) -> None:
    assert charged(outcome, bill) == counts


def test_a_refusal_says_whose_budget_what_is_left_and_what_was_wanted() -> None:
    stands = Amounts(spent_nano=400, reserved_nano=100, uncertain_nano=100, spent_tokens=30)
    error = refusal(BUDGET, stands, asked=Amounts(reserved_nano=500, reserved_tokens=50))
    assert isinstance(error, BudgetExceededError)
    assert (error.budget_id, error.left) == (str(BUDGET.id), {"cost": format_nano(400), "tokens": 70})
    assert str(error).startswith(
        "this project's budget for the month does not have room: "
        "cost left 0.0000004, wanted up to 0.0000005; tokens left 70, wanted up to 50."
    )
    of_key = replace(BUDGET, key_id="mine", period=Period.TOTAL)
    assert str(refusal(of_key, stands, asked=NOTHING)).startswith("this key's budget does not have room")


def test_a_model_without_a_price_is_named() -> None:
    error = unpriced("glm-new")
    assert "'glm-new' has no price" in str(error)
    assert (error.budget_id, error.left) == (None, {})


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("0", True),
        ("12.50", True),
        ("999999999.999999999", True),
        ("1000000000", False),
        ("0.0000000001", False),
        ("-1", False),
        ("1e3", False),
        (".5", False),
        ("５", False),
        ("", False),
    ],
)
def test_a_limit_in_money_is_a_decimal_that_is_exact(text: str, good: bool) -> None:
    assert bool(re.search(COST_PATTERN, text)) is good
