"""From chunks to lines, each with its number and its place."""

from __future__ import annotations

import itertools
import tracemalloc

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.batches.reader import START, LineReader, Place, RawLine

LIMIT = 8


def read(data: bytes, *, at: Place = START, cuts: tuple[int, ...] = ()) -> list[RawLine]:
    """The lines of `data` from `at` on, in chunks that end at `cuts`."""
    reader = LineReader(max_line_bytes=LIMIT, at=at)
    ends = sorted({at.bytes, len(data), *(cut for cut in cuts if at.bytes <= cut <= len(data))})
    lines = [line for begin, end in itertools.pairwise(ends) for line in reader.feed(data[begin:end])]
    return [*lines, *reader.finish()]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", []),
        (b"\n", []),
        (b"a", [(1, b"a")]),
        (b"a\n", [(1, b"a")]),
        (b"a\nb", [(1, b"a"), (2, b"b")]),
        (b"a\r\nb\r\n", [(1, b"a"), (2, b"b")]),
        (b"a\r", [(1, b"a")]),
        (b"a\rb\n", [(1, b"a\rb")]),
        (b"\n \t\r\n\na\n\n", [(4, b"a")]),
        (b"\xef\xbb\xbfa\nb", [(1, b"a"), (2, b"b")]),
        (b"\xef\xbb\xbf\r\na", [(2, b"a")]),
        (b"a\n\xef\xbb\xbfb", [(1, b"a"), (2, b"\xef\xbb\xbfb")]),
        ("a\u2028\x0b\n".encode(), [(1, "a\u2028\x0b".encode())]),
        (b"12345678\n", [(1, b"12345678")]),
        (b"123456789\n", [(1, None)]),
        (b"\xef\xbb\xbf12345678\r\n", [(1, b"12345678")]),
        (b"\xef\xbb\xbf123456789\r\n", [(1, None)]),
        (b"a\n" + b"x" * 10_000 + b"\nb\n", [(1, b"a"), (2, None), (3, b"b")]),
        (b"x" * 10_000, [(1, None)]),
    ],
)
def test_lines_are_numbered_and_blank_ones_passed_over(data: bytes, told: list[tuple[int, bytes | None]]) -> None:
    assert [(line.number, line.raw) for line in read(data)] == told


def test_a_place_is_told_in_bytes_and_lines() -> None:
    reader = LineReader(max_line_bytes=LIMIT)
    assert [(line.start, line.end) for line in reader.feed("ü\r\n\nb\n\ntail".encode())] == [(0, 4), (5, 7)]
    assert reader.place == Place(bytes=8, lines=4), "blank lines at the end are passed over too"
    (last,) = reader.finish()
    assert last == RawLine(number=5, raw=b"tail", start=8, end=12)
    assert last.after == reader.place == Place(bytes=12, lines=5)


PIECES = st.sampled_from([b"a", b"{}", b"\n", b"\r\n", b"\r", b" ", b"\xef\xbb\xbf", b"123456789", b"\xff", b"\0"])
FILES = st.lists(PIECES, max_size=30).map(b"".join)
CUTS = st.lists(st.integers(0, 100), max_size=20).map(tuple)


@hypothesis.given(data=FILES, cuts=CUTS)
def test_it_does_not_matter_how_a_file_is_cut(data: bytes, cuts: tuple[int, ...]) -> None:
    assert read(data, cuts=cuts) == read(data) == read(data, cuts=tuple(range(len(data))))


@hypothesis.given(data=FILES, cuts=CUTS, steps=st.integers(0, 30))
def test_a_reader_that_begins_at_a_place_tells_the_rest(data: bytes, cuts: tuple[int, ...], steps: int) -> None:
    whole = read(data)
    before = whole[:steps]
    at = before[-1].after if before else START
    assert before + read(data, at=at, cuts=cuts) == whole


@hypothesis.given(data=FILES)
def test_every_byte_of_a_line_is_between_its_start_and_its_end(data: bytes) -> None:
    for line in read(data):
        text = data[line.start : line.end]
        assert text.count(b"\n") == (1 if text.endswith(b"\n") else 0)
        assert line.raw is None or line.raw in text
        assert data[: line.start].count(b"\n") == line.number - 1


def test_a_line_over_the_limit_is_not_held() -> None:
    reader = LineReader(max_line_bytes=1_000)
    chunk = b"x" * 65_536
    tracemalloc.start()
    try:
        for _ in range(1_000):
            assert list(reader.feed(chunk)) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert [line.raw for line in reader.feed(b"\nnext\n")] == [None, b"next"]


def test_a_long_line_in_small_chunks_is_held_once() -> None:
    """As bytes that grow by each chunk it would be copied 100,000 times, 500 GB in all."""
    reader = LineReader(max_line_bytes=10_000_000)
    for _ in range(100_000):
        assert list(reader.feed(b"x" * 100)) == []
    (line,) = reader.feed(b"\n")
    assert line.raw == b"x" * 10_000_000
