"""API keys with their limits, their projects, and the master keys' fingerprints. No secret is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa

from tollgate.domain.errors import NotFoundError, SettingsError
from tollgate.domain.ids import new_id
from tollgate.domain.rates import KeyLimits
from tollgate.domain.states import Role
from tollgate.domain.tasks import Key
from tollgate.store import key_limits, rows
from tollgate.store.database import ReadConnection, WriteConnection
from tollgate.store.schema import api_keys, budgets, masters, projects


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A key, and what its secret is derived from."""

    key: Key
    master: str
    """Fingerprint of the master key."""
    version: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    id: UUID
    name: str
    created_at: datetime
    keep_prompts_s: int | None
    """After a task's end; None: for ever."""
    keep_results_s: int | None


_PROJECTS = sa.select(*(projects.c[f.name] for f in fields(Project)))


async def check_masters(connection: ReadConnection, fingerprints: Sequence[str]) -> None:
    """Raise SettingsError if keys in force here were made by a master key that is not given: they would be refused."""
    statement = sa.select(api_keys.c.master, sa.func.count()).where(api_keys.c.revoked_at.is_(None))
    counted = (await connection.execute(statement.group_by(api_keys.c.master))).all()
    used = {row[0]: row[1] for row in counted}
    missing = {master: n for master, n in used.items() if master not in fingerprints}
    if missing:
        named = ", ".join(f"{master} ({n} keys)" for master, n in missing.items())
        raise SettingsError(
            f"TOLLGATE_MASTER_KEY is not the one that made the keys in this database: fingerprint {named} is missing, "
            f"given {', '.join(fingerprints)}. Set the old master key again; to change it, list both: NEW,OLD. "
            "If the old one is lost, its keys are too: `tollgate keys revoke` each, and make new ones"
        )


async def add_project(connection: WriteConnection, name: str, *, now: datetime) -> Project:
    """The project of that name, made if it is not there."""
    insert = rows.insert(connection, projects, ("id", "name", "created_at"), [(new_id(), name, now)])
    await connection.execute(insert.on_conflict_do_nothing(index_elements=["name"]))
    return await project_named(connection, name)


async def list_projects(connection: ReadConnection) -> list[Project]:
    found = (await connection.execute(_PROJECTS.order_by(projects.c.name))).all()
    return [Project(**row._mapping) for row in found]


async def project_named(connection: ReadConnection, name: str) -> Project:
    row = (await connection.execute(_PROJECTS.where(projects.c.name == name))).first()
    if row is None:
        raise NotFoundError("project", name)
    return Project(**row._mapping)


async def add(connection: WriteConnection, key: Key, *, master: str, version: int = 1, now: datetime) -> None:
    """Keep a new key, and the fingerprint of the master key that derives its secret."""
    known = rows.insert(connection, masters, ("fingerprint", "created_at"), [(master, now)])
    await connection.execute(known.on_conflict_do_nothing())
    await connection.execute(
        sa.insert(api_keys).values(
            id=key.id,
            project_id=key.project_id,
            name=key.name,
            role=key.role,
            master=master,
            version=version,
            models=None if key.models is None else orjson.dumps(sorted(key.models)).decode(),
            may_interactive=key.may_interactive,
            created_at=now,
            expires_at=key.expires_at,
        )
    )
    if key.limits:
        await key_limits.change(connection, key.id, asdict(key.limits), now=now)


async def find(connection: ReadConnection, key_id: str) -> StoredKey | None:
    row = (await connection.execute(_select().where(api_keys.c.id == key_id))).first()
    return None if row is None else _stored(row)


async def found(connection: ReadConnection, key_id: str) -> StoredKey:
    """As `find`. Raises NotFoundError."""
    stored = await find(connection, key_id)
    if stored is None:
        raise NotFoundError("key", key_id)
    return stored


async def list_all(connection: ReadConnection, *, project_id: UUID | None = None) -> list[StoredKey]:
    statement = _select().order_by(projects.c.name, api_keys.c.created_at)
    if project_id is not None:
        statement = statement.where(api_keys.c.project_id == project_id)
    return [_stored(row) for row in (await connection.execute(statement)).all()]


async def revoke(connection: WriteConnection, key_id: str, *, now: datetime) -> None:
    """Revoked for good; a second time changes nothing. Raises NotFoundError."""
    statement = (
        sa.update(api_keys)
        .where(api_keys.c.id == key_id)
        .values(revoked_at=sa.func.coalesce(api_keys.c.revoked_at, sa.literal(now, api_keys.c.revoked_at.type)))
        .returning(api_keys.c.id)
    )
    if (await connection.execute(statement)).first() is None:
        raise NotFoundError("key", key_id)


def _select() -> sa.Select[Any]:
    return (
        sa.select(api_keys, projects.c.name.label("project"), budgets.c.limit_tasks.label("max_in_flight"))
        .join(projects, projects.c.id == api_keys.c.project_id)
        .outerjoin(budgets, key_limits.IN_FLIGHT)
    )


def _stored(row: Any) -> StoredKey:
    key = Key(
        id=row.id,
        project_id=row.project_id,
        project=row.project,
        name=row.name,
        role=Role(row.role),
        models=None if row.models is None else frozenset(orjson.loads(row.models)),
        may_interactive=row.may_interactive,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        limits=KeyLimits(**{field.name: getattr(row, field.name) for field in fields(KeyLimits)}),
    )
    return StoredKey(key=key, master=row.master, version=row.version, created_at=row.created_at)
