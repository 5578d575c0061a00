"""Slots of one route."""

from __future__ import annotations

import pytest

from tollgate.domain.states import Priority
from worker.slots import Slots


@pytest.mark.parametrize(
    ("limit", "for_bulk"),
    [(1, 1), (2, 1), (10, 9), (11, 9), (64, 57), (100, 90)],
)
def test_bulk_never_gets_the_last_tenth_but_a_single_slot_is_everybodys(limit: int, for_bulk: int) -> None:
    slots = Slots(limit)
    assert slots.free(Priority.BULK) == for_bulk
    assert slots.free(Priority.INTERACTIVE) == limit


def test_interactive_calls_count_against_bulk_too() -> None:
    slots = Slots(10)
    slots.take(9)
    assert (slots.free(Priority.INTERACTIVE), slots.free(Priority.BULK)) == (1, 0)
    slots.release()
    assert (slots.free(Priority.INTERACTIVE), slots.free(Priority.BULK)) == (2, 1)


def test_a_limit_that_fell_below_what_is_in_use_leaves_nothing_free() -> None:
    slots = Slots(10)
    slots.take(8)
    slots.limit = 5
    assert slots.free(Priority.INTERACTIVE) == 0


def test_calls_that_ended_are_counted_for_ten_seconds() -> None:
    slots = Slots(10)
    for at_s in (0.0, 5.0, 9.0, 9.5):
        slots.note_settled(at_s)
    assert slots.settled_lately(10.0) == 4
    assert slots.settled_within(1.0, 10.0) == 2
    assert slots.settled_lately(15.5) == 2
    assert slots.settled_lately(30.0) == 0
