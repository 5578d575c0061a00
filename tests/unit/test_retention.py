from __future__ import annotations

import pytest

from tollgate.domain.errors import ErasedError
from tollgate.domain.ids import new_id
from tollgate.domain.retention import parse_keep, require_kept, shown_keep


@pytest.mark.parametrize(
    ("text", "seconds", "shown"),
    [
        ("1h", 3_600, "1h"),
        ("36h", 129_600, "36h"),
        ("48h", 172_800, "2d"),
        ("30d", 2_592_000, "30d"),
        ("3650d", 315_360_000, "3650d"),
    ],
)
def test_a_time_to_keep_is_read_and_shown(text: str, seconds: int, shown: str) -> None:
    assert (parse_keep(text), shown_keep(seconds)) == (seconds, shown)


def test_for_ever_is_shown_as_nothing() -> None:
    assert shown_keep(None) is None


@pytest.mark.parametrize(
    "text", ["", "0d", "30", "d", "30m", "-1d", "1.5d", "3651d", "99999d", "30d ", "٣d", "forever"]
)
def test_what_is_no_time_to_keep_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"write hours or days, from '1h' to '3650d'"):
        parse_keep(text)


def test_an_answer_that_is_not_there_was_erased() -> None:
    task_id = new_id()
    assert require_kept("{}", task_id=task_id) == "{}"
    with pytest.raises(ErasedError, match=str(task_id)):
        require_kept(None, task_id=task_id)
