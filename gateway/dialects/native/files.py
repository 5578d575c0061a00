"""/files: inputs of batches, uploaded as they are or as a form, shown with what was counted of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import fastapi
import pydantic

from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.native.queries import MAX_PAGE
from gateway.dialects.route import KeyDep, json_response, require_id, route_class
from gateway.files import records
from gateway.files.fields import BATCH
from gateway.files.form import CONTENT_TYPE
from gateway.files.serving import content_of
from gateway.files.uploads import receive_form, receive_raw
from gateway.openapi import upload_of
from gateway.services import ServicesDep
from tollgate.store.files import File

router = fastapi.APIRouter(prefix="/files", tags=["files"], route_class=route_class(answer), responses=RESPONSES)


class UploadQuery(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    filename: str | None = pydantic.Field(None, description="of a body that is the file itself; a form tells its own")


class FilesQuery(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    purpose: Literal["batch", "batch_output"] | None = None
    limit: int = pydantic.Field(50, ge=1, le=MAX_PAGE)
    after: UUID | None = pydantic.Field(None, description="the last id of the page before")
    order: Literal["asc", "desc"] = "desc"


@router.post("", status_code=201, openapi_extra=upload_of(raw=True))
async def create(
    request: fastapi.Request, services: ServicesDep, key: KeyDep, asked: Annotated[UploadQuery, fastapi.Query()]
) -> fastapi.Response:
    """Upload a batch's input: the body is the file, whatever its content type, unless that is multipart/form-data."""
    if request.headers.get("content-type", "").lower().startswith(CONTENT_TYPE):
        made = await receive_form(request, services, key, purpose=BATCH)
    else:
        made = await receive_raw(request, services, key, filename=asked.filename)
    return json_response(_shown(made), status=201)


@router.get("")
async def list_page(
    services: ServicesDep, key: KeyDep, asked: Annotated[FilesQuery, fastapi.Query()]
) -> fastapi.Response:
    """A page of the project's files, newest first unless `order` is asc."""
    page, has_more = await records.page(
        services, key, limit=asked.limit, purpose=asked.purpose, after=asked.after, oldest_first=asked.order == "asc"
    )
    last_id = str(page[-1].id) if page else None
    return json_response(
        {"object": "list", "data": [_shown(one) for one in page], "has_more": has_more, "last_id": last_id}
    )


@router.get("/{file_id}")
async def get(file_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """One of them."""
    return json_response(_shown(await records.find(services, key, require_id(file_id, kind="file"))))


@router.get("/{file_id}/content")
async def content(file_id: str, request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Its bytes; with `Range` from a given one on."""
    one = await records.find(services, key, require_id(file_id, kind="file"))
    return await content_of(request, services, one)


@router.delete("/{file_id}")
async def delete(file_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Remove it, and answer it as it was. Refused while a batch is still being read from it."""
    return json_response(_shown(await records.delete(services, key, require_id(file_id, kind="file"))))


def _shown(one: File) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "object": "file",
        "filename": one.filename,
        "purpose": one.purpose,
        "bytes": one.bytes,
        "lines": one.lines,
        "sha256": one.sha256,
        "batch_id": str(one.batch_id) if one.batch_id else None,
        "created_at": render.time(one.created_at),
        "expires_at": render.time(one.expires_at),
    }
