"""Deliveries on their way: claimed, settled, and removed when they are old. Any number of senders, side by side.

A claim is a lease: `not_before` moves behind the longest that a try can take, and `tries` counts it. A sender that
dies leaves a row that is due again then. What a try came to is written only while its count stands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.webhooks import DeliveryState
from tollgate.store import rows, webhooks
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import PENDING, callback_secrets, webhook_deliveries
from tollgate.store.schema import webhooks as endpoints

LEASE = timedelta(seconds=60)
"""A try takes 17 s at most; the rest is for a database that is slow to take what it came to."""
HOSTS_AT_ONCE = 256
"""Hosts that one round looks at, a few milliseconds. The next round begins after them."""
SETTLED = rows.Given(
    {name: webhook_deliveries.c[name].type for name in ("id", "state", "tries", "not_before", "ended_at")}
    | {name: webhook_deliveries.c[name].type for name in ("http_status", "error", "response")},
    name="settled",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A delivery in a sender's hands, and what it is signed with."""

    id: UUID
    project_id: UUID
    webhook_id: UUID | None
    url: str
    host: str
    event: str
    task_id: UUID | None
    batch_id: UUID | None
    tries: int
    round_tries: int
    """Of this round, this one included."""
    first_tried_at: datetime
    created_at: datetime
    master: str
    """Fingerprint of the master key that its secret is derived from."""
    version: int
    """Of a callback_url's secret."""
    gone: str | None = None
    """Why it must not be sent: its endpoint was deleted, or is disabled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What a try came to."""

    id: UUID
    tries: int
    state: DeliveryState
    not_before: datetime
    """PENDING: when to try again."""
    ended_at: datetime | None
    http_status: int | None = None
    error: str | None = None
    response: str | None = None


async def hosts_due(connection: ReadConnection, *, now: datetime, after: str = "") -> list[str]:
    """Hosts that something is due for: those after `after`, then from the first again; HOSTS_AT_ONCE at most."""
    found = await _walk(connection, webhook_deliveries.c.host > after, now=now)
    if after and len(found) < HOSTS_AT_ONCE:
        found += await _walk(connection, webhook_deliveries.c.host <= after, now=now)
    return found[:HOSTS_AT_ONCE]


async def claim(
    connection: WriteConnection, shares: Mapping[str, int], *, limit: int, now: datetime, master: str
) -> list[Claimed]:
    """Up to `limit` deliveries that are due, of each host up to its share; not those in others' hands.

    `master`: the fingerprint of the key that a new project's secret is made with. Those secrets are made for all hosts
    together, in the projects' order: in that of their hosts, two senders would wait for each other."""
    found: list[Any] = []
    for host, share in shares.items():
        if len(found) < limit:
            found += await _lease(connection, host, limit=min(share, limit - len(found)), now=now)
    return await _signed(connection, found, master=master, now=now)


async def settle(connection: WriteConnection, tried: Sequence[Tried]) -> None:
    """Write what tries came to; not of one that somebody has claimed since."""
    values = [(t.id, t.state, t.tries, t.not_before, t.ended_at, t.http_status, t.error, t.response) for t in tried]
    await rows.execute(connection, _settling, SETTLED, values)


def _settling(dialect: str) -> rows.Statement:
    given = SETTLED.table(dialect)
    return (
        sa.update(webhook_deliveries)
        .where(
            webhook_deliveries.c.id == given.c.id,
            webhook_deliveries.c.tries == given.c.tries,
            # Asked for again meanwhile, as one that has not begun: then that round decides.
            webhook_deliveries.c.first_tried_at.is_not(None),
        )
        .values(
            {name: given.c[name] for name in ("state", "not_before", "ended_at", "http_status", "error", "response")}
        )
    )


async def forget(connection: WriteConnection, state: DeliveryState, *, ended_before: datetime, limit: int) -> int:
    """Remove up to `limit` deliveries that ended so, before that. Returns how many."""
    old = (
        sa.select(webhook_deliveries.c.id)
        .where(webhook_deliveries.c.state == _written(state), webhook_deliveries.c.ended_at < ended_before)
        .order_by(webhook_deliveries.c.ended_at)
        .limit(_written(limit))
        .with_for_update(skip_locked=True)
        .cte("old")
    )
    statement = sa.delete(webhook_deliveries).where(webhook_deliveries.c.id.in_(sa.select(old.c.id)))
    return len((await connection.execute(statement.returning(webhook_deliveries.c.id))).all())


