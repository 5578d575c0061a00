"""What Celery's broker does with our settings, on a real Redis."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.broker.private_redis import PrivateRedis
from tollgate.broker.celery_app import RECONNECT_S, create_celery
from tollgate.domain.ids import new_id
from tollgate.domain.lanes import LANES, expand


def test_interactive_messages_are_taken_before_bulk_ones(redis_url: str) -> None:
    served = expand("cloud")
    app = create_celery(redis_url, lanes=served)
    for lane in ("cloud.bulk", "cloud.interactive"):
        for _ in range(10):
            app.send_task("tollgate.run", args=[lane, {"zhipu/m": [str(new_id())]}], queue=lane, ignore_result=True)
    order: list[str] = []

    def take(body: Any, message: Any) -> None:
        order.append(body[0][0])
        message.ack()

    queues = [app.amqp.queues[lane] for lane in served]
    with app.connection_for_read() as connection, connection.Consumer(queues, callbacks=[take]) as consumer:
        consumer.qos(prefetch_count=1)
        while len(order) < 20:
            try:
                connection.drain_events(timeout=20)
            except TimeoutError:
                pytest.fail(f"{len(order)} of 20 messages came: {order}")
    app.close()
    # One bulk message may be asked for before the first interactive one is there: BRPOP names all queues in order.
    assert order == ["cloud.interactive"] * 10 + ["cloud.bulk"] * 10


def test_a_message_under_way_is_noted_nowhere(private_redis: PrivateRedis) -> None:
    """It is a hint: to keep it until it is acknowledged would be two round trips for each."""
    app = create_celery(private_redis.url, lanes=LANES)
    app.send_task("tollgate.run", args=[LANES[0], {}], queue=LANES[0], ignore_result=True)
    kept: list[bytes] = []
    with redis.Redis.from_url(private_redis.url) as client, app.connection_for_read() as connection:

        def take(_body: Any, message: Any) -> None:
            kept.extend(key for key in client.scan_iter() if not key.startswith(b"_kombu."))
            kept.append(b"taken")
            message.ack()

        with connection.Consumer([app.amqp.queues[LANES[0]]], callbacks=[take]):
            connection.drain_events(timeout=20)
    app.close()
    assert kept == [b"taken"]


def test_a_worker_waits_evenly_for_its_broker(private_redis: PrivateRedis) -> None:
    app = create_celery(private_redis.url, lanes=LANES)
    private_redis.stop()
    waits: list[float] = []

    def failed(_error: Exception, interval: float) -> None:
        waits.append(interval)
        if len(waits) == 2:
            private_redis.start()

    with app.connection_for_read() as connection:
        connection.ensure_connection(failed)
        assert connection.connected
    assert waits == [RECONNECT_S, RECONNECT_S]
    app.close()
