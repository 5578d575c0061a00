"""What a delivery says: its body from the rows as they stand, its signature from the master key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from standardwebhooks import Webhook

import tollgate
from tollgate.domain.keys import MasterKey
from tollgate.domain.shown import batch as batch_shown
from tollgate.domain.shown import bought, moment
from tollgate.domain.webhooks import Event, body_of, callback_secret, endpoint_secret, message_id
from tollgate.store import batches, tasks
from tollgate.store.database import Database
from tollgate.store.sending import Claimed
from tollgate.store.tasks import Task


async def bodies(database: Database, claimed: Sequence[Claimed], *, currency: str) -> dict[UUID, str]:
    """Delivery -> its JSON. Without those whose task or batch is not there any more.

    Made anew for each try: a task that has ended stays as it is, but for what a bill says of it later."""
    asked = [(one.project_id, one.task_id) for one in claimed if one.task_id is not None]
    async with database.read() as connection:
        found = await tasks.owned(connection, asked, with_results=False) if asked else {}
        ended = await batches.by_ids(connection, [one.batch_id for one in claimed if one.batch_id is not None])
    made = {}
    for one in claimed:
        task = None if one.task_id is None else found.get((one.project_id, one.task_id))
        batch = None if one.batch_id is None else ended.get(one.batch_id)
        if batch is not None:
            shown = batch_shown(batch, currency=currency)
            made[one.id] = body_of(one.event, at=batch.ended_at or one.created_at, data=shown)
        elif task is not None:
            made[one.id] = body_of(one.event, at=task.ended_at or one.created_at, data=_task(task, currency))
        elif one.event == Event.WEBHOOK_TEST:
            made[one.id] = body_of(one.event, at=one.created_at, data={"webhook_id": str(one.webhook_id)})
    return made


def headers(claimed: Claimed, body: str, *, masters: Mapping[str, MasterKey], now: datetime) -> dict[str, str] | None:
    """Signed for this try. None: its master key was not given to this process."""
    master = masters.get(claimed.master)
    if master is None:
        return None
    if claimed.webhook_id is not None:
        secret = endpoint_secret(master, webhook_id=claimed.webhook_id)
    else:
        secret = callback_secret(master, project_id=claimed.project_id, version=claimed.version)
    name = message_id(claimed.id)
    return {
        "Content-Type": "application/json",
        "User-Agent": f"tollgate/{tollgate.__version__}",
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, now, body),
    }


def _task(one: Task, currency: str) -> dict[str, Any]:
    """As GET /tasks/{id} shows it, without its answer and its attempts."""
    upstream, _, upstream_model = (one.answered_by or "").partition("/")
    return {
        "id": str(one.id),
        "object": "task",
        "status": one.state.status,
        "state": one.state,
        "model": one.model,
        "upstream": upstream or None,
        "upstream_model": upstream_model or None,
        "endpoint": one.endpoint,
        "custom_id": one.custom_id,
        "request_id": one.request_id,
        "label": one.label,
        "metadata": None if one.metadata is None else orjson.loads(one.metadata),
        "batch_id": str(one.batch_id) if one.batch_id else None,
        "created_at": moment(one.created_at),
        "started_at": moment(one.started_at),
        "ended_at": moment(one.ended_at),
        "error": {"code": one.error_code, "message": one.error_message} if one.error_code else None,
        **bought(one.attempts, currency=currency),
    }