async def _lease(connection: WriteConnection, host: str, *, limit: int, now: datetime) -> Sequence[Any]:
    """The longest due first."""
    chosen = (
        _due(now)
        .where(webhook_deliveries.c.host == host)
        .order_by(webhook_deliveries.c.not_before)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    began = sa.literal(now, webhook_deliveries.c.first_tried_at.type)
    statement = (
        sa.update(webhook_deliveries)
        .where(webhook_deliveries.c.id.in_(sa.select(chosen.c.id)))
        .values(
            tries=webhook_deliveries.c.tries + 1,
            not_before=now + LEASE,
            first_tried_at=sa.func.coalesce(webhook_deliveries.c.first_tried_at, began),
            last_tried_at=now,
        )
        .returning(webhook_deliveries)
    )
    found: Sequence[Any] = (await connection.execute(statement)).all()
    return found


def _due(now: datetime) -> sa.Select[tuple[UUID]]:
    return sa.select(webhook_deliveries.c.id).where(
        webhook_deliveries.c.state == PENDING, webhook_deliveries.c.not_before <= now
    )


async def _walk(connection: ReadConnection, bound: sa.ColumnElement[bool], *, now: datetime) -> list[str]:
    """From one host's first delivery to the next host's by the index, however many a host has."""

    def first(where: sa.ColumnElement[bool]) -> sa.Select[tuple[str]]:
        host = webhook_deliveries.c.host
        pending = sa.select(host).where(webhook_deliveries.c.state == PENDING, bound, where)
        return pending.order_by(host).limit(_written(1))

    heads = sa.select(first(sa.true()).scalar_subquery().label("host")).cte("heads", recursive=True)
    following = first(webhook_deliveries.c.host > heads.c.host).correlate(heads).scalar_subquery()
    heads = heads.union_all(sa.select(following).where(heads.c.host.is_not(None)))
    first_due = (
        sa.select(webhook_deliveries.c.not_before)
        .where(webhook_deliveries.c.state == PENDING, webhook_deliveries.c.host == heads.c.host)
        .order_by(webhook_deliveries.c.not_before)
        .limit(_written(1))
        .correlate(heads)
        .scalar_subquery()
    )
    statement = sa.select(heads.c.host).where(heads.c.host.is_not(None), first_due <= now).limit(HOSTS_AT_ONCE)
    return list((await connection.execute(statement)).scalars())


def _written(value: Any) -> sa.BindParameter[Any]:
    """Into the text of the statement: for a limit that it does not know, a generic plan reads a tenth of all."""
    return sa.literal(value, literal_execute=True)


async def _signed(connection: WriteConnection, found: Sequence[Any], *, master: str, now: datetime) -> list[Claimed]:
    known = await _endpoints(connection, {row.webhook_id for row in found if row.webhook_id is not None})
    signers = await _callback_signers(
        connection, {row.project_id for row in found if row.webhook_id is None}, master=master, now=now
    )
    claimed = []
    for row in found:
        of = known.get(row.webhook_id)
        signer = signers.get(row.project_id)
        claimed.append(
            Claimed(
                **{name: getattr(row, name) for name in ("id", "project_id", "webhook_id", "host", "event", "task_id")},
                **{name: getattr(row, name) for name in ("batch_id", "tries", "first_tried_at", "created_at")},
                url=row.url if of is None else of.url,
                round_tries=row.tries - row.tries_before,
                master=of.master if of is not None else signer.master if signer is not None else "",
                version=0 if signer is None else signer.version,
                gone=None if of is None else _gone(of),
            )
        )
    return claimed


async def _endpoints(connection: ReadConnection, ids: Collection[UUID]) -> dict[UUID, Any]:
    if not ids:
        return {}
    columns = (endpoints.c[name] for name in ("id", "url", "master", "disabled_at", "disabled_why", "deleted_at"))
    given = rows.table_of(connection, {"id": endpoints.c.id.type}, [(i,) for i in sorted(ids)])
    found = await connection.execute(sa.select(*columns).where(endpoints.c.id.in_(sa.select(given.c.id))))
    return {row.id: row for row in found.all()}


def _gone(endpoint: Any) -> str | None:
    if endpoint.deleted_at is not None:
        return "its webhook was deleted"
    if endpoint.disabled_at is not None:
        return f"its webhook is disabled: {endpoint.disabled_why}; enable it, and deliver again"
    return None


async def _callback_signers(
    connection: WriteConnection, project_ids: Collection[UUID], *, master: str, now: datetime
) -> dict[UUID, webhooks.CallbackSigner]:
    if not project_ids:
        return {}
    given = rows.table_of(connection, {"id": callback_secrets.c.project_id.type}, [(i,) for i in sorted(project_ids)])
    columns = (callback_secrets.c[name] for name in webhooks.CallbackSigner.__dataclass_fields__)
    statement = sa.select(*columns).where(callback_secrets.c.project_id.in_(sa.select(given.c.id)))
    found = {row.project_id: webhooks.CallbackSigner(**row._mapping) for row in await connection.execute(statement)}
    for project_id in sorted(project_ids - found.keys()):
        found[project_id] = await webhooks.callback_signer(connection, project_id, master=master, now=now)
    return found
