"""The publisher blocks nobody, drops what it cannot publish, and recovers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
import redis

from tests.broker.logs import heard
from tests.broker.private_redis import PrivateRedis
from tollgate.broker import celery_app
from tollgate.broker import publisher as publisher_module
from tollgate.broker.celery_app import RUN, create_celery
from tollgate.broker.publisher import IDS_PER_MESSAGE, MAX_WAITING, Publisher
from tollgate.domain.ids import new_id
from tollgate.domain.lanes import LANES

LANE = "cloud.interactive"
ROUTE = "zhipu/glm-4.7"
Open = Callable[[str], Publisher]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy enough a healthy Redis needs more than a second, and the hint would be dropped."""
    monkeypatch.setattr(celery_app, "PUBLISH_TIMEOUT_S", 15.0)


@pytest.fixture
def open_publisher() -> Iterator[Open]:
    opened: list[Publisher] = []

    def open_it(url: str) -> Publisher:
        opened.append(Publisher(create_celery(url, lanes=LANES, publishes_only=True)))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


def received(url: str, count: int, *, lane: str = LANE) -> list[tuple[str, dict[str, list[str]]]]:
    """The arguments of the next `count` messages of `lane`."""
    app = create_celery(url, lanes=LANES)
    found: list[tuple[str, dict[str, list[str]]]] = []

    def take(body: Any, message: Any) -> None:
        assert message.headers["task"] == RUN
        found.append(tuple(body[0]))
        message.ack()

    queue = app.amqp.queues[lane]
    with app.connection_for_read() as connection, connection.Consumer(queue, callbacks=[take]) as consumer:
        consumer.qos(prefetch_count=1)
        while len(found) < count:
            connection.drain_events(timeout=20)
    return found


def told(url: str, count: int, *, lane: str = LANE) -> set[UUID]:
    """The next `count` ids."""
    ids: set[UUID] = set()
    while len(ids) < count:
        for _, hints in received(url, 1, lane=lane):
            ids |= {UUID(text) for texts in hints.values() for text in texts}
    return ids


@pytest.mark.usefixtures("patient")
def test_a_message_carries_lane_routes_and_ids(redis_url: str, open_publisher: Open) -> None:
    first, second = new_id(), new_id()
    open_publisher(redis_url).announce(LANE, {ROUTE: [first], "vllm/m": [second]})
    assert received(redis_url, 1) == [(LANE, {ROUTE: [str(first)], "vllm/m": [str(second)]})]


@pytest.mark.usefixtures("patient")
def test_many_ids_go_in_few_messages(redis_url: str, open_publisher: Open) -> None:
    ids = [new_id() for _ in range(3 * IDS_PER_MESSAGE)]
    open_publisher(redis_url).announce(LANE, {ROUTE: ids})
    messages = received(redis_url, 3)
    assert [len(hints[ROUTE]) for _, hints in messages] == [IDS_PER_MESSAGE] * 3


@pytest.mark.usefixtures("patient")
def test_what_waits_is_sent_before_it_closes(redis_url: str) -> None:
    publisher = Publisher(create_celery(redis_url, lanes=LANES, publishes_only=True))
    ids = [new_id() for _ in range(10)]
    publisher.announce(LANE, {ROUTE: ids})
    publisher.close()
    assert told(redis_url, 10) == set(ids)


@pytest.mark.parametrize("broken", ["freeze", "stop"])
def test_announcing_never_blocks_while_the_broker_is_away(
    private_redis: PrivateRedis, open_publisher: Open, broken: str
) -> None:
    publisher = open_publisher(private_redis.url)
    getattr(private_redis, broken)()
    began = time.monotonic()
    for _ in range(1_000):
        publisher.announce(LANE, {ROUTE: [new_id()]})
    assert time.monotonic() - began < 30, "a timeout each would be a quarter of an hour"


@pytest.mark.parametrize(("broken", "mended"), [("freeze", "thaw"), ("stop", "start")])
def test_it_drops_what_it_cannot_publish_and_recovers(
    private_redis: PrivateRedis,
    open_publisher: Open,
    broken: str,
    mended: str,
) -> None:
    publisher = open_publisher(private_redis.url)
    before = new_id()
    publisher.announce(LANE, {ROUTE: [before]})
    assert told(private_redis.url, 1) == {before}
    with heard("tollgate.publisher") as dropped:
        getattr(private_redis, broken)()
        publisher.announce(LANE, {ROUTE: [new_id()]})
        assert dropped.wait(10)
    getattr(private_redis, mended)()
    arrived = 0
    with redis.Redis.from_url(private_redis.url) as client:
        while not arrived:  # until its pause after a failure is over, hints may still be dropped
            publisher.announce(LANE, {ROUTE: [new_id()]})
            length = client.llen(LANE)
            assert isinstance(length, int)
            arrived = length


def test_it_closes_soon_while_the_broker_hangs(private_redis: PrivateRedis, open_publisher: Open) -> None:
    publisher = open_publisher(private_redis.url)
    private_redis.freeze()
    publisher.announce(LANE, {ROUTE: [new_id()]})
    began = time.monotonic()
    publisher.close()
    assert time.monotonic() - began < publisher_module.CLOSE_S + 10


def test_what_waits_is_bounded(private_redis: PrivateRedis, open_publisher: Open) -> None:
    publisher = open_publisher(private_redis.url)
    private_redis.freeze()
    one = new_id()
    publisher.announce(LANE, {ROUTE: [one] * (MAX_WAITING + 10)})
    assert len(publisher._waiting) <= MAX_WAITING
