"""What a model thinks, apart from what it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain.record import Record
from worker.upstreams.local.thoughts import Thoughts


def message(pieces: list[str], *, begun: bool) -> tuple[str, str]:
    """Reasoning and content of a text that comes in `pieces`."""
    thoughts, record = Thoughts(begun=begun), Record()
    for piece in pieces:
        record.add(thoughts.feed(piece))
    record.add(thoughts.flush())
    return record.texts[0], record.texts[1]


@pytest.mark.parametrize(
    ("text", "begun", "parts"),
    [
        ("<think>\nSo 6 x 7.\n</think>\n\n42", False, ("So 6 x 7.\n", "42")),
        ("\n<think>hm</think>yes", False, ("hm", "yes")),
        ("So 6 x 7.</think>\n42", True, ("So 6 x 7.", "42")),
        ("</think>\n42", True, ("", "42")),
        ("42", False, ("", "42")),
        ("it writes <think> in the middle", False, ("", "it writes <think> in the middle")),
        ("<thin ice", False, ("", "<thin ice")),
        ("<think>cut off in a thou", False, ("cut off in a thou", "")),
        ("<think>cut off in a mark</thi", False, ("cut off in a mark</thi", "")),
        ("<thi", False, ("", "<thi")),
    ],
    ids=str,
)
def test_thoughts_stand_apart(text: str, begun: bool, parts: tuple[str, str]) -> None:
    assert message([text], begun=begun) == message(list(text), begun=begun) == parts


@given(text=st.text(alphabet="<think>/\n ab", max_size=40), begun=st.booleans(), cut=st.integers(0, 40))
def test_it_makes_no_difference_where_the_text_is_cut(text: str, begun: bool, cut: int) -> None:
    assert message([text[:cut], text[cut:]], begun=begun) == message(list(text), begun=begun)
