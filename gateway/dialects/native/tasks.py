"""/tasks: submit, query, list, cancel."""

from __future__ import annotations

from typing import Annotated

import fastapi
import pydantic

from gateway.bodies import read_json
from gateway.dialects.native import parse, render
from gateway.dialects.native.errors import answer
from gateway.dialects.route import KeyDep, Wait, json_response, require_id, route_class
from gateway.querying import cancel_task, read_task, read_tasks
from gateway.services import Services, ServicesDep
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.ids import parse_id
from tollgate.domain.states import STATUSES, TaskState
from tollgate.domain.tasks import Key
from tollgate.store import tasks
from tollgate.store.tasks import Filter

router = fastapi.APIRouter(prefix="/tasks", tags=["tasks"], route_class=route_class(answer))

MAX_IDS = 1_000
MAX_PAGE = 1_000
TASK_SCHEMA = parse.TaskBody.model_json_schema()
SUBMIT_DOC = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": [TASK_SCHEMA, {"type": "array", "items": TASK_SCHEMA}]}}}}}  # fmt: skip  # noqa: E501


@router.post("", status_code=202, openapi_extra=SUBMIT_DOC)
async def submit(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Submit one task, or a list, all or nothing. Answers ids, after they are committed."""
    body = await read_json(request, max_bytes=services.settings.max_body_bytes)
    requests, listed = parse.tasks(body, max_tasks=services.settings.max_tasks_per_submit)
    accepted = await services.intake.submit(requests, key=key)
    shown = [render.accepted(one, asked) for one, asked in zip(accepted, requests, strict=True)]
    status = 200 if all(one.duplicate for one in accepted) else 202
    return json_response({"object": "list", "data": shown} if listed else shown[0], status=status)


@router.get("")
async def query(
    services: ServicesDep,
    key: KeyDep,
    id: Annotated[str | None, fastapi.Query(description="up to 1,000 ids, comma-separated")] = None,  # noqa: A002
    wait: Wait = 0,
    state: Annotated[str | None, fastapi.Query(description="a state, or PROCESSING, SUCCESS, FAIL")] = None,
    model: str | None = None,
    label: str | None = None,
    batch_id: str | None = None,
    custom_id: str | None = None,
    request_id: str | None = None,
    created_from: pydantic.AwareDatetime | None = None,
    created_to: pydantic.AwareDatetime | None = None,
    limit: Annotated[int, fastapi.Query(ge=1, le=MAX_PAGE)] = 50,
    after: Annotated[str | None, fastapi.Query(description="the last id of the page before")] = None,
    include: Annotated[str | None, fastapi.Query(description="'result': with the answers")] = None,
) -> fastapi.Response:
    """Many tasks by id, or a page of a filtered list, newest first."""
    if id is not None:
        return await _by_ids(services, key, id, wait_s=wait)
    where = Filter(
        states=_states(state),
        model=model,
        label=label,
        batch_id=require_id(batch_id, kind="batch") if batch_id else None,
        custom_id=custom_id,
        request_id=request_id,
        created_from=created_from,
        created_to=created_to,
    )
    last = require_id(after) if after else None
    async with services.database.read() as connection:
        found = await tasks.page(connection, project_id=key.project_id, where=where, limit=limit + 1, after=last)
    page, currency = found[:limit], services.settings.currency
    with_result = include == "result"
    data = [render.task(one, currency=currency, with_result=with_result, with_attempts=False) for one in page]
    last_id = str(page[-1].id) if page else None
    return json_response({"object": "list", "data": data, "has_more": len(found) > limit, "last_id": last_id})


@router.get("/{task_id}")
async def get(task_id: str, services: ServicesDep, key: KeyDep, wait: Wait = 0) -> fastapi.Response:
    """One task: its state, result, attempts and cost."""
    one = await read_task(services, key, require_id(task_id), wait_s=wait)
    return json_response(render.task(one, currency=services.settings.currency))


@router.post("/{task_id}/cancel")
async def cancel(task_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """A queued task ends at once; a running one when its worker has stopped it. What has ended stays as it is."""
    await cancel_task(services, key, require_id(task_id))
    one = await read_task(services, key, require_id(task_id))
    return json_response(render.task(one, currency=services.settings.currency))


async def _by_ids(services: Services, key: Key, text: str, *, wait_s: float) -> fastapi.Response:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not 1 <= len(names) <= MAX_IDS:
        raise InvalidRequestError(f"id: {len(names)} ids", field="id", allowed=f"1 to {MAX_IDS} ids, comma-separated")
    ids = {name: parse_id(name) for name in names}
    known = [i for i in ids.values() if i is not None]
    found = await read_tasks(services, key, known, wait_s=wait_s)
    data = [render.task(found[i], currency=services.settings.currency) for i in known if i in found]
    missing = [name for name, i in ids.items() if i not in found]
    return json_response({"object": "list", "data": data, "missing": missing})


def _states(text: str | None) -> frozenset[TaskState] | None:
    if text is None:
        return None
    if text in STATUSES:
        return STATUSES[text]
    try:
        return frozenset({TaskState(text)})
    except ValueError:
        allowed = ", ".join((*TaskState, *STATUSES))
        raise InvalidRequestError(f"state: unknown state {text!r}", field="state", allowed=allowed) from None
