"""/projects: for admins. What a project is called, and for how long the texts of its tasks are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import fastapi
import pydantic

from gateway import validation
from gateway.authentication import require_admin
from gateway.bodies import read_json, require_object
from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.native.keys import NAME_RULE, Name
from gateway.dialects.route import KeyDep, json_response, route_class
from gateway.openapi import body_of
from gateway.services import ServicesDep
from tollgate.domain.errors import InvalidRequestError, NotFoundError
from tollgate.domain.retention import KEEP_RULE, Texts, parse_keep, shown_keep
from tollgate.store import keys, retention

router = fastapi.APIRouter(prefix="/projects", tags=["keys"], route_class=route_class(answer), responses=RESPONSES)

RULE = f"{KEEP_RULE}; null: for ever"


class ProjectBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    name: Name = pydantic.Field(description=NAME_RULE)


class RetentionBody(pydantic.BaseModel):
    """After a task's end. What is left out stays as it is."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, title="Retention of a project")

    keep_prompts: str | None = pydantic.Field(None, description=RULE)
    keep_results: str | None = pydantic.Field(None, description=RULE)

    def kept(self) -> dict[Texts, int | None]:
        """Seconds. Raises InvalidRequestError."""
        return {texts: _seconds(self, f"keep_{texts}") for texts in Texts if f"keep_{texts}" in self.model_fields_set}


@router.get("")
async def list_projects(services: ServicesDep, key: KeyDep) -> fastapi.Response:
    require_admin(key)
    async with services.database.read() as connection:
        found = await keys.list_projects(connection)
    return json_response({"object": "list", "data": [_shown(one) for one in found]})


@router.post("", status_code=201, openapi_extra=body_of(ProjectBody))
async def create_project(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """A project of that name; one that is there is answered as it is."""
    require_admin(key)
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked = validation.check(body, ProjectBody)
    async with services.database.write() as connection:
        made = await keys.add_project(connection, asked.name, now=datetime.now(UTC))
    return json_response(_shown(made), status=201)


@router.patch("/{name:path}", openapi_extra=body_of(RetentionBody))
async def change_project(name: str, request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Say how long prompts and results are kept; what is over is erased within some ten minutes. Answers the project.

    Tokens and costs stay for ever. What was erased does not come back when it is kept longer."""
    require_admin(key)
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    kept = validation.check(body, RetentionBody).kept()
    if "\0" in name:  # which PostgreSQL holds no text with
        raise NotFoundError("project", name)
    async with services.database.write() as connection:
        project = await keys.project_named(connection, name)
        await retention.change(connection, project.id, kept)
        changed = await keys.project_named(connection, name)
    return json_response(_shown(changed))


def _seconds(asked: RetentionBody, field: str) -> int | None:
    given = getattr(asked, field)
    try:
        return None if given is None else parse_keep(given)
    except ValueError as error:
        raise InvalidRequestError(f"{field}: {error}", field=field, allowed=RULE) from None


def _shown(one: keys.Project) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "name": one.name,
        "keep_prompts": shown_keep(one.keep_prompts_s),
        "keep_results": shown_keep(one.keep_results_s),
        "created_at": render.time(one.created_at),
    }
