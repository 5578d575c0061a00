"""/batches: made, looked at, paused, resumed, cancelled, tried again, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import fastapi
import pydantic

from gateway import batch_body, validation
from gateway.batch_body import BatchBody, ResumeBody
from gateway.batches import creation
from gateway.bodies import read_json, require_object
from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.route import KeyDep, json_response, require_id, route_class
from gateway.event_stream import COMMENT, EventStream, frame
from gateway.openai_chat_body import require_request_id
from gateway.openapi import body_of
from gateway.services import Services, ServicesDep
from tollgate.domain import shown
from tollgate.domain.batches import Batch, BatchState, PauseCode, Via
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.tasks import Key
from tollgate.store import batch_erasing, batch_progress, batches, upstream_batches
from tollgate.store.batch_progress import CommonError
from tollgate.store.upstream_batches import Bought

router = fastapi.APIRouter(prefix="/batches", tags=["batches"], route_class=route_class(answer), responses=RESPONSES)

MAX_PAGE = 100
EVENTS_EVERY_S = 1.0
QUIET_S = 15.0
"""A comment so often where nothing changes."""


class BatchesQuery(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    state: BatchState | None = None
    limit: int = pydantic.Field(20, ge=1, le=MAX_PAGE)
    after: UUID | None = pydantic.Field(None, description="the last id of the page before")


@router.post("", status_code=201, openapi_extra=body_of(BatchBody))
async def create(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Run the lines of an uploaded file, or of a list. Answers at once; they are read, checked and run from then on.

    200 instead of 201: it was asked for before, with the same request_id or a moment ago."""
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    named = require_request_id(request.headers.get("idempotency-key"))
    one, is_new = await creation.create(services, key, batch_body.request_of(body, key_of_header=named))
    return json_response(_shown(one, services), status=201 if is_new else 200)


@router.get("")
async def list_page(
    services: ServicesDep, key: KeyDep, asked: Annotated[BatchesQuery, fastapi.Query()]
) -> fastapi.Response:
    """The project's batches, newest first."""
    async with services.database.read() as connection:
        found = await batches.page(
            connection,
            project_id=key.project_id,
            limit=asked.limit + 1,
            after=asked.after,
            states=None if asked.state is None else [asked.state],
        )
    page = found[: asked.limit]
    body = {"object": "list", "data": [_shown(one, services) for one in page], "has_more": len(found) > asked.limit}
    return json_response(body)


