"""The Celery app: one task, `tollgate.run`, that carries many ids on a lane.

A message is a hint: it is acknowledged early, has no result and no retry. What guards a task is its
lease in the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import celery
import kombu
from celery.app.amqp import AMQP

RUN = "tollgate.run"
"""The message's name. Arguments: lane, {route: [task id, ...]}."""
MEMORY_BROKER = "memory://localhost/"
MEMORY_POLLING_S = 0.01
"""kombu's default of 1 s is a second of waiting for nothing."""
MEMORY_DRAIN_S = 0.1
"""Celery's loop for brokers without file descriptors looks only between two drains whether it is to stop."""
PUBLISH_TIMEOUT_S = 1.0
"""`apply_async` blocks for as long as the broker hangs; a publisher gives up then, and the row is announced again."""
RECONNECT_S = 2.0
"""Between two tries of a worker to reach its broker. Celery's own wait grows to 30 s."""


def create_celery(broker_url: str, *, lanes: Sequence[str], publishes_only: bool = False) -> celery.Celery:
    """The app of a worker for `lanes`, or of a publisher, which never waits long for its broker."""
    app = celery.Celery("tollgate", broker=broker_url, set_as_current=False, amqp=_Amqp)
    app.conf.update(
        task_queues=[kombu.Queue(lane, routing_key=lane) for lane in lanes],
        task_create_missing_queues=True,
        task_ignore_result=True,
        task_acks_late=False,
        task_serializer="json",
        accept_content=["json"],
        worker_pool="solo",  # `run` only hands ids over: a thread for it would cost more than it does
        worker_prefetch_multiplier=4,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,  # nothing of ours runs on through a lost connection
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # its default of 100 ends the worker in a long outage
        broker_transport_options=_transport_options(broker_url, publishes_only=publishes_only),
        broker_connection_timeout=PUBLISH_TIMEOUT_S if publishes_only else 4.0,
        worker_enable_remote_control=False,
    )
    return app


class _Connection(kombu.Connection):
    """kombu's, at our pace: a steady reconnect, and a drain of the in-memory broker that ends soon."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        pace = {"interval_start": RECONNECT_S, "interval_step": 0, "interval_max": RECONNECT_S}
        return super().ensure_connection(*args, **{**pace, **options})

    def drain_events(self, **options: Any) -> Any:
        if self.transport.driver_type == "memory":
            options["timeout"] = min(options.get("timeout") or MEMORY_DRAIN_S, MEMORY_DRAIN_S)
        return super().drain_events(**options)


class _Amqp(AMQP):
    Connection = _Connection


def _transport_options(broker_url: str, *, publishes_only: bool) -> dict[str, Any]:
    if broker_url.startswith("memory:"):
        return {"polling_interval": MEMORY_POLLING_S}
    # A message is a hint: to note in Redis that it is on its way, and that it came, would be two more round trips.
    options: dict[str, Any] = {"queue_order_strategy": "priority", "ack_emulation": False}
    if publishes_only:
        options |= {
            "socket_timeout": PUBLISH_TIMEOUT_S,
            "socket_connect_timeout": PUBLISH_TIMEOUT_S,
            "max_retries": 0,
        }
    return options
