"""Which lines a refusal names; the whole course is in test_submit, on a real gateway."""

from __future__ import annotations

from typing import Any

import pytest

from tollgate.cli import submissions
from tollgate.cli.exits import RefusedError
from tollgate.cli.prompts import Line


def line(number: int, *, model: str = "m", text: str = "hi") -> Line:
    return Line(place=f"f:{number}", number=number, task={"model": model, "prompt": text})


def refusal(kind: str = "invalid_request", **details: Any) -> RefusedError:
    return RefusedError(400, kind=kind, message="no", details=details)


def numbers(group: list[Line]) -> list[int]:
    return [one.number for one in group]


def test_a_field_names_its_task() -> None:
    group = [line(1), line(2), line(3)]
    refused, rest = submissions.part(group, refusal(field="tasks.1.temperature"))
    assert (numbers(refused), [numbers(one) for one in rest]) == ([2], [[1, 3]])


def test_a_single_task_is_at_fault_itself() -> None:
    assert submissions.part([line(7)], refusal(field="max_tokens")) == ([line(7)], [])


def test_without_a_name_the_list_is_halved() -> None:
    refused, rest = submissions.part([line(n) for n in range(1, 6)], refusal(field="max_tokens"))
    assert (refused, [numbers(one) for one in rest]) == ([], [[1, 2], [3, 4, 5]])


def test_an_unknown_model_is_found_by_model() -> None:
    group = [line(1), line(2, model="bad"), line(3)]
    refused, rest = submissions.part(group, refusal("unknown_model"))
    assert (refused, [numbers(one) for one in rest]) == ([], [[1, 3], [2]])
    assert submissions.part([line(2, model="bad"), line(4, model="bad")], refusal("unknown_model"))[1] == []


@pytest.mark.parametrize(
    ("lines", "sizes"),
    [
        ([line(n) for n in range(2_500)], [1_000, 1_000, 500]),
        ([line(n, text="x" * 3_000_000) for n in range(5)], [2, 2, 1]),
        ([line(1), line(2, text="x" * 9_000_000), line(3)], [1, 1, 1]),
        ([], []),
    ],
)
def test_lists_are_bounded_by_tasks_and_by_bytes(lines: list[Line], sizes: list[int]) -> None:
    groups = list(submissions.in_lists(lines))
    assert [len(group) for group in groups] == sizes
    assert [one for group in groups for one in group] == lines
