"""Stop strings, wherever the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.upstreams.local.stops import StopStrings


def said(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    """The text that is told of one that comes in `pieces`, and whether it was stopped."""
    scanner = StopStrings(stops)
    text = "".join(scanner.feed(piece) for piece in pieces)
    return text + scanner.flush(), scanner.hit


@pytest.mark.parametrize(
    ("pieces", "stops", "told"),
    [
        (["one ", "st", "op", " two"], ["stop"], ("one ", True)),
        (["one sto", "ne"], ["stop"], ("one stone", False)),
        (["今天天", "气很", "好。再见"], ["很好。"], ("今天天气", True)),
        (["好的 👩", "\u200d", "🚀 飞"], ["👩\u200d🚀"], ("好的 ", True)),
        (["aaa", "ab"], ["aab"], ("aa", True)),
        (["abcabcabd"], ["abcabd"], ("abc", True)),
        (["x", "\n", "\n", "User:"], ["\n\nUser:", "###"], ("x", True)),
        (["ends with st"], ["stop"], ("ends with st", False)),
        (["anything"], [], ("anything", False)),
        (["abcd"], ["abcd", "bc"], ("a", True)),
    ],
    ids=str,
)
def test_a_stop_string_ends_the_text_before_it(pieces: list[str], stops: list[str], told: tuple[str, bool]) -> None:
    assert said(pieces, stops) == told


def test_what_could_begin_a_stop_string_is_held_back_and_nothing_else() -> None:
    scanner = StopStrings(["停止吧"])
    assert [scanner.feed(piece) for piece in ("先停", "下，停止", "了", "停止吧")] == ["先", "停下，", "停止了", ""]
    assert scanner.hit


LETTERS = st.text(alphabet="ab👍停", max_size=30)


@given(text=LETTERS, stops=st.lists(st.text(alphabet="ab👍停", min_size=1, max_size=4), max_size=3), data=st.data())
def test_it_makes_no_difference_where_the_text_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    told, stopped = said(pieces, stops)
    assert (told, stopped) == said(list(text), stops)
    assert stopped == any(stop in text for stop in stops)
    assert text.startswith(told)
    assert not any(stop in told for stop in stops)
