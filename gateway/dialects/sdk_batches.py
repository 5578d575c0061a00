"""Batches on OpenAI's wire and on ZhipuAI's, which is the same but for its path and its errors.

Sources: platform.openai.com, "Batch"; docs.bigmodel.cn, "batch API"; the SDKs. zhipuai 2.x and zai-sdk send
`completion_window: null` and `auto_delete_input_file: true`, pass over `has_more`, and read on until a page is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import fastapi
import orjson
import pydantic

from gateway import batch_body, validation
from gateway.batches import creation
from gateway.batches.creation import BatchRequest
from gateway.batches.lines import URLS
from gateway.bodies import read_json, require_object
from gateway.dialects.route import Answer, KeyDep, json_response, require_id, route_class
from gateway.openai_chat_body import require_request_id
from gateway.openapi import body_of
from gateway.services import Services, ServicesDep
from tollgate.domain.batches import Batch, BatchState
from tollgate.domain.tasks import Key
from tollgate.store import batch_intake, batches
from tollgate.store.batch_intake import InvalidLine

MAX_PAGE = 100
ERRORS_SHOWN = 100
Word = Annotated[str, pydantic.StringConstraints(max_length=64)]
MetadataText = Annotated[str, pydantic.StringConstraints(max_length=512)]


class SdkBatchBody(pydantic.BaseModel):
    """What it does not know is passed over, as there."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True, title="Batch (OpenAI, ZhipuAI)")

    input_file_id: Annotated[UUID, pydantic.Field(strict=False)] = pydantic.Field(
        description="the id of an uploaded file"
    )
    endpoint: str = pydantic.Field(description=" or ".join(URLS))
    completion_window: str | None = pydantic.Field(None, description=batch_body.WINDOW_RULE)
    metadata: Annotated[dict[Word, MetadataText], pydantic.Field(max_length=16)] | None = pydantic.Field(
        None, description="at most 16 pairs of texts, of 64 and 512 characters"
    )
    auto_delete_input_file: bool | None = pydantic.Field(None, description="true: the file goes when it was taken in")


class BatchesQuery(pydantic.BaseModel):
    limit: int = pydantic.Field(20, ge=1, le=MAX_PAGE)
    after: UUID | None = pydantic.Field(None, description="the last id of the page before")


def batches_router(
    *, prefix: str, tag: str, answer: Answer, responses: dict[int | str, dict[str, Any]]
) -> fastapi.APIRouter:
    """The routes below `prefix`, with the errors of `answer`."""
    router = fastapi.APIRouter(
        prefix=f"{prefix}/batches", tags=[tag], route_class=route_class(answer), responses=responses
    )

    @router.post("", openapi_extra=body_of(SdkBatchBody))
    async def create(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
        """Run the lines of an uploaded file; they are read, checked and run from then on."""
        body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
        named = require_request_id(request.headers.get("idempotency-key"))
        one, _ = await creation.create(services, key, _request_of(body, key_of_header=named))
        return json_response(shown(one))

    @router.get("")
    async def list_page(
        services: ServicesDep, key: KeyDep, asked: Annotated[BatchesQuery, fastapi.Query()]
    ) -> fastapi.Response:
        """A page of the project's batches, newest first."""
        async with services.database.read() as connection:
            found = await batches.page(connection, project_id=key.project_id, limit=asked.limit + 1, after=asked.after)
        data = [shown(one) for one in found[: asked.limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return json_response({"object": "list", "data": data, **ends, "has_more": len(found) > asked.limit})

    @router.get("/{batch_id}")
    async def retrieve(batch_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
        """One of them."""
        return json_response(await _found(services, key, require_id(batch_id, kind="batch")))

    @router.post("/{batch_id}/cancel")
    async def cancel(batch_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
        """Begin no more lines. What is done stays; after the end nothing changes."""
        asked = require_id(batch_id, kind="batch")
        async with services.database.write() as connection:
            one = await batches.find(connection, asked, project_id=key.project_id)
            await batches.cancel(connection, one.id, now=datetime.now(UTC))
        return json_response(await _found(services, key, asked))

    return router


def _request_of(body: dict[str, Any], *, key_of_header: str | None) -> BatchRequest:
    checked = validation.check(body, SdkBatchBody)
    return BatchRequest(
        input_file_id=checked.input_file_id,
        endpoint=checked.endpoint,
        metadata=checked.metadata,
        window_s=batch_body.window_s(checked.completion_window),
        request_id=key_of_header,
        delete_input=bool(checked.auto_delete_input_file),
    )


async def _found(services: Services, key: Key, batch_id: UUID) -> dict[str, Any]:
    async with services.database.read() as connection:
        one = await batches.find(connection, batch_id, project_id=key.project_id)
        failed = one.state is BatchState.FAILED
        invalid = await batch_intake.invalid_page(connection, one.id, limit=ERRORS_SHOWN) if failed else []
    return shown(one, invalid)


def shown(one: Batch, invalid: Sequence[InvalidLine] = ()) -> dict[str, Any]:
    """With the names of both wires; times in seconds. `invalid`: of one that failed as a whole."""
    told = {
        "id": str(one.id),
        "object": "batch",
        "endpoint": one.endpoint,
        "input_file_id": str(one.input_file_id) if one.input_file_id else "",
        "completion_window": _window(one.window_s),
        "status": one.state,
        "output_file_id": str(one.output_file_id) if one.output_file_id else None,
        "error_file_id": str(one.error_file_id) if one.error_file_id else None,
        "created_at": _seconds(one.created_at),
        "in_progress_at": _seconds(one.in_progress_at),
        "expires_at": _seconds(one.expires_at),
        "finalizing_at": _seconds(one.ended_at if one.state is BatchState.COMPLETED else None),
        "completed_at": _seconds(one.ended_at if one.state is BatchState.COMPLETED else None),
        "failed_at": _seconds(one.ended_at if one.state is BatchState.FAILED else None),
        "expired_at": _seconds(one.ended_at if one.state is BatchState.EXPIRED else None),
        "cancelling_at": _seconds(one.cancelling_at),
        "cancelled_at": _seconds(one.ended_at if one.state is BatchState.CANCELLED else None),
        "request_counts": {
            "total": one.total,
            "completed": one.sums.tasks_succeeded,
            "failed": one.sums.tasks_failed + one.invalid,
        },
        "metadata": None if one.metadata is None else orjson.loads(one.metadata),
        "errors": None,
    }
    if one.error_code:
        listed = [{"code": e.code, "line": e.line, "message": e.message, "param": e.field} for e in invalid]
        whole = {"code": one.error_code, "line": None, "message": one.error_message, "param": None}
        told["errors"] = {"object": "list", "data": listed or [whole]}
    return told


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


def _window(seconds: int) -> str:
    """ "24h"; minutes where it is no whole hour."""
    return f"{seconds // 3600}h" if seconds % 3600 == 0 else f"{seconds // 60}m"
