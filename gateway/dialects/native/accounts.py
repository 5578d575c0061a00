"""/usage: tasks, tokens and cost, from the roll-ups."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Annotated, Any

import fastapi

from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.native.queries import UsageQuery
from gateway.dialects.route import KeyDep, json_response, route_class
from gateway.querying import project_asked
from gateway.services import ServicesDep
from tollgate.store import usage

router = fastapi.APIRouter(tags=["accounts"], route_class=route_class(answer), responses=RESPONSES)


@router.get("/usage")
async def read_usage(
    services: ServicesDep, key: KeyDep, asked: Annotated[UsageQuery, fastapi.Query()]
) -> fastapi.Response:
    """Sums over whole hours (UTC) by any of the dimensions. Without dates: this month so far."""
    groups = asked.groups()
    start, end = asked.span(datetime.now(UTC))
    project_id = await project_asked(services, key, asked.project)
    async with services.database.read() as connection:
        rows = await usage.summarise(
            connection, by=groups, project_id=project_id, since=start, until=end, key_id=asked.key
        )
    data = [{**row.group, **render.counts(row.sums)} for row in rows]
    if asked.format == "csv":
        return _csv(groups, data)
    total = render.counts(usage.total(rows))
    head = {
        "object": "usage",
        "currency": services.settings.currency,
        "from": render.time(start),
        "to": render.time(end),
    }
    return json_response({**head, "by": groups, "data": data, "total": total})


def _csv(groups: list[str], data: list[dict[str, Any]]) -> fastapi.Response:
    text = io.StringIO()
    columns = [*groups, *render.counts(usage.total([]))]
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(data)
    return fastapi.Response(text.getvalue(), media_type="text/csv; charset=utf-8")
