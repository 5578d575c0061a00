"""The Celery app: one task, `tollgate.run`, that carries many ids on a lane.

A message is a hint: it is acknowledged early, has no result and no retry. What guards a task is its
lease in the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import celery
import kombu

RUN = "tollgate.run"
"""The message's name. Arguments: lane, {route: [task id, ...]}."""
MEMORY_BROKER = "memory://"
PUBLISH_TIMEOUT_S = 1.0
"""`apply_async` blocks for as long as the broker hangs; a publisher gives up then, and the row is announced again."""


def create_celery(broker_url: str, *, lanes: Sequence[str], publishes_only: bool = False) -> celery.Celery:
    """The app of a worker for `lanes`, or of a publisher, which never waits long for its broker."""
    app = celery.Celery("tollgate", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_queues=[kombu.Queue(lane, routing_key=lane) for lane in lanes],
        task_create_missing_queues=True,
        task_ignore_result=True,
        task_acks_late=False,
        task_serializer="json",
        accept_content=["json"],
        worker_pool="threads",
        worker_concurrency=2,  # `run` only hands ids over; two threads are more than it needs
        worker_prefetch_multiplier=4,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options=_transport_options(broker_url, publishes_only=publishes_only),
        broker_connection_timeout=PUBLISH_TIMEOUT_S if publishes_only else 4.0,
        worker_enable_remote_control=False,
    )
    return app


def _transport_options(broker_url: str, *, publishes_only: bool) -> dict[str, Any]:
    if broker_url.startswith("memory:"):
        return {"polling_interval": 0.01}  # kombu's default of 1 s is a second of waiting for nothing
    options: dict[str, Any] = {"queue_order_strategy": "priority"}
    if publishes_only:
        options |= {
            "socket_timeout": PUBLISH_TIMEOUT_S,
            "socket_connect_timeout": PUBLISH_TIMEOUT_S,
            "max_retries": 0,
        }
    return options
