"""The law of a route's learned concurrency."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain.concurrency import FAR, MOST_PATIENCE, START, LearnedLimit

CEILING = 1000


def refused(learned: LearnedLimit, *, now_s: float = 1.0, in_flight: int = 1, ceiling: int = CEILING) -> LearnedLimit:
    """Of a call that started just now."""
    return learned.refused(now_s=now_s, started_at_s=now_s, in_flight=in_flight, ceiling=ceiling)


def round_trip(learned: LearnedLimit, *, ceiling: int = CEILING) -> LearnedLimit:
    """As many calls as may be in flight are let in."""
    limit = learned.limit(ceiling)
    for _ in range(limit):
        learned = learned.let_in(in_flight=limit, ceiling=ceiling)
    return learned


def test_a_new_route_starts_small_and_doubles_in_each_round_trip_up_to_the_ceiling() -> None:
    learned, limits = LearnedLimit(), []
    for _ in range(7):
        limits.append(learned.limit(CEILING))
        learned = round_trip(learned)
    assert limits == [START, 32, 64, 128, 256, 512, CEILING]


def test_a_route_whose_ceiling_is_lower_starts_there() -> None:
    assert LearnedLimit().limit(5) == 5


def test_a_refusal_takes_fifteen_percent_and_leaves_one_call_at_least() -> None:
    assert refused(LearnedLimit(value=100.9)).limit(CEILING) == 85
    assert refused(LearnedLimit(value=1.0)).limit(CEILING) == 1


@pytest.mark.parametrize("limit", range(2, 30))
def test_every_lowering_takes_one_call_at_least(limit: int) -> None:
    assert refused(LearnedLimit(value=limit + 0.99)).limit(CEILING) < limit


def test_a_call_that_is_older_than_the_last_lowering_lowers_nothing() -> None:
    lowered = refused(LearnedLimit(value=100.0), now_s=5.0)
    assert lowered.refused(now_s=5.1, started_at_s=5.0, in_flight=1, ceiling=CEILING) is lowered
    assert lowered.refused(now_s=5.1, started_at_s=5.05, in_flight=1, ceiling=CEILING).limit(CEILING) == 72


def test_a_limit_that_has_not_taken_hold_yet_is_not_lowered_again() -> None:
    learned = LearnedLimit(value=40.0)
    assert refused(learned, in_flight=41) is learned
    assert refused(learned, in_flight=40).limit(CEILING) == 34


def test_after_a_refusal_it_grows_by_one_call_in_a_round_trip() -> None:
    learned = refused(LearnedLimit(value=50.0))
    limits = []
    for _ in range(6):
        learned = round_trip(learned)
        limits.append(learned.limit(CEILING))
    assert limits == [43, 44, 45, 46, 47, 48]


def test_far_above_the_last_wall_it_doubles_again() -> None:
    learned = replace(refused(LearnedLimit(value=40.0)), value=40 * FAR + 1)
    assert round_trip(learned).limit(CEILING) == 2 * 51


def test_it_does_not_grow_while_less_than_half_of_it_is_used() -> None:
    learned = LearnedLimit()
    for _ in range(1000):
        learned = learned.let_in(in_flight=START // 2 - 1, ceiling=CEILING)
    assert learned.limit(CEILING) == START


def test_a_call_that_runs_on_counts_again_only_while_no_wall_is_near() -> None:
    learned = LearnedLimit()
    assert learned.let_in(in_flight=START, ceiling=CEILING, again=True).limit(CEILING) == START + 1
    lowered = refused(learned)
    assert lowered.let_in(in_flight=START, ceiling=CEILING, again=True) is lowered


def test_a_wall_that_stands_is_tried_ever_more_seldom() -> None:
    learned, tries = LearnedLimit(value=6.0), []
    for now_s in range(8):
        learned, let_in = refused(learned, now_s=float(now_s)), 0
        while learned.limit(CEILING) < 6:
            learned, let_in = learned.let_in(in_flight=5, ceiling=CEILING), let_in + 1
        tries.append(let_in)
    assert tries[0] <= 6
    assert tries[-1] == MOST_PATIENCE


def test_a_refusal_below_the_wall_ends_the_patience() -> None:
    learned = replace(LearnedLimit(value=10.0, wall=10), patience=MOST_PATIENCE)
    assert refused(learned).patience == MOST_PATIENCE
    assert refused(replace(learned, value=9.0)).patience == 0


def test_refusals_of_calls_that_are_alone_make_nobody_patient() -> None:
    learned = LearnedLimit(value=1.0)
    for now_s in range(1, 10):
        learned = refused(learned, now_s=float(now_s))
    assert learned.patience == 0
    assert round_trip(round_trip(learned)).limit(CEILING) == 4


def test_a_share_that_shrinks_and_comes_back_finds_what_was_learned() -> None:
    learned = LearnedLimit(value=60.0)
    assert (learned.limit(30), learned.limit(100)) == (30, 60)
    assert round_trip(learned, ceiling=30).limit(100) == 60


def test_a_refusal_under_a_lowered_ceiling_lowers_from_there() -> None:
    assert refused(LearnedLimit(value=60.0), ceiling=20).limit(CEILING) == 17


Step = tuple[bool, float, float, int, int]
STEPS = st.lists(
    st.tuples(st.booleans(), st.floats(0, 2), st.floats(0, 5), st.integers(1, 300), st.integers(1, 200)), max_size=200
)


def walked(steps: list[Step]) -> list[tuple[LearnedLimit, LearnedLimit, Step, float]]:
    """Before and after each step: let in or refused, time passed, age of the call, in flight, ceiling."""
    learned, now_s, seen = LearnedLimit(), 0.0, []
    for step in steps:
        taken, passed_s, age_s, in_flight, ceiling = step
        before, now_s = learned, now_s + passed_s
        if taken:
            learned = learned.let_in(in_flight=in_flight, ceiling=ceiling)
        else:
            learned = learned.refused(now_s=now_s, started_at_s=now_s - age_s, in_flight=in_flight, ceiling=ceiling)
        seen.append((before, learned, step, now_s))
    return seen


@given(STEPS)
def test_the_limit_is_always_between_one_and_the_ceiling(steps: list[Step]) -> None:
    for _, after, (*_, ceiling), _ in walked(steps):
        assert 1 <= after.limit(ceiling) <= ceiling


@given(STEPS)
def test_a_call_that_is_let_in_never_lowers_and_a_refusal_never_raises(steps: list[Step]) -> None:
    for before, after, (taken, *_, ceiling), _ in walked(steps):
        if taken:
            assert before.limit(ceiling) <= after.limit(ceiling) <= before.limit(ceiling) + 1
        else:
            assert after.limit(ceiling) <= before.limit(ceiling)


@given(STEPS)
def test_no_two_lowerings_are_of_one_round_trip(steps: list[Step]) -> None:
    for before, after, (taken, _, age_s, *_), now_s in walked(steps):
        if after.lowered_at_s != before.lowered_at_s:
            assert not taken
            assert now_s - age_s > before.lowered_at_s
