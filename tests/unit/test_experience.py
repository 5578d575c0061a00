"""What past answers say of the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain.experience import UNSEEN_PROMPT, Experience, Sample, Spread


def experience(*completions: int, assumed_max_tokens: int = 4_096) -> Experience:
    samples = [Sample(100, 100, tokens, 1.0) for tokens in completions]
    return Experience(samples, assumed_max_tokens=assumed_max_tokens)


def test_an_answer_lies_between_the_tenths_and_is_likely_the_mean() -> None:
    past = experience(*range(1, 101))
    assert past.completion(None) == Spread(11, 50.5, 90)
    assert [past.completion_quantile(q) for q in (0.1, 0.5, 0.9)] == [11, 51, 90]


def test_no_answer_is_longer_than_its_line_allows() -> None:
    past = experience(*range(1, 101))
    assert past.completion(20) == Spread(11, (sum(range(1, 21)) + 80 * 20) / 100, 20)
    assert past.completion(5) == Spread(4.9, 4.9, 5), "ninety-six of a hundred are cut, so hardly any is shorter"
    assert past.completion(10**9) == past.completion(None)


def test_seldom_and_long_answers_are_not_missed() -> None:
    """Their median is 1: of a thousand lines it would miss nearly all the tokens."""
    past = experience(*[1] * 95, *[1_000] * 5)
    low, likely, high = past.completion(None)
    assert low == 1
    assert likely == pytest.approx(50.95)
    assert high == likely, "the likely figure is above nine of ten answers"


def test_without_answers_it_is_a_part_of_what_may_come() -> None:
    past = experience(assumed_max_tokens=4_096)
    assert past.completion(None) == Spread(256, 1_024, 4_096)
    assert past.completion(160) == Spread(10, 40, 160)
    assert past.completion(1) == Spread(1, 1, 1)
    assert (past.count, past.seconds, past.prompt_ratio) == (0, None, UNSEEN_PROMPT)


def test_prompts_are_off_by_as_much_as_they_were() -> None:
    samples = [
        Sample(prompt_tokens=60 + n, prompt_tokens_estimate=100, completion_tokens=1, seconds=n) for n in range(11)
    ]
    past = Experience(samples, assumed_max_tokens=1)
    assert list(past.prompt_ratio) == pytest.approx([0.61, 0.65, 0.69])
    assert past.seconds == 5


def test_an_engine_takes_as_long_a_token_as_it_took() -> None:
    """Answers of the cloud, without such a time, say nothing of it."""
    of_engine = [Sample(60, 60, 40, 1.0, engine_us=100 * us) for us in range(1, 12)]
    past = Experience([*of_engine, *[Sample(60, 60, 40, 1.0)] * 50], assumed_max_tokens=1)
    assert past.engine_us_per_token == Spread(2, 6, 10)
    assert experience(1).engine_us_per_token is None


@given(
    completions=st.lists(st.integers(0, 10_000), min_size=1, max_size=50),
    most=st.one_of(st.none(), st.integers(1, 20_000)),
)
def test_a_spread_is_in_order_and_within_what_was_seen(completions: list[int], most: int | None) -> None:
    low, likely, high = experience(*completions).completion(most)
    assert 0 <= low <= likely <= high <= min(most or 10**9, max(completions))
