"""POST /chat/completions: direct calls and streams.

A call is billed once its answer is computed and before it is sent. So a cut answer is billed, a stream is billed
whole with its first chunk, and so is a call whose client left during the latency: the real service would go on.
"""

from __future__ import annotations

import asyncio
import time

import orjson
from aiohttp import web

from tollgate.simulator import answering, answers, calls, streaming, wire
from tollgate.simulator.answers import Answer
from tollgate.simulator.calls import ChatCall
from tollgate.simulator.cloud import CLOUD, Cloud
from tollgate.simulator.codes import RefusalError
from tollgate.simulator.faults import Fate


async def complete(request: web.Request) -> web.StreamResponse:
    """Check, decide the call's fate, answer or replay."""
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    body = calls.parse_body(await request.read())
    call = calls.parse_chat(body, knows=cloud.knows, settings=cloud.settings)
    number = cloud.next_number()
    fate = cloud.fate_of(call, number=number)
    cloud.refuse(fate)
    earlier = await _earlier(cloud, call, key_id=key_id)
    if earlier is not None:
        return await _send(request, earlier, cloud=cloud, call=call, fate=fate)
    with cloud.meter.occupied(limit=cloud.settings.max_in_flight):
        answer = await _generate(cloud, call, key_id=key_id, fate=fate, number=number)
        return await _send(request, answer, cloud=cloud, call=call, fate=fate)


async def _earlier(cloud: Cloud, call: ChatCall, *, key_id: str) -> Answer | None:
    """The answer to replay for a repeated request_id. Raises RefusalError 1231 where the settings reject it."""
    policy = cloud.settings.direct_repeat
    if policy == "bill" or call.request_id is None:
        return None
    earlier = cloud.answers.find(call.request_id, key_id=key_id)
    if earlier is None or (policy == "reject_running" and earlier.done()):
        return None
    if policy == "replay":
        return await asyncio.shield(earlier)
    raise RefusalError("1231")


async def _generate(cloud: Cloud, call: ChatCall, *, key_id: str, fate: Fate, number: int) -> Answer:
    """Compose the answer, let its time pass, bill it."""
    identifier = cloud.next_identifier()
    answer = answers.compose(call, identifier=identifier, created=int(time.time()), kind=fate.kind)
    bills = cloud.bills(fate)
    promise = None
    if bills and call.request_id is not None and cloud.settings.direct_repeat != "bill":
        limit = cloud.settings.results_max
        promise = cloud.answers.promise(call.request_id, key_id=key_id, limit=limit)
    try:
        await _pass_time(cloud, call, answer, number=number)
        if bills:
            charge(cloud, answer)
        if promise is not None:
            promise.set_result(answer)
    finally:
        if promise is not None and not promise.done():
            promise.cancel()
            cloud.answers.forget(call.request_id or "", key_id=key_id)
    return answer


async def _pass_time(cloud: Cloud, call: ChatCall, answer: Answer, *, number: int) -> None:
    """The latency; for a whole answer also the time of its tokens, which a stream spends between its chunks."""
    seconds = cloud.latency_s(call, number=number)
    if not call.stream:
        seconds += cloud.generation_s(answer.usage)
    if seconds > 0:
        await asyncio.sleep(seconds)


def charge(cloud: Cloud, answer: Answer) -> None:
    """Bill an answer."""
    cloud.charge(
        answer.usage,
        model=answer.model,
        request_id=answer.request_id,
        identifier=answer.identifier,
        created=answer.created,
    )


async def _send(
    request: web.Request, answer: Answer, *, cloud: Cloud, call: ChatCall, fate: Fate
) -> web.StreamResponse:
    if call.stream:
        return await streaming.send(request, answer, cloud=cloud, fate=fate)
    return await answering.send(request, orjson.dumps(wire.completion(answer)), cloud=cloud, fate=fate)
