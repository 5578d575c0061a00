"""A Celery worker in a thread: messages come soon, it stops soon, and leaves no trace."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from uuid import UUID

import celery
import pytest
from celery.worker import state

from tollgate.broker.celery_app import MEMORY_BROKER, create_celery
from tollgate.broker.publisher import Publisher
from tollgate.domain.ids import new_id
from tollgate.domain.lanes import LANES
from worker.celery_run import register_run
from worker.embedded_celery import EmbeddedCelery


class Inbox:
    """What `run` handed over."""

    def __init__(self) -> None:
        self.lanes: list[str] = []
        self.ids: list[UUID] = []
        self._news = threading.Condition()

    def offer(self, lane: str, hints: Mapping[str, list[UUID]]) -> None:
        with self._news:
            self.lanes.append(lane)
            self.ids.extend(i for ids in hints.values() for i in ids)
            self._news.notify_all()

    def wait_for(self, count: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: len(self.ids) >= count, timeout=10)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def app(inbox: Inbox) -> celery.Celery:
    app = create_celery(MEMORY_BROKER, lanes=LANES)
    register_run(app, inbox.offer)
    return app


@pytest.fixture
def publisher(app: celery.Celery) -> Iterator[Publisher]:
    publisher = Publisher(app)
    yield publisher
    publisher.close()


def test_messages_of_every_lane_arrive(app: celery.Celery, publisher: Publisher, inbox: Inbox) -> None:
    worker = EmbeddedCelery(app)
    worker.start()
    ids = [new_id() for _ in LANES]
    for lane, task_id in zip(LANES, ids, strict=True):
        publisher.announce(lane, {"zhipu/glm": [task_id]})
    inbox.wait_for(len(ids))
    worker.stop()
    assert set(inbox.lanes) == set(LANES)
    assert set(inbox.ids) == set(ids)


def test_it_stops_well_within_a_second(app: celery.Celery) -> None:
    """The quickest of a few: Celery's own way takes a second each time, a busy machine only now and then."""
    took_s = []
    for _ in range(4):
        worker = EmbeddedCelery(app)
        worker.start()
        began = time.monotonic()
        worker.stop()
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 0.9


def test_it_touches_neither_signals_nor_celerys_global_state(app: celery.Celery) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)]
    flags, threads = (state.should_stop, state.should_terminate), set(threading.enumerate())
    worker = EmbeddedCelery(app)
    worker.start()
    worker.stop()
    assert handlers == [
        signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    ]
    assert (state.should_stop, state.should_terminate) == flags
    assert set(threading.enumerate()) == threads


def test_one_after_the_other_works(app: celery.Celery, publisher: Publisher, inbox: Inbox) -> None:
    for count in (1, 2):
        worker = EmbeddedCelery(app)
        worker.start()
        publisher.announce(LANES[0], {"zhipu/glm": [new_id()]})
        inbox.wait_for(count)
        worker.stop()


def test_a_start_that_fails_raises(app: celery.Celery) -> None:
    app.conf.worker_pool = "threads"
    app.conf.worker_consumer = "no.such:Consumer"
    with pytest.raises(ModuleNotFoundError, match="no"):
        EmbeddedCelery(app).start()


def test_stopping_what_never_started_is_nothing(app: celery.Celery) -> None:
    EmbeddedCelery(app).stop()
