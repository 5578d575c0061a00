"""A project's endpoints, and what signs the deliveries to them and to its callback_urls. No secret is stored.

Always within one project: another's endpoint is not there. A deleted endpoint's row stays for its deliveries.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from tollgate.domain.errors import InvalidRequestError, NotFoundError
from tollgate.domain.ids import new_id
from tollgate.domain.webhooks import MAX_ENDPOINTS, Endpoint
from tollgate.store import rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import callback_secrets, masters, webhooks


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An endpoint as its project sees it, and what its secret is derived from."""

    id: UUID
    project_id: UUID
    url: str
    events: tuple[str, ...] | None
    """None: all there are."""
    description: str | None
    master: str
    """Fingerprint of the master key."""
    created_at: datetime
    disabled_at: datetime | None
    disabled_why: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackSigner:
    """What the secret of a project's callback_urls is derived from."""

    project_id: UUID
    master: str
    version: int


COLUMNS = tuple(Webhook.__dataclass_fields__)
IN_FORCE = webhooks.c.deleted_at.is_(None)
ACTIVE = sa.and_(IN_FORCE, webhooks.c.disabled_at.is_(None))
"""Told of what happens."""
PROJECTS = rows.Given.of(webhooks, "project_id", name="projects")


def watching(task: sa.FromClause) -> sa.Exists:
    """Whether somebody may want to know of its end. Of a batch they are told as a whole."""
    return sa.exists().where(webhooks.c.project_id == task.c.project_id, ACTIVE, task.c.batch_id.is_(None))


async def add(
    connection: WriteConnection,
    *,
    project_id: UUID,
    url: str,
    events: Collection[str] | None,
    description: str | None,
    master: str,
    now: datetime,
) -> Webhook:
    """A new endpoint. Raises InvalidRequestError where the project has MAX_ENDPOINTS."""
    there = sa.select(sa.func.count()).where(webhooks.c.project_id == project_id, IN_FORCE)
    if (await connection.execute(there)).scalar_one() >= MAX_ENDPOINTS:
        raise InvalidRequestError(
            f"this project has {MAX_ENDPOINTS} webhooks; delete one first",
            field="url",
            allowed=f"at most {MAX_ENDPOINTS} webhooks a project",
        )
    await _note_master(connection, master, now)
    webhook_id = new_id()
    await connection.execute(
        sa.insert(webhooks).values(
            id=webhook_id,
            project_id=project_id,
            url=url,
            events=None if events is None else orjson.dumps(sorted(set(events))).decode(),
            description=description,
            master=master,
            created_at=now,
        )
    )
    return await find(connection, webhook_id, project_id=project_id)


async def find(connection: ReadConnection, webhook_id: UUID, *, project_id: UUID) -> Webhook:
    """Raises NotFoundError, for another project's too."""
    row = (await connection.execute(_select().where(_is(webhook_id, project_id)))).first()
    if row is None:
        raise NotFoundError("webhook", str(webhook_id))
    return _webhook(row)


async def of_project(connection: ReadConnection, project_id: UUID) -> list[Webhook]:
    """The oldest first."""
    statement = _select().where(webhooks.c.project_id == project_id, IN_FORCE).order_by(webhooks.c.id)
    return [_webhook(row) for row in (await connection.execute(statement)).all()]


async def in_force(connection: ReadConnection) -> list[Webhook]:
    """Of all projects, for the doctor."""
    return [_webhook(row) for row in (await connection.execute(_select().where(IN_FORCE))).all()]


async def delete(connection: WriteConnection, webhook_id: UUID, *, project_id: UUID, now: datetime) -> Webhook:
    """What is still to be delivered to it fails at its next try. Returns it as it was. Raises NotFoundError."""
    found = await find(connection, webhook_id, project_id=project_id)
    await connection.execute(sa.update(webhooks).where(_is(webhook_id, project_id)).values(deleted_at=now))
    return found