@router.get("/{batch_id}")
async def get(batch_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """One, with its speed, when it will be done at that, and what its lines fail of."""
    return json_response(await _detailed(services, key, require_id(batch_id, kind="batch")))


@router.get("/{batch_id}/events", response_class=fastapi.Response)
async def events(batch_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Its progress as server-sent events: `progress` whenever it changed, at most once a second, and `end`."""
    first = await _detailed(services, key, require_id(batch_id, kind="batch"))
    return EventStream(_frames(services, key, first), left=_nothing)


@router.post("/{batch_id}/pause")
async def pause(batch_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Begin no more lines. Those that run end as they do."""
    one = await _find(services, key, batch_id)
    _require_open(one, "pause")
    async with services.database.write() as connection:
        why = "paused at its owner's request"
        await batches.pause(connection, one.id, code=PauseCode.OWNER, why=why, now=datetime.now(UTC))
    return await _answer(services, key, one)


@router.post("/{batch_id}/resume", openapi_extra=body_of(ResumeBody))
async def resume(batch_id: str, request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Go on, with another max_cost where one is given."""
    given = await request.body()
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes)) if given else {}
    asked = validation.check(body, ResumeBody)
    one = await _find(services, key, batch_id)
    _require_open(one, "resume")
    async with services.database.write() as connection:
        limit_nano = batch_body.nano_of(asked.max_cost)
        await batches.resume(connection, one, max_cost_nano=limit_nano, now=datetime.now(UTC))
    return await _answer(services, key, one)


@router.post("/{batch_id}/cancel")
async def cancel(batch_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Begin no more lines, end those that wait, ask for those that run. What is done stays. After the end: nothing."""
    one = await _find(services, key, batch_id)
    async with services.database.write() as connection:
        await batches.cancel(connection, one.id, now=datetime.now(UTC))
    return await _answer(services, key, one)


@router.post("/{batch_id}/retry")
async def retry(batch_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Run the lines again that failed, were cancelled or expired; what succeeded stays. The window begins anew."""
    one = await _find(services, key, batch_id)
    async with services.database.write() as connection:
        await batches.retry(connection, one, now=datetime.now(UTC))
    return await _answer(services, key, one)


@router.delete("/{batch_id}")
async def delete(batch_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Delete one that has ended, with its input file and the texts of its lines. What they cost stays.

    It is there for nobody from now on; the texts go within minutes."""
    asked = require_id(batch_id, kind="batch")
    async with services.database.write() as connection:
        await batch_erasing.ask(connection, asked, project_id=key.project_id, now=datetime.now(UTC))
    return json_response({"id": str(asked), "object": "batch", "deleted": True})


async def _find(services: Services, key: Key, batch_id: str) -> Batch:
    asked = require_id(batch_id, kind="batch")
    async with services.database.read() as connection:
        return await batches.find(connection, asked, project_id=key.project_id)


def _require_open(one: Batch, what: str) -> None:
    if one.state.ended or one.state is BatchState.CANCELLING:
        raise InvalidRequestError(
            f"batch {one.id} is {one.state}: there is nothing to {what}", field="batch_id",
            allowed="a batch that is validating or in_progress",
        )  # fmt: skip


async def _answer(services: Services, key: Key, one: Batch) -> fastapi.Response:
    async with services.database.read() as connection:
        return json_response(_shown(await batches.find(connection, one.id, project_id=key.project_id), services))


async def _detailed(services: Services, key: Key, batch_id: UUID) -> dict[str, Any]:
    now = datetime.now(UTC)
    async with services.database.read() as connection:
        one = await batches.find(connection, batch_id, project_id=key.project_id)
        rate = None if one.state.ended else await batch_progress.lines_per_second(connection, one, now=now)
        failing = one.invalid or one.sums.tasks_failed
        common = await batch_progress.common_errors(connection, one.id) if failing else []
        bought = await upstream_batches.of_batch(connection, one.id) if one.via is Via.UPSTREAM_BATCH else []
    return {
        **_shown(one, services),
        "lines_per_second": None if rate is None else round(rate, 3),
        "eta_s": round(one.open / rate, 1) if rate and one.paused_at is None else None,
        "errors": [_error(error) for error in common],
        "upstream_batches": [_bought(each) for each in bought],
    }


def _shown(one: Batch, services: Services) -> dict[str, Any]:
    return shown.batch(one, currency=services.settings.currency)


def _bought(one: Bought) -> dict[str, Any]:
    return {
        "upstream": one.upstream,
        "model": one.upstream_model,
        "id": one.upstream_id,
        "state": str(one.state),
        "lines": one.lines,
        "succeeded": one.succeeded,
        "error": one.error,
        "created_at": render.time(one.created_at),
        "ended_at": render.time(one.ended_at),
    }


def _error(one: CommonError) -> dict[str, Any]:
    return {
        "code": one.code,
        "count": one.count,
        "line": one.line,
        "message": one.message,
        "task_id": str(one.task_id) if one.task_id else None,
    }


async def _frames(services: Services, key: Key, first: dict[str, Any]) -> AsyncGenerator[bytes]:
    told, quiet_s = first, 0.0
    yield frame(told, event="progress")
    while not BatchState(told["state"]).ended:
        await asyncio.sleep(EVENTS_EVERY_S)
        now = await _detailed(services, key, UUID(first["id"]))
        quiet_s += EVENTS_EVERY_S
        if _news(now) != _news(told):
            yield frame(now, event="progress")
            quiet_s = 0.0
        elif quiet_s >= QUIET_S:
            yield COMMENT
            quiet_s = 0.0
        told = now
    yield frame(told, event="end")


def _news(one: dict[str, Any]) -> tuple[Any, ...]:
    """What makes an event of it; a speed alone does not."""
    return tuple(one[name] for name in ("state", "paused", "counts", "cost", "usage"))


async def _nothing() -> None:
    """A reader that leaves is only a reader."""
