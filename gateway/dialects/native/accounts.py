"""/usage: tasks, tokens and cost, from the hourly roll-up."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import fastapi

from gateway.authentication import require_admin
from gateway.dialects.native import render
from gateway.dialects.native.errors import answer
from gateway.dialects.route import KeyDep, json_response, route_class
from gateway.services import Services, ServicesDep
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.settling import NO_COUNTS
from tollgate.domain.tasks import Key
from tollgate.store import keys, usage

router = fastapi.APIRouter(tags=["accounts"], route_class=route_class(answer))


@router.get("/usage")
async def read_usage(
    services: ServicesDep,
    key: KeyDep,
    by: Annotated[str, fastapi.Query(description="comma-separated: " + ", ".join(usage.DIMENSIONS))] = "model",
    since: Annotated[str | None, fastapi.Query(alias="from", description="a date or ISO 8601 time, inclusive")] = None,
    until: Annotated[
        str | None, fastapi.Query(alias="to", description="a date or time, exclusive; default: now")
    ] = None,
    project: Annotated[str | None, fastapi.Query(description="admins: another project's name, or * for all")] = None,
    of_key: Annotated[str | None, fastapi.Query(alias="key", description="only this key's id")] = None,
    format: Literal["json", "csv"] = "json",  # noqa: A002
) -> fastapi.Response:
    """Sums over whole hours (UTC) by any of the dimensions. Without dates: this month so far."""
    groups = _groups(by)
    now = datetime.now(UTC)
    start = _time(since, name="from") or now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = _time(until, name="to") or _next_hour(now)
    if start >= end:
        raise InvalidRequestError("from is not before to", field="from", allowed="a time before `to`")
    project_id = await _project(services, key, project)
    async with services.database.read() as connection:
        rows = await usage.summarise(
            connection, by=groups, project_id=project_id, since=start, until=end, key_id=of_key
        )
    data = [{**row.group, **render.counts(row.counts)} for row in rows]
    if format == "csv":
        return _csv(groups, data)
    total = render.counts(sum((row.counts for row in rows), start=NO_COUNTS))
    head = {
        "object": "usage",
        "currency": services.settings.currency,
        "from": render.time(start),
        "to": render.time(end),
    }
    return json_response({**head, "by": groups, "data": data, "total": total})


def _groups(text: str) -> list[str]:
    groups = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in groups if name not in usage.DIMENSIONS]
    if unknown or not groups:
        raise InvalidRequestError(
            f"by: unknown dimension {', '.join(unknown) or '(none)'}", field="by", allowed=", ".join(usage.DIMENSIONS)
        )
    return groups


def _time(text: str | None, *, name: str) -> datetime | None:
    """A date is its first hour. Times are cut to their hour: the roll-up has no smaller unit."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequestError(
            f"{name}: {text!r} is no time", field=name, allowed="2026-01-31, or 2026-01-31T15:00:00Z"
        ) from None
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return aware.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _next_hour(now: datetime) -> datetime:
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


async def _project(services: Services, key: Key, name: str | None) -> UUID | None:
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
