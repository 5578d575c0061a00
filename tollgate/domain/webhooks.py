"""What webhooks tell, to whom, and how it is signed. Pure.

The form is that of Standard Webhooks (https://www.standardwebhooks.com): an id that is the same for every try of a
delivery, a time, and a signature over both and the body. The body names the task and says how it ended. Prompt and
answer are not in it: who wants them asks GET /tasks/{id}, with a key. Of a task that failed, `error.message` may be the
upstream's own words (500 characters of them at most), and an upstream may repeat a piece of the prompt there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from tollgate.domain.addresses import host_of
from tollgate.domain.batches import BatchState
from tollgate.domain.ids import new_id
from tollgate.domain.keys import MasterKey
from tollgate.domain.shown import moment
from tollgate.domain.states import TaskState

MAX_ENDPOINTS = 20
"""Of a project: each of its tasks' ends is told to all of them."""
_ENDPOINT_DOMAIN = b"tollgate:webhook-secret:v1\0"
_CALLBACK_DOMAIN = b"tollgate:callback-secret:v1\0"


class Event(StrEnum):
    """What is told."""

    TASK_SUCCEEDED = "task.succeeded"
    TASK_FAILED = "task.failed"
    TASK_CANCELLED = "task.cancelled"
    TASK_EXPIRED = "task.expired"
    BATCH_COMPLETED = "batch.completed"
    BATCH_FAILED = "batch.failed"
    BATCH_EXPIRED = "batch.expired"
    BATCH_CANCELLED = "batch.cancelled"
    WEBHOOK_TEST = "webhook.test"
    """Asked for, to see whether a receiver works."""


SUBSCRIBED = tuple(event for event in Event if event is not Event.WEBHOOK_TEST)
"""What an endpoint can choose."""


class DeliveryState(StrEnum):
    """`pending -> delivered | failed`, and back to pending where it is asked for again."""

    PENDING = "pending"
    """Due at its `not_before`; while it is being sent, that is the end of the sender's lease."""
    DELIVERED = "delivered"
    """The receiver answered 2xx."""
    FAILED = "failed"
    """Given up: the last try of 24 hours, or the receiver is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A project's webhook, as far as it matters to what it is told."""

    id: UUID
    project_id: UUID
    url: str
    events: frozenset[str] | None
    """None: all there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDelivery:
    """A row of `webhook_deliveries`, before it is committed."""

    id: UUID
    project_id: UUID
    webhook_id: UUID | None
    """None: it goes to `url`, the callback_url of its task or batch."""
    url: str | None
    host: str
    """Of the URL, and the project: what is in flight is bounded by both."""
    task_id: UUID | None
    batch_id: UUID | None
    event: Event
    created_at: datetime


def ended_event(state: TaskState) -> Event:
    """Of a task that ended so."""
    return Event(f"task.{state.value}")


def ended_batch_event(state: BatchState) -> Event:
    """Of a batch that ended so."""
    return Event(f"batch.{state.value}")


def deliveries(
    event: Event,
    *,
    project_id: UUID,
    now: datetime,
    callback_url: str | None = None,
    endpoints: Iterable[Endpoint] = (),
    task_id: UUID | None = None,
    batch_id: UUID | None = None,
) -> Iterator[NewDelivery]:
    """One for the callback_url, and one for each of the project's endpoints that wants to know."""
    told: list[tuple[UUID | None, str]] = [] if callback_url is None else [(None, callback_url)]
    told += [(one.id, one.url) for one in endpoints if wants(one, event)]
    for webhook_id, url in told:
        yield NewDelivery(
            id=new_id(),
            project_id=project_id,
            webhook_id=webhook_id,
            url=url if webhook_id is None else None,
            host=place_of(url, project_id),
            task_id=task_id,
            batch_id=batch_id,
            event=event,
            created_at=now,
        )


def place_of(url: str, project_id: UUID) -> str:
    """Whose deliveries share what may be in flight: a project cannot hold up what others send to the same host."""
    return f"{host_of(url)} {project_id.hex}"


def wants(endpoint: Endpoint, event: Event) -> bool:
    """A test is for the endpoint it was asked for, whatever that chose."""
    return event is Event.WEBHOOK_TEST or endpoint.events is None or event in endpoint.events


def endpoint_secret(master: MasterKey, *, webhook_id: UUID) -> str:
    """What an endpoint's deliveries are signed with: "whsec_" and 256 bits in base64.

    HMAC-SHA256 (RFC 2104) of the id under the master key, as API keys' secrets are made (`domain.keys`)."""
    return _secret(master, _ENDPOINT_DOMAIN + webhook_id.bytes)


def callback_secret(master: MasterKey, *, project_id: UUID, version: int) -> str:
    """The same for what goes to the callback_urls of a project. A new version is a new secret."""
    return _secret(master, _CALLBACK_DOMAIN + project_id.bytes + str(version).encode())


def _secret(master: MasterKey, message: bytes) -> str:
    return "whsec_" + base64.b64encode(hmac.new(master.value, message, hashlib.sha256).digest()).decode()


def message_id(delivery_id: UUID) -> str:
    """The header `webhook-id`: the same for each try, so that a receiver can drop what it has."""
    return f"msg_{delivery_id.hex}"


def body_of(event: str, *, at: datetime, data: Mapping[str, Any]) -> str:
    """The JSON that is signed and sent. `at`: when it happened, not when it is sent."""
    return orjson.dumps({"type": event, "timestamp": moment(at), "data": dict(data)}).decode()
