"""Slots of one route."""

from __future__ import annotations

import pytest

from tollgate.domain.states import Priority
from worker.slots import DOWN_AFTER, DOWN_S, Slots


def slots_at(limit: int, *, ceiling: int = 1000) -> Slots:
    """Slots whose limit has grown so far, all of them free."""
    slots = Slots(min(limit, ceiling))
    slots.take(limit)
    while slots.limit < limit:
        slots.note_let_in()
    slots.release(limit)
    slots.ceiling = ceiling
    return slots


@pytest.mark.parametrize(
    ("limit", "for_bulk"),
    [(1, 1), (2, 1), (10, 9), (11, 9), (64, 57), (100, 90)],
)
def test_bulk_never_gets_the_last_tenth_but_a_single_slot_is_everybodys(limit: int, for_bulk: int) -> None:
    slots = slots_at(limit, ceiling=limit)
    assert slots.free(Priority.BULK) == for_bulk
    assert slots.free(Priority.INTERACTIVE) == limit


def test_interactive_calls_count_against_bulk_too() -> None:
    slots = Slots(10)
    slots.take(9)
    assert (slots.free(Priority.INTERACTIVE), slots.free(Priority.BULK)) == (1, 0)
    slots.release()
    assert (slots.free(Priority.INTERACTIVE), slots.free(Priority.BULK)) == (2, 1)


def test_a_share_that_fell_below_what_is_in_use_leaves_nothing_free() -> None:
    slots = Slots(10)
    slots.take(8)
    slots.ceiling = 5
    assert slots.free(Priority.INTERACTIVE) == 0


def test_a_refusal_leaves_nothing_free_until_enough_calls_have_ended() -> None:
    slots = slots_at(50)
    slots.take(50)
    assert slots.note_refused(2.0, started_at_s=1.0)
    slots.release()
    assert (slots.limit, slots.free(Priority.INTERACTIVE)) == (42, 0)
    slots.release(8)
    assert slots.free(Priority.INTERACTIVE) == 1


def test_refusals_of_calls_that_were_under_way_when_the_limit_fell_do_not_lower_it_again() -> None:
    slots = slots_at(50)
    slots.take(50)
    assert slots.note_refused(2.0, started_at_s=1.0)
    assert not slots.note_refused(2.1, started_at_s=1.5)
    assert not slots.note_refused(2.1, started_at_s=2.05), "more are in use than may be: the lowering holds later"
    assert slots.limit == 42


def test_a_limit_of_one_call_cannot_be_lowered() -> None:
    slots = Slots(1)
    slots.take(1)
    assert not slots.note_refused(2.0, started_at_s=1.0)
    assert slots.limit == 1


def test_calls_that_ended_are_counted_for_ten_seconds() -> None:
    slots = Slots(10)
    for at_s in (0.0, 5.0, 9.0, 9.5):
        slots.note_settled(at_s)
    assert slots.settled_lately(10.0) == 4
    assert slots.settled_within(1.0, 10.0) == 2
    assert slots.settled_lately(15.5) == 2
    assert slots.settled_lately(30.0) == 0


def test_a_route_is_down_after_so_many_outages_in_a_row() -> None:
    slots = slots_at(50)
    assert [slots.note_outage(1.0) for _ in range(DOWN_AFTER - 1)] == [False] * (DOWN_AFTER - 1)
    slots.note_answer()
    assert [slots.note_outage(1.0) for _ in range(DOWN_AFTER - 1)] == [False] * (DOWN_AFTER - 1)
    assert (slots.down(1.0), slots.limit) == (False, 50)
    assert slots.note_outage(1.0)
    assert (slots.down(1.0), slots.limit) == (True, 1)


def test_a_route_that_is_tried_again_is_down_while_that_call_hangs() -> None:
    slots = slots_at(50)
    for _ in range(DOWN_AFTER):
        slots.note_outage(1.0)
    slots.take(1)
    assert slots.down(1.0 + 10 * DOWN_S), "whatever comes meanwhile goes elsewhere"
    slots.release()
    assert not slots.down(1.0 + 10 * DOWN_S)


def test_a_route_that_was_down_is_tried_by_one_call_at_a_time_until_one_is_answered() -> None:
    slots = slots_at(50)
    for _ in range(DOWN_AFTER):
        slots.note_outage(1.0)
    assert not slots.down(1.0 + DOWN_S)
    assert (slots.free(Priority.BULK), slots.free(Priority.INTERACTIVE)) == (1, 1)
    slots.note_outage(20.0)
    assert slots.down(20.0 + DOWN_S - 0.1)
    slots.note_answer()
    assert (slots.down(20.0), slots.limit) == (False, 50)
