"""What fits a rate per minute, what is left of it, and when more fits."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import rates
from tollgate.domain.rates import NO_LIMITS, WINDOW_S, Asked, KeyLimits, Rate, Taken, Window

START_S = 1_700_000_000.5
PAUSES = st.sampled_from((0.0, 0.25, 0.999, 1.0, 7.5, 30.0, 59.0, 60.0, 61.0, 200.0))
LIMIT = st.integers(1, 12)
STEPS = st.lists(st.tuples(PAUSES, st.integers(0, 15)), max_size=40)


def asking(tokens: int, *, requests: int | None = None, limit: int | None = None) -> Asked:
    limits = KeyLimits(requests_per_minute=requests, tokens_per_minute=limit)
    return rates.wanted(limits, key_id="key", tokens=tokens)


def run(steps: list[tuple[float, int]], *, requests: int, tokens: int) -> list[tuple[float, int, Asked, Taken]]:
    """What came of each: when it was asked, for how many tokens."""
    now_s, windows = START_S, ({}, {})  # type: tuple[float, tuple[Window, ...]]
    done = []
    for pause_s, asked_tokens in steps:
        now_s += pause_s
        asked = asking(asked_tokens, requests=requests, limit=tokens)
        taken = rates.take(asked, windows, now_s=now_s)
        windows = taken.windows
        done.append((now_s, asked_tokens, asked, taken))
    return done


@pytest.mark.parametrize("field", [f.name for f in fields(KeyLimits)])
def test_a_key_is_limited_by_any_of_its_limits_also_by_none_at_all(field: str) -> None:
    assert KeyLimits(**{field: 0})
    assert not KeyLimits()


@given(STEPS, LIMIT, LIMIT)
def test_no_minute_has_more_than_the_limit_wherever_it_begins(
    steps: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    accepted = [(at, n) for at, n, _, taken in run(steps, requests=requests, tokens=tokens) if taken.fits]
    for i, (begin, _) in enumerate(accepted):
        within = [one for one in accepted[i:] if one[0] <= begin + WINDOW_S]
        assert len(within) <= requests
        assert sum(n for _, n in within) <= tokens


@given(STEPS, LIMIT, LIMIT)
def test_what_is_refused_counts_nothing_and_fits_when_it_is_told_to_and_not_a_second_sooner(
    steps: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    windows: tuple[Window, ...] = ({}, {})
    for now_s, _, asked, taken in run(steps, requests=requests, tokens=tokens):
        if taken.fits:
            windows = taken.windows
            continue
        assert {s: n for w in taken.windows for s, n in w.items()}.items() <= {
            s: n for w in windows for s, n in w.items()
        }.items()
        error = rates.refusal(asked, taken)
        if error.retry_after_s is None:
            assert any(rate.asked > rate.limit for rate in asked.rates)
            continue
        assert 0 < error.retry_after_s <= WINDOW_S + 1
        assert rates.take(asked, taken.windows, now_s=now_s + error.retry_after_s).fits
        sooner = now_s + error.retry_after_s - 1.001
        assert sooner < now_s or not rates.take(asked, taken.windows, now_s=sooner).fits


@given(STEPS, LIMIT, LIMIT)
def test_what_is_told_to_be_left_fits_and_after_the_reset_all_does(
    steps: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    for now_s, _, asked, taken in run(steps, requests=requests, tokens=tokens):
        for rate, window in zip(asked.rates, taken.windows, strict=True):
            left = rates.left(rate, window)
            assert 0 <= left <= rate.limit
            exactly = Asked(key_id="key", rates=(Rate(kind=rate.kind, limit=rate.limit, asked=left),))
            assert rates.take(exactly, [window], now_s=now_s).fits
            reset_s = rates.reset_s(window, now_s=now_s)
            whole = Asked(key_id="key", rates=(Rate(kind=rate.kind, limit=rate.limit, asked=rate.limit),))
            assert rates.take(whole, [window], now_s=now_s + reset_s).fits


def test_a_request_takes_all_that_it_asks_for_or_nothing() -> None:
    first = rates.take(asking(8, requests=5, limit=10), [{}, {}], now_s=START_S)
    second = rates.take(asking(3, requests=5, limit=10), first.windows, now_s=START_S)
    assert (first.fits, second.fits) == (True, False)
    assert [rates.used(window) for window in second.windows] == [1, 8]


def test_a_limit_counts_what_came_before_it_was_changed() -> None:
    taken = rates.take(asking(0, requests=9), [{1_700_000_000: 4}], now_s=START_S)
    lowered = asking(0, requests=3)
    assert not rates.take(lowered, taken.windows, now_s=START_S).fits
    assert rates.left(lowered.rates[0], taken.windows[0]) == 0
    assert rates.take(asking(0, requests=6), taken.windows, now_s=START_S).fits


def test_only_limits_that_there_are_are_asked() -> None:
    assert asking(7).rates == ()
    assert [rate.kind for rate in asking(7, limit=9).rates] == ["tokens"]
    assert [(rate.kind, rate.asked) for rate in asking(7, requests=1, limit=9).rates] == [
        ("requests", 1),
        ("tokens", 7),
    ]
    assert not NO_LIMITS
    assert KeyLimits(max_in_flight=1)


@pytest.mark.parametrize(
    ("asked", "limit", "message"),
    [
        (asking(0, requests=1), "requests_per_minute", "this key's limit of 1 requests per minute is reached. Send it"),
        (asking(4, limit=5), "tokens_per_minute", "5 tokens per minute does not have room: 2 left, wanted up to 4. "),
        (asking(6, limit=5), "tokens_per_minute", "too large for this key's limit of 5 tokens per minute: it asks for"),
    ],
)
def test_a_refusal_says_which_limit_what_is_left_and_when(asked: Asked, limit: str, message: str) -> None:
    taken = rates.take(asked, [{1_700_000_000: 1 if limit.startswith("requests") else 3}], now_s=START_S)
    error = rates.refusal(asked, taken)
    assert error.limit == limit
    assert message in str(error)
    if error.retry_after_s is not None:
        assert f"in {math.ceil(error.retry_after_s)} s" in str(error)


def test_of_two_limits_the_one_that_keeps_it_out_longer_is_told() -> None:
    asked = asking(9, requests=2, limit=10)
    windows = [{1_700_000_000: 2}, {1_699_999_950: 10}]
    error = rates.refusal(asked, rates.take(asked, windows, now_s=START_S))
    assert (error.limit, error.retry_after_s) == ("requests_per_minute", 60.5)
