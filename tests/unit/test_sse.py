"""Events come out the same however their bytes were cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import sse
from tollgate.domain.sse import Parser, TooLongError

lines = st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8)


def read(parts: list[bytes]) -> list[str]:
    parser = Parser()
    return [data for part in parts for data in parser.feed(part)]


@given(st.lists(st.lists(lines, min_size=1, max_size=3), max_size=5), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_data_lines_come_back_however_they_are_cut(events: list[list[str]], ending: str, data: st.DataObject) -> None:
    text = "".join("".join(f"data: {line}{ending}" for line in event) + ending for event in events)
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    parts = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert read(parts) == ["\n".join(event) for event in events]


def test_names_comments_and_blanks() -> None:
    raw = b": comment\nevent:add\nid:7\ndata:{1}\n\ndata:  two\nretry: 5\n\ndata\n\nevent: none\n\n"
    assert read([raw]) == ["{1}", " two", ""]


def test_an_event_that_is_cut_is_dropped_and_a_byte_order_mark_too() -> None:
    assert read(["\ufeffdata: a\n\ndata: b\n".encode()]) == ["a"]


def test_a_line_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    with pytest.raises(TooLongError):
        read([b"data: " + b"x" * 60, b"x" * 60])
    with pytest.raises(TooLongError):
        read([b"data: " + b"x" * 60 + b"\n", b"data: " + b"x" * 60 + b"\n"])
