"""Which prompts a step takes, and how much of them."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from worker.upstreams.local import scheduling
from worker.upstreams.local.requests import Request
from worker.upstreams.local.rows import Row

BUDGET = 100


def waiting(*missing: int, urgent: frozenset[int] = frozenset()) -> list[Row]:
    """Prompts in the order they came; `urgent`: the numbers of those that are."""
    return [
        Row(request=Request(ids=[1] * count, max_tokens=1, urgent=n in urgent), ends=frozenset(), slot=n)
        for n, count in enumerate(missing)
    ]


def taken(rows: list[Row]) -> tuple[list[int], tuple[int, int] | None]:
    plan = scheduling.prefill(rows, budget=BUDGET)
    long = None if plan.long is None else (plan.long.slot, plan.long_tokens)
    return sorted(row.slot for row in plan.finished), long


def test_prompts_that_fit_are_finished_together() -> None:
    assert taken(waiting(30, 40, 30)) == ([0, 1, 2], None)


def test_a_long_prompt_has_the_whole_budget_while_it_is_alone() -> None:
    assert taken(waiting(250)) == ([], (0, 100))


def test_a_short_prompt_passes_a_long_one_which_goes_on_with_what_is_left() -> None:
    assert taken(waiting(250, 20)) == ([1], (0, 80))


def test_half_of_the_budget_is_the_oldest_ones() -> None:
    assert taken(waiting(250, 20, 20, 20, 20)) == ([1, 2], (0, 60))


def test_an_oldest_one_of_middling_length_is_not_passed_for_ever() -> None:
    assert taken(waiting(90, 30, 30, 30)) == ([1], (0, 70))


def test_the_urgent_go_first() -> None:
    assert taken(waiting(60, 60, urgent=frozenset({1}))) == ([1], (0, 40))
    assert taken(waiting(250, 60, 55, urgent=frozenset({2}))) == ([2], (0, 45))


@given(st.lists(st.integers(1, 300), max_size=8), st.frozensets(st.integers(0, 7)))
def test_a_step_never_takes_more_than_its_budget_and_always_something(
    missing: list[int], urgent: frozenset[int]
) -> None:
    rows = waiting(*missing, urgent=urgent)
    plan = scheduling.prefill(rows, budget=BUDGET)
    total = sum(row.missing for row in plan.finished) + plan.long_tokens
    assert total == min(BUDGET, sum(missing))
    assert plan.long not in plan.finished
    if plan.long is not None:
        assert 0 < plan.long_tokens < plan.long.missing
