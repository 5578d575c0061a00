"""/keys with their limits: for admins. A key's text is shown once, when it is made; its secret is stored nowhere."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import fastapi
import pydantic

from gateway import times, validation
from gateway.authentication import require_admin
from gateway.bodies import read_json, require_object
from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.native.queries import KeysQuery
from gateway.dialects.route import KeyDep, json_response, route_class
from gateway.openapi import body_of
from gateway.services import ServicesDep
from tollgate.domain.errors import NotFoundError
from tollgate.domain.ids import new_id
from tollgate.domain.keys import derive_secret
from tollgate.domain.rates import MAX_LIMIT, KeyLimits
from tollgate.domain.states import Role
from tollgate.domain.tasks import Key
from tollgate.store import key_limits, keys

router = fastapi.APIRouter(tags=["keys"], route_class=route_class(answer), responses=RESPONSES)

Name = Annotated[str, pydantic.StringConstraints(pattern=r"^\P{Cc}{1,64}$")]
KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
Limit = Annotated[int, pydantic.Field(ge=1, le=MAX_LIMIT)]
LIMIT_RULE = f"an integer from 1 to {MAX_LIMIT}; null: not limited"
NAME_RULE = "1 to 64 characters, no control characters"


class LimitsBody(pydantic.BaseModel):
    """Null lifts a limit; one that is left out stays as it is."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, title="Limits of a key")

    requests_per_minute: Limit | None = pydantic.Field(None, description=LIMIT_RULE)
    tokens_per_minute: Limit | None = pydantic.Field(None, description=LIMIT_RULE)
    max_in_flight: Limit | None = pydantic.Field(None, description=LIMIT_RULE)

    @property
    def given(self) -> dict[str, int | None]:
        return {name: getattr(self, name) for name in LimitsBody.model_fields if name in self.model_fields_set}


class KeyBody(LimitsBody):
    """A new key."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, title="Key")

    project: Name = pydantic.Field(description=NAME_RULE)
    name: Name = pydantic.Field("key", description=NAME_RULE)
    role: Annotated[Role, pydantic.Field(strict=False)] = pydantic.Field(Role.USER, description="'user' or 'admin'")
    models: list[str] | None = pydantic.Field(None, min_length=1, description="a list of model names, or null for all")
    may_interactive: bool = pydantic.Field(True, description="true or false")
    expires_at: times.Moment | None = pydantic.Field(None, description=times.BODY_RULE)


@router.get("/keys")
async def list_keys(
    services: ServicesDep, key: KeyDep, asked: Annotated[KeysQuery, fastapi.Query()]
) -> fastapi.Response:
    """Every key, or a project's; without secrets."""
    require_admin(key)
    async with services.database.read() as connection:
        of = (await keys.project_named(connection, asked.project)).id if asked.project else None
        found = await keys.list_all(connection, project_id=of)
    return json_response({"object": "list", "data": [_shown(one.key, one.created_at) for one in found]})


@router.post("/keys", status_code=201, openapi_extra=body_of(KeyBody))
async def create_key(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """A new key. Its project is made if it is not there."""
    require_admin(key)
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked = validation.check(body, KeyBody)
    for model in asked.models or ():
        services.catalog.find(model)
    master, now = services.keyring.first_master, datetime.now(UTC)
    async with services.database.write() as connection:
        project = await keys.add_project(connection, asked.project, now=now)
        made = Key(
            id=new_id().hex,
            project_id=project.id,
            project=project.name,
            name=asked.name,
            role=asked.role,
            models=frozenset(asked.models) if asked.models else None,
            may_interactive=asked.may_interactive,
            expires_at=asked.expires_at,
            limits=KeyLimits(**asked.given),
        )
        await keys.add(connection, made, master=master.fingerprint, now=now)
    secret = derive_secret(master, key_id=made.id, version=1)
    return json_response({**_shown(made, now), "key": f"{made.id}.{secret}"}, status=201)


@router.patch("/keys/{key_id}", openapi_extra=body_of(LimitsBody))
async def limit_key(key_id: str, request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Change a key's limits: in force here at once, on other gateways within 5 s. Answers the key."""
    require_admin(key)
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked = validation.check(body, LimitsBody)
    async with services.database.write() as connection:
        await key_limits.change(connection, _require_key_id(key_id), asked.given, now=datetime.now(UTC))
        changed = await keys.found(connection, key_id)
    services.keyring.forget(key_id)
    return json_response(_shown(changed.key, changed.created_at))


@router.delete("/keys/{key_id}")
async def revoke_key(key_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Refused here at once, by other gateways within 5 s."""
    require_admin(key)
    async with services.database.write() as connection:
        await keys.revoke(connection, _require_key_id(key_id), now=datetime.now(UTC))
        revoked = await keys.found(connection, key_id)
    services.keyring.forget(key_id)
    return json_response(_shown(revoked.key, revoked.created_at))


def _require_key_id(text: str) -> str:
    """Raises NotFoundError for what is no id at all."""
    if not KEY_ID.fullmatch(text):
        raise NotFoundError("key", text)
    return text


def _shown(key: Key, created_at: datetime) -> dict[str, Any]:
    return {
        "id": key.id,
        "project": key.project,
        "name": key.name,
        "role": key.role,
        "models": sorted(key.models) if key.models is not None else None,
        "may_interactive": key.may_interactive,
        **asdict(key.limits),
        "created_at": render.time(created_at),
        "expires_at": render.time(key.expires_at),
        "revoked_at": render.time(key.revoked_at),
    }