async def enable(connection: WriteConnection, webhook_id: UUID, *, project_id: UUID) -> Webhook:
    """Told of what happens from now on. Raises NotFoundError."""
    values = {"disabled_at": None, "disabled_why": None}
    await connection.execute(sa.update(webhooks).where(_is(webhook_id, project_id)).values(values))
    return await find(connection, webhook_id, project_id=project_id)


async def disable(connection: WriteConnection, webhook_id: UUID, *, why: str, now: datetime) -> None:
    """By its receiver's own word. Once is enough."""
    await connection.execute(
        sa.update(webhooks)
        .where(webhooks.c.id == webhook_id, webhooks.c.disabled_at.is_(None))
        .values(disabled_at=now, disabled_why=why)
    )


def as_endpoint(one: Webhook) -> Endpoint:
    events = None if one.events is None else frozenset(one.events)
    return Endpoint(id=one.id, project_id=one.project_id, url=one.url, events=events)


async def listening(connection: ReadConnection, project_ids: Collection[UUID]) -> dict[UUID, list[Endpoint]]:
    """Project -> its endpoints that are told of what happens."""
    found = await rows.execute(connection, _listening, PROJECTS, [(i,) for i in sorted(project_ids)])
    told: dict[UUID, list[Endpoint]] = {}
    for webhook_id, project_id, url, events in found.all():
        chosen = None if events is None else frozenset(orjson.loads(events))
        endpoint = Endpoint(id=webhook_id, project_id=project_id, url=url, events=chosen)
        told.setdefault(project_id, []).append(endpoint)
    return told


def _listening(dialect: str) -> rows.Statement:
    given = PROJECTS.table(dialect)
    return (
        sa.select(webhooks.c.id, webhooks.c.project_id, webhooks.c.url, webhooks.c.events)
        .where(webhooks.c.project_id.in_(sa.select(given.c.project_id)), ACTIVE)
        .order_by(webhooks.c.id)
    )


async def callback_signer(
    connection: WriteConnection, project_id: UUID, *, master: str, now: datetime
) -> CallbackSigner:
    """The project's, made with `master` if there is none yet."""
    await _note_master(connection, master, now)
    columns = ("project_id", "master", "version", "created_at")
    insert = rows.insert(connection, callback_secrets, columns, [(project_id, master, 1, now)])
    await connection.execute(insert.on_conflict_do_nothing(index_elements=["project_id"]))
    return await _callback_signer(connection, project_id)


async def renew_callback_signer(
    connection: WriteConnection, project_id: UUID, *, master: str, now: datetime
) -> CallbackSigner:
    """Another secret from now on, for what is tried from now on."""
    before = await callback_signer(connection, project_id, master=master, now=now)
    await connection.execute(
        sa.update(callback_secrets)
        .where(callback_secrets.c.project_id == project_id)
        .values(master=master, version=before.version + 1, created_at=now)
    )
    return await _callback_signer(connection, project_id)


async def _callback_signer(connection: ReadConnection, project_id: UUID) -> CallbackSigner:
    columns = (callback_secrets.c[name] for name in CallbackSigner.__dataclass_fields__)
    row = (await connection.execute(sa.select(*columns).where(callback_secrets.c.project_id == project_id))).one()
    return CallbackSigner(**row._mapping)


async def _note_master(connection: WriteConnection, master: str, now: datetime) -> None:
    known = rows.insert(connection, masters, ("fingerprint", "created_at"), [(master, now)])
    await connection.execute(known.on_conflict_do_nothing())


def _is(webhook_id: UUID, project_id: UUID) -> sa.ColumnElement[bool]:
    return sa.and_(webhooks.c.id == webhook_id, webhooks.c.project_id == project_id, IN_FORCE)


def _select() -> sa.Select[Any]:
    return sa.select(*(webhooks.c[name] for name in COLUMNS))


def _webhook(row: Any) -> Webhook:
    return Webhook(**{**row._mapping, "events": None if row.events is None else tuple(orjson.loads(row.events))})
