"""Files on OpenAI's wire and on ZhipuAI's, which is the same but for its path and its errors.

Sources: platform.openai.com, "Files"; the SDKs. zhipuai 2.x and zai-sdk pass over `has_more` and read on until a page
is empty, so a page past the last file is one, and no error.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

import fastapi
import pydantic

from gateway.dialects.native.queries import Word
from gateway.dialects.route import Answer, KeyDep, json_response, require_id, route_class
from gateway.files import records
from gateway.files.serving import content_of
from gateway.files.uploads import receive_form
from gateway.openapi import upload_of
from gateway.services import ServicesDep
from tollgate.store.files import File

MAX_PAGE = 10_000
"""OpenAI's own."""


class FilesQuery(pydantic.BaseModel):
    """What it does not know is passed over, as there."""

    purpose: Word | None = None
    limit: int = pydantic.Field(100, ge=1, le=MAX_PAGE)
    after: UUID | None = pydantic.Field(None, description="the last id of the page before")
    order: Literal["asc", "desc"] = "desc"


def files_router(
    *, prefix: str, tag: str, answer: Answer, responses: dict[int | str, dict[str, Any]]
) -> fastapi.APIRouter:
    """The routes below `prefix`, with the errors of `answer`."""
    router = fastapi.APIRouter(
        prefix=f"{prefix}/files", tags=[tag], route_class=route_class(answer), responses=responses
    )

    @router.post("", openapi_extra=upload_of("purpose"))
    async def create(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
        """Upload the input of a batch, as a form."""
        return json_response(shown(await receive_form(request, services, key)))

    @router.get("")
    async def list_page(
        services: ServicesDep, key: KeyDep, asked: Annotated[FilesQuery, fastapi.Query()]
    ) -> fastapi.Response:
        """A page of the project's files, newest first unless `order` is asc."""
        page, has_more = await records.page(
            services,
            key,
            limit=asked.limit,
            purpose=asked.purpose,
            after=asked.after,
            oldest_first=asked.order == "asc",
        )
        data = [shown(one) for one in page]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return json_response({"object": "list", "data": data, **ends, "has_more": has_more})

    @router.get("/{file_id}")
    async def retrieve(file_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
        """One of them."""
        return json_response(shown(await records.find(services, key, require_id(file_id, kind="file"))))

    @router.get("/{file_id}/content")
    async def content(file_id: str, request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
        """Its bytes."""
        one = await records.find(services, key, require_id(file_id, kind="file"))
        return await content_of(request, services, one)

    @router.delete("/{file_id}")
    async def delete(file_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
        """Remove it. Refused while a batch is still being read from it."""
        removed = await records.delete(services, key, require_id(file_id, kind="file"))
        return json_response({"id": str(removed.id), "object": "file", "deleted": True})

    return router


def shown(one: File) -> dict[str, Any]:
    told = {
        "id": str(one.id),
        "object": "file",
        "bytes": one.bytes,
        "created_at": int(one.created_at.timestamp()),
        "filename": one.filename,
        "purpose": one.purpose,
        "status": "processed",
    }
    return told if one.expires_at is None else {**told, "expires_at": int(one.expires_at.timestamp())}
