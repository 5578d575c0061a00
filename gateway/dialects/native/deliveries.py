"""/webhooks/deliveries: what was sent to whom, what came of it, and once more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import fastapi

from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.native.queries import DeliveriesQuery
from gateway.dialects.route import KeyDep, json_response, require_id, route_class
from gateway.services import ServicesDep
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.webhooks import DeliveryState, message_id
from tollgate.store import deliveries, webhooks
from tollgate.store.deliveries import Delivery
from tollgate.store.webhooks import Webhook

router = fastapi.APIRouter(
    prefix="/webhooks/deliveries", tags=["webhooks"], route_class=route_class(answer), responses=RESPONSES
)


@router.get("")
async def list_page(
    services: ServicesDep, key: KeyDep, asked: Annotated[DeliveriesQuery, fastapi.Query()]
) -> fastapi.Response:
    """A page of the project's deliveries, newest first."""
    async with services.database.read() as connection:
        found = await deliveries.page(
            connection, project_id=key.project_id, where=asked.filter(), limit=asked.limit + 1, after=asked.after
        )
    page = found[: asked.limit]
    data = [delivery(one) for one in page]
    last_id = str(page[-1].id) if page else None
    return json_response({"object": "list", "data": data, "has_more": len(found) > asked.limit, "last_id": last_id})


@router.post("/{delivery_id}/redeliver", status_code=202)
async def redeliver(delivery_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Send the same message again, under the same id, whatever became of it; with a day of tries as at first."""
    asked = require_id(delivery_id, kind="delivery")
    async with services.database.write() as connection:
        told = await deliveries.find(connection, asked, project_id=key.project_id)
        if told.webhook_id is not None:
            require_enabled(await webhooks.find(connection, told.webhook_id, project_id=key.project_id))
        found = await deliveries.redeliver(connection, asked, project_id=key.project_id, now=datetime.now(UTC))
    return json_response(delivery(found), status=202)


def require_enabled(webhook: Webhook) -> None:
    """Raises InvalidRequestError: what is sent there would fail at once."""
    if webhook.disabled_at is not None:
        raise InvalidRequestError(
            f"webhook {webhook.id} is disabled: {webhook.disabled_why}; enable it first", field="webhook_id"
        )


def delivery(one: Delivery) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "object": "webhook_delivery",
        "message_id": message_id(one.id),
        "webhook_id": str(one.webhook_id) if one.webhook_id else None,
        "url": one.url,
        "event": one.event,
        "task_id": str(one.task_id) if one.task_id else None,
        "batch_id": str(one.batch_id) if one.batch_id else None,
        "state": one.state,
        "tries": one.tries,
        "next_try_at": render.time(one.not_before) if one.state is DeliveryState.PENDING else None,
        "last_try_at": render.time(one.last_tried_at),
        "http_status": one.http_status,
        "error": one.error,
        "response": one.response,
        "created_at": render.time(one.created_at),
        "ended_at": render.time(one.ended_at),
    }
