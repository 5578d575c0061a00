"""Static shapes: which are met, when they are recorded, and what happens where they cannot be."""

from __future__ import annotations

import pytest

from tests.worker.local import answers, models
from worker.upstreams.local.graphs import Run, StaticShapes
from worker.upstreams.local.requests import Request


class Recorder:
    """Stands for CUDA: a recording can be replayed, and changes nothing."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.recorded = 0
        self.replayed = 0

    def __call__(self, run: Run) -> Run:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            run()

        return replay


def shapes(ran: list[tuple[int, int]], capture: Recorder, *, max_graphs: int = 10) -> StaticShapes:
    return StaticShapes(
        lambda rows, length: ran.append((rows, length)),
        slots=20,
        context_tokens=300,
        capture=capture,
        max_graphs=max_graphs,
    )


@pytest.mark.parametrize(
    ("asked", "shape"),
    [((1, 1), (1, 128)), ((3, 128), (4, 128)), ((9, 129), (16, 256)), ((17, 257), (20, 300)), ((20, 300), (20, 300))],
)
def test_shapes_are_rounded_up_and_never_beyond_what_there_is(asked: tuple[int, int], shape: tuple[int, int]) -> None:
    ran: list[tuple[int, int]] = []
    shapes(ran, Recorder())(*asked)
    assert ran == [shape]


def test_a_shape_runs_once_before_it_is_recorded_and_is_replayed_from_then_on() -> None:
    ran: list[tuple[int, int]] = []
    capture = Recorder()
    static = shapes(ran, capture)
    for _ in range(5):
        static(3, 100)
    assert (capture.recorded, capture.replayed, len(ran), static.captured) == (1, 4, 5, 1)


def test_no_more_are_recorded_than_there_is_room_for() -> None:
    ran: list[tuple[int, int]] = []
    capture = Recorder()
    static = shapes(ran, capture, max_graphs=2)
    for rows in (1, 2, 4, 8) * 3:
        static(rows, 1)
    assert (capture.recorded, static.captured, len(ran)) == (2, 2, 12)


def test_what_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[tuple[int, int]] = []
    static = shapes(ran, Recorder(fails=True))
    for rows in (1, 2, 4) * 3:
        static(rows, 1)
    assert (static.captured, len(ran)) == (0, 9)
    assert [record.message for record in caplog.records] == ["no CUDA graphs for this model"]


def test_an_engine_replays_what_it_recorded() -> None:
    capture = Recorder()
    with answers.running(models.model(), capture=capture) as (engine, told):
        requests = [Request(ids=[30], max_tokens=20, ends=frozenset()) for _ in range(3)]
        for request in requests:
            engine.submit(request)
        told.wait(requests)
        assert engine.stats().graphs == capture.recorded > 0
        assert capture.replayed > engine.stats().steps / 2
