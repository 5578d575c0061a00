"""Seats: decoding rows stand in the first slots without a gap, whatever comes and goes."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from worker.upstreams.local.requests import Request
from worker.upstreams.local.rows import Move, Row, Rows

SLOTS = 5
CHANGES = st.lists(st.tuples(st.sampled_from(("seat", "promote", "leave")), st.integers(0, 100)), max_size=60)


class Board:
    """What a device would hold: the owner of each token in each slot."""

    def __init__(self) -> None:
        self.slots: list[list[Row]] = [[] for _ in range(SLOTS)]

    def follow(self, move: Move | None) -> None:
        if move is None:
            return
        source, target = self.slots[move.source], self.slots[move.target]
        self.slots[move.target] = source[: move.length]
        self.slots[move.source] = target[: move.length] if move.exchanged else source


@given(CHANGES)
def test_every_row_finds_its_own_tokens_in_its_slot(changes: list[tuple[str, int]]) -> None:
    rows, board = Rows(SLOTS), Board()
    for change, which in changes:
        if change == "seat" and rows.free:
            row = rows.seat(Request(ids=[1] * 7, max_tokens=9), ends=frozenset())
            row.filled = which % 7
            board.slots[row.slot] = [row] * row.filled
        elif change == "promote" and rows.prefilling:
            row = rows.prefilling[which % len(rows.prefilling)]
            row.filled, row.launched = 7, 1
            board.slots[row.slot] = [row] * 7
            board.follow(rows.promote(row))
        elif change == "leave" and len(rows):
            board.follow(rows.leave(rows.all()[which % len(rows)]))
        assert [row.slot for row in rows.decoding] == list(range(len(rows.decoding)))
        assert len({row.slot for row in rows.all()}) == len(rows) <= SLOTS
        for row in rows.all():
            assert board.slots[row.slot][: row.held] == [row] * row.held
