"""Ids that wait for a slot."""

from __future__ import annotations

from tollgate.domain.ids import new_id
from tollgate.domain.states import Priority
from worker.buffer import Buffer

CHAT, BULK = Priority.INTERACTIVE, Priority.BULK


def test_ids_are_taken_in_the_order_they_came() -> None:
    buffer, ids = Buffer(), [new_id() for _ in range(5)]
    assert buffer.offer("a", BULK, ids) == []
    assert buffer.take("a", BULK, 2) == ids[:2]
    assert buffer.take("a", BULK, 9) == ids[2:]
    assert buffer.take("a", BULK, 9) == []


def test_an_id_is_held_once() -> None:
    buffer, one = Buffer(), new_id()
    buffer.offer("a", BULK, [one, one])
    buffer.offer("a", BULK, [one])
    assert len(buffer) == 1
    assert buffer.take("a", BULK, 9) == [one]
    buffer.offer("a", BULK, [one])
    assert buffer.take("a", BULK, 9) == [one]


def test_what_does_not_fit_is_refused() -> None:
    buffer, ids = Buffer(2), [new_id() for _ in range(3)]
    assert buffer.offer("a", BULK, ids) == ids[2:]


def test_a_full_queue_keeps_out_neither_another_route_nor_interactive_ids() -> None:
    buffer, ids = Buffer(1), [new_id() for _ in range(3)]
    buffer.offer("a", BULK, ids[:1])
    assert buffer.offer("b", BULK, ids[1:2]) == []
    assert buffer.offer("a", CHAT, ids[2:]) == []
    assert buffer.by_route() == {"a": 2, "b": 1}
    assert buffer.waiting("a", CHAT) == 1


def test_a_route_is_dropped_and_the_rest_stays() -> None:
    buffer, ids = Buffer(), [new_id() for _ in range(3)]
    buffer.offer("a", BULK, ids[:1])
    buffer.offer("a", CHAT, ids[1:2])
    buffer.offer("b", CHAT, ids[2:])
    assert set(buffer.drop("a")) == set(ids[:2])
    assert buffer.routes() == ["b"]
    assert buffer.clear() == ids[2:]
    assert len(buffer) == 0
