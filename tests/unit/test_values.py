"""Values of every task: dataclasses that only the type checker freezes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tollgate.domain.values import value


@value
class Point:
    x: int
    y: int = 0


def test_they_are_compared_and_hashed_by_their_fields() -> None:
    assert Point(x=1) == Point(x=1, y=0) != Point(x=2)
    assert len({Point(x=1), Point(x=1), replace(Point(x=1), y=3)}) == 2


def test_there_is_no_field_that_was_not_declared() -> None:
    with pytest.raises(AttributeError):
        Point(x=1).z = 2  # type: ignore[attr-defined]


def test_they_are_made_by_name() -> None:
    with pytest.raises(TypeError):
        Point(1)  # type: ignore[call-arg]


def test_the_type_checker_refuses_what_would_change_one() -> None:
    Point(x=1).x = 2  # type: ignore[misc]  # mypy warns of an ignore that is not needed
