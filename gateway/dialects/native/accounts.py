"""/usage: tasks, tokens and cost, from the hourly roll-up."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import fastapi

from gateway.authentication import require_admin
from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.native.queries import UsageQuery
from gateway.dialects.route import KeyDep, json_response, route_class
from gateway.services import Services, ServicesDep
from tollgate.domain.settling import NO_COUNTS
from tollgate.domain.tasks import Key
from tollgate.store import keys, usage

router = fastapi.APIRouter(tags=["accounts"], route_class=route_class(answer), responses=RESPONSES)


@router.get("/usage")
async def read_usage(
    services: ServicesDep, key: KeyDep, asked: Annotated[UsageQuery, fastapi.Query()]
) -> fastapi.Response:
    """Sums over whole hours (UTC) by any of the dimensions. Without dates: this month so far."""
    groups = asked.groups()
    start, end = asked.span(datetime.now(UTC))
    project_id = await _project(services, key, asked.project)
    async with services.database.read() as connection:
        rows = await usage.summarise(
            connection, by=groups, project_id=project_id, since=start, until=end, key_id=asked.key
        )
    data = [{**row.group, **render.counts(row.counts)} for row in rows]
    if asked.format == "csv":
        return _csv(groups, data)
    total = render.counts(sum((row.counts for row in rows), start=NO_COUNTS))
    head = {
        "object": "usage",
        "currency": services.settings.currency,
        "from": render.time(start),
        "to": render.time(end),
    }
    return json_response({**head, "by": groups, "data": data, "total": total})


async def _project(services: Services, key: Key, name: str | None) -> UUID | None:
    """The project whose usage is asked for; None: every one's. Raises PermissionDeniedError, NotFoundError."""
    if name is None or name == key.project:
        return key.project_id
    require_admin(key)
    if name == "*":
        return None
    async with services.database.read() as connection:
        return (await keys.project_named(connection, name)).id


def _csv(groups: list[str], data: list[dict[str, Any]]) -> fastapi.Response:
    text = io.StringIO()
    columns = [*groups, *render.counts(NO_COUNTS)]
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(data)
    return fastapi.Response(text.getvalue(), media_type="text/csv; charset=utf-8")
