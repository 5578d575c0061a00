"""POST /async/chat/completions and GET /async-result/{id}.

A submit answers at once; the task is PROCESSING until its latency and generation have passed, then it is billed and
its result is kept. A submit that a fault spoils unbilled (a 500, garbage, a hang) makes no task; one that is cut
does, and its client does not learn the id.
"""

from __future__ import annotations

import asyncio
import time

import orjson
from aiohttp import web

from tollgate.simulator import answering, answers, calls, direct, wire
from tollgate.simulator.answers import Answer
from tollgate.simulator.calls import ChatCall
from tollgate.simulator.cloud import CLOUD, Cloud
from tollgate.simulator.codes import RefusalError, error_object
from tollgate.simulator.faults import Fate, FaultKind
from tollgate.simulator.memory import Task


async def submit(request: web.Request) -> web.StreamResponse:
    """Check, decide the fate, start a task or find the one of a repeated request_id, answer its id."""
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    body = calls.parse_body(await request.read())
    call = calls.parse_chat(body, knows=cloud.knows, settings=cloud.settings)
    number = cloud.next_number()
    fate = cloud.fate_of(call, number=number)
    cloud.refuse(fate)
    task = _earlier(cloud, call, key_id=key_id)
    if task is None:
        task = _start(cloud, call, key_id=key_id, fate=fate, number=number)
    return await answering.send(request, orjson.dumps(_status(task, "PROCESSING")), cloud=cloud, fate=fate)


def _earlier(cloud: Cloud, call: ChatCall, *, key_id: str) -> Task | None:
    """The task of a repeated request_id. Raises RefusalError 1231 where the settings reject it."""
    policy = cloud.settings.async_repeat
    if policy == "bill" or call.request_id is None:
        return None
    earlier = cloud.tasks.find_by_request(call.request_id, key_id=key_id)
    if earlier is None or (policy == "reject_running" and earlier.result is not None):
        return None
    if policy == "replay":
        return earlier
    raise RefusalError("1231")


def _start(cloud: Cloud, call: ChatCall, *, key_id: str, fate: Fate, number: int) -> Task:
    """A task and, unless the submit is spoiled unbilled, its place in the book and its end on the clock."""
    identifier = cloud.next_identifier()
    answer = answers.compose(call, identifier=identifier, created=int(time.time()), kind=fate.kind)
    task = Task(
        identifier=identifier,
        request_id=answer.request_id,
        key_id=key_id,
        model=call.model,
        asked_at_s=time.monotonic(),
    )
    if not cloud.bills(fate):
        return task
    cloud.meter.enter(limit=cloud.settings.max_in_flight)
    cloud.meter.processing += 1
    cloud.tasks.add(task, limit=cloud.settings.results_max)
    seconds = cloud.latency_s(call, number=number) + cloud.generation_s(answer.usage)
    if seconds > 0:
        asyncio.get_running_loop().call_later(seconds, _finish, cloud, task, answer, fate)
    else:
        _finish(cloud, task, answer, fate)
    return task


def _finish(cloud: Cloud, task: Task, answer: Answer, fate: Fate) -> None:
    """Bill the answer and write the result; both happen once."""
    cloud.meter.leave()
    cloud.meter.processing -= 1
    failed = fate.kind is FaultKind.TASK_FAIL
    if not failed or cloud.settings.bill_errors:
        direct.charge(cloud, answer)
    if failed:
        task.result = orjson.dumps(_status(task, "FAIL") | {"error": error_object("1234")})
        return
    body = wire.completion(answer)
    if not cloud.settings.omit_task_status:
        body["task_status"] = "SUCCESS"
    task.result = orjson.dumps(body)


async def retrieve(request: web.Request) -> web.StreamResponse:
    """The task's state, and its result once there is one; the same bytes each time."""
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    fate = cloud.fate_of_poll()
    cloud.refuse(fate)
    task = cloud.tasks.find(request.match_info["id"], key_id=key_id)
    if task is None:
        raise cloud.unknown("任务不存在")
    task.asked_at_s = time.monotonic()
    body = task.result or orjson.dumps(_status(task, "PROCESSING"))
    return await answering.send(request, body, cloud=cloud, fate=fate)


def _status(task: Task, status: str) -> dict[str, object]:
    return {"id": task.identifier, "request_id": task.request_id, "model": task.model, "task_status": status}
