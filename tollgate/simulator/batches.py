"""/batches: create, retrieve, list, cancel. A batch is its key's own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import orjson
from aiohttp import web

from tollgate.simulator import answering, batch_lines, batch_running, calls, checks, paging
from tollgate.simulator.batch_book import STOPPABLE, WINDOW, Batch, Status
from tollgate.simulator.cloud import CLOUD, Cloud
from tollgate.simulator.faults import FaultKind

PAIRS_MAX, KEY_MAX, VALUE_MAX = 16, 64, 512
"""Of the metadata: pairs, and characters of a key and of a value."""


async def create(request: web.Request) -> web.StreamResponse:
    """Start a batch over an uploaded file. Refused: 1213 and 1214 by the field, 404 for a file that is not there."""
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    fate = cloud.fate_of_batch_call("batch_create")
    cloud.refuse(fate)
    batch = _parse(calls.parse_body(await request.read()), cloud=cloud, key_id=key_id)
    body = orjson.dumps(batch.as_json())
    if fate.kind is not FaultKind.SERVER_ERROR:
        cloud.batches.add(batch, life=asyncio.create_task(batch_running.live(cloud, batch)))
    return await answering.send(request, body, cloud=cloud, fate=fate)


def _parse(body: Mapping[str, object], *, cloud: Cloud, key_id: str) -> Batch:
    for field in ("input_file_id", "endpoint"):
        if body.get(field) is None:
            raise checks.missing(field)
    endpoint = body["endpoint"]
    if not isinstance(endpoint, str) or batch_lines.endpoint_of(endpoint) is None:
        raise checks.invalid("endpoint")
    if body.get("completion_window") not in {None, WINDOW}:
        raise checks.invalid("completion_window")
    deletes_input = body.get("auto_delete_input_file")
    if deletes_input not in {None, True, False}:
        raise checks.invalid("auto_delete_input_file")
    file = cloud.files.find(str(body["input_file_id"]), key_id=key_id)
    if file is None:
        raise cloud.unknown("文件不存在")
    if file.purpose != "batch":
        raise checks.invalid("input_file_id")
    return Batch(
        identifier=f"batch_{cloud.next_identifier()}",
        key_id=key_id,
        endpoint=endpoint,
        input=file,
        deletes_input=deletes_input is not False,
        metadata=_metadata(body.get("metadata")),
        behaviour=cloud.settings.batches,
    )


def _metadata(value: object) -> Mapping[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > PAIRS_MAX:
        raise checks.invalid("metadata")
    for key, text in value.items():
        if len(key) > KEY_MAX or not isinstance(text, str) or len(text) > VALUE_MAX:
            raise checks.invalid("metadata")
    return value


async def retrieve(request: web.Request) -> web.StreamResponse:
    """One batch as it stands."""
    return await _show(request, name="batch_retrieve")


async def show_all(request: web.Request) -> web.StreamResponse:
    """This key's batches, the newest first; `limit`, `after`."""
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    fate = cloud.fate_of_batch_call("batch_list")
    cloud.refuse(fate)
    batches, more = paging.page(cloud.batches.newest(key_id=key_id), request.query)
    body = paging.as_json([batch.as_json() for batch in batches], more=more)
    return await answering.send(request, orjson.dumps(body), cloud=cloud, fate=fate)


async def cancel(request: web.Request) -> web.StreamResponse:
    """Stop a batch; what is finished is kept. After its end this changes nothing."""
    return await _show(request, name="batch_cancel")


async def _show(request: web.Request, *, name: str) -> web.StreamResponse:
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    fate = cloud.fate_of_batch_call(name)
    cloud.refuse(fate)
    batch = cloud.batches.find(request.match_info["id"], key_id=key_id)
    if batch is None:
        raise cloud.unknown("批处理任务不存在")
    stops = name == "batch_cancel" and fate.kind is not FaultKind.SERVER_ERROR
    if stops and batch.status in STOPPABLE and not batch.errors:
        batch.enter(Status.CANCELLING)
        batch.stop.set()
    return await answering.send(request, orjson.dumps(batch.as_json()), cloud=cloud, fate=fate)
