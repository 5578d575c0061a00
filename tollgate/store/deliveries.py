"""Deliveries of webhooks: written with what they tell of, listed, and asked for again. `store.sending` sends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.errors import NotFoundError
from tollgate.domain.settling import Resolution, TaskRow
from tollgate.domain.webhooks import DeliveryState, NewDelivery, deliveries, ended_event
from tollgate.store import rows, webhooks
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.rows import Step
from tollgate.store.schema import PENDING, webhook_deliveries
from tollgate.store.schema import webhooks as endpoints

COLUMNS = tuple(field.name for field in fields(NewDelivery))
VALUES = attrgetter(*COLUMNS)
NEW = rows.Given.of(webhook_deliveries, *COLUMNS, "state", "not_before", name="deliveries")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One message to one receiver, as its project sees it."""

    id: UUID
    webhook_id: UUID | None
    """None: it goes to a callback_url."""
    url: str
    event: str
    task_id: UUID | None
    batch_id: UUID | None
    state: DeliveryState
    tries: int
    not_before: datetime
    created_at: datetime
    last_tried_at: datetime | None
    ended_at: datetime | None
    http_status: int | None
    error: str | None
    response: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Of a list; None: any."""

    webhook_id: UUID | None = None
    task_id: UUID | None = None
    state: DeliveryState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Deliveries that are due, and that nobody has begun."""

    count: int
    since: datetime | None


async def of_ends(
    connection: WriteConnection, ended: Sequence[Resolution], locked: dict[UUID, TaskRow], *, now: datetime
) -> Step:
    """The deliveries that tell of these ends, to be written with them. Nothing is asked where nobody listens."""
    told = [(r.settlement.state, locked[r.settlement.task_id]) for r in ended]
    heard = {task.project_id for _, task in told if task.watched}
    listening = await webhooks.listening(connection, heard) if heard else {}
    new = [
        one
        for state, task in told
        if task.watched or task.callback_url is not None
        for one in deliveries(
            ended_event(state),
            project_id=task.project_id,
            now=now,
            callback_url=task.callback_url,
            endpoints=listening.get(task.project_id, ()),
            task_id=task.id,
        )
    ]
    return written(new)


def written(new: Sequence[NewDelivery]) -> Step:
    """Of deliveries that are due at once."""
    return Step(_writing, NEW, [(*VALUES(one), DeliveryState.PENDING, one.created_at) for one in new])


def _writing(dialect: str) -> rows.Statement:
    return NEW.insert(dialect, webhook_deliveries)


async def page(
    connection: ReadConnection, *, project_id: UUID, where: Filter, limit: int, after: UUID | None = None
) -> list[Delivery]:
    """Up to `limit` deliveries of a project, newest first, older than `after`."""
    conditions = [webhook_deliveries.c.project_id == project_id]
    if where.webhook_id is not None:
        conditions.append(webhook_deliveries.c.webhook_id == where.webhook_id)
    if where.task_id is not None:
        conditions.append(webhook_deliveries.c.task_id == where.task_id)
    if where.state is not None:
        conditions.append(webhook_deliveries.c.state == sa.literal(where.state, sa.String(16), literal_execute=True))
    if after is not None:
        conditions.append(webhook_deliveries.c.id < after)
    statement = _select().where(*conditions).order_by(webhook_deliveries.c.id.desc()).limit(limit)
    return [_delivery(row) for row in (await connection.execute(statement)).all()]


async def redeliver(connection: WriteConnection, delivery_id: UUID, *, project_id: UUID, now: datetime) -> Delivery:
    """A new round of tries of the same message, at once, whatever became of it. Raises NotFoundError."""
    owned = sa.and_(webhook_deliveries.c.id == delivery_id, webhook_deliveries.c.project_id == project_id)
    again = {
        "state": DeliveryState.PENDING,
        "not_before": now,
        "tries_before": webhook_deliveries.c.tries,
        "first_tried_at": None,
        "ended_at": None,
    }
    await connection.execute(sa.update(webhook_deliveries).where(owned).values(again))
    return await find(connection, delivery_id, project_id=project_id)


async def find(connection: ReadConnection, delivery_id: UUID, *, project_id: UUID) -> Delivery:
    """Raises NotFoundError."""
    owned = _select().where(webhook_deliveries.c.id == delivery_id, webhook_deliveries.c.project_id == project_id)
    row = (await connection.execute(owned)).first()
    if row is None:
        raise NotFoundError("delivery", str(delivery_id))
    return _delivery(row)


async def waiting(connection: ReadConnection, *, now: datetime) -> Waiting:
    """How many are due in all projects, and since when."""
    due = sa.select(sa.func.count(), sa.func.min(webhook_deliveries.c.not_before)).where(
        webhook_deliveries.c.state == PENDING, webhook_deliveries.c.not_before <= now
    )
    row = (await connection.execute(due)).one()
    return Waiting(count=row[0], since=row[1])


def _select() -> sa.Select[Any]:
    named = [webhook_deliveries.c[name] for name in Delivery.__dataclass_fields__ if name != "url"]
    url = sa.func.coalesce(webhook_deliveries.c.url, endpoints.c.url).label("url")
    return sa.select(*named, url).outerjoin(endpoints, endpoints.c.id == webhook_deliveries.c.webhook_id)


def _delivery(row: Any) -> Delivery:
    return Delivery(**{**row._mapping, "state": DeliveryState(row.state)})
