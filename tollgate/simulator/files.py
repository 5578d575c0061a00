"""/files: upload, list, show, delete, content. A file is its key's own."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import BodyPartReader, web

from tollgate.simulator import answering, checks, paging
from tollgate.simulator.cloud import CLOUD, Cloud
from tollgate.simulator.codes import RefusalError
from tollgate.simulator.faults import FaultKind
from tollgate.simulator.stored_files import PIECE, StoredFile

PURPOSES = frozenset({"batch", "fine-tune", "retrieval", "file-extract", "code-interpreter", "agent"})
_FIELD_MAX = 1_000


async def upload(request: web.Request) -> web.StreamResponse:
    """A multipart form with `purpose` and `file`. Refused: 1213, 1214, 435 for a file that is too large."""
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    fate = cloud.fate_of_batch_call("file_upload")
    cloud.refuse(fate)
    file = await _receive(request, cloud=cloud, key_id=key_id)
    if fate.kind is not FaultKind.SERVER_ERROR:
        cloud.files.add(file)
    return await answering.send(request, orjson.dumps(file.as_json()), cloud=cloud, fate=fate)


async def _receive(request: web.Request, *, cloud: Cloud, key_id: str) -> StoredFile:
    if not request.content_type.startswith("multipart/"):
        raise RefusalError("1210", detail="API 调用参数有误，请检查文档。请使用 multipart/form-data")
    file = StoredFile(identifier=f"file-{cloud.next_identifier()}", key_id=key_id, filename="", purpose="")
    received = False
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            raise checks.invalid("file")
        if part.name == "purpose":
            file.purpose = (await part.read_chunk(_FIELD_MAX)).decode(errors="replace")
        elif part.name == "file":
            received = True
            file.filename = part.filename or "file"
            await _fill(file, part, bytes_max=cloud.settings.batches.bytes_max)
    if not received:
        raise checks.missing("file")
    if file.purpose not in PURPOSES:
        raise checks.invalid("purpose") if file.purpose else checks.missing("purpose")
    return file


async def _fill(file: StoredFile, part: BodyPartReader, *, bytes_max: int) -> None:
    while piece := await part.read_chunk(PIECE):
        if file.size + len(piece) > bytes_max:
            raise RefusalError("1210", detail="文件大小超过 100MB", http_status=435)
        file.append(piece)


async def show_all(request: web.Request) -> web.StreamResponse:
    """This key's files, the newest first; `purpose`, `limit`, `after`."""
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    fate = cloud.fate_of_batch_call("file_list")
    cloud.refuse(fate)
    found = cloud.files.newest(key_id=key_id, purpose=request.query.get("purpose"))
    files, more = paging.page(found, request.query)
    body = paging.as_json([file.as_json() for file in files], more=more)
    return await answering.send(request, orjson.dumps(body), cloud=cloud, fate=fate)


async def show(request: web.Request) -> web.Response:
    """One file."""
    cloud = request.app[CLOUD]
    file = _file(request, key_id=cloud.authenticate(request))
    return web.Response(body=orjson.dumps(file.as_json()), headers=answering.JSON_TYPE)


async def delete(request: web.Request) -> web.StreamResponse:
    """Forget a file."""
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    fate = cloud.fate_of_batch_call("file_delete")
    cloud.refuse(fate)
    file = _file(request, key_id=key_id)
    if fate.kind is not FaultKind.SERVER_ERROR:
        cloud.files.remove(file.identifier)
    body = {"id": file.identifier, "object": "file", "deleted": True}
    return await answering.send(request, orjson.dumps(body), cloud=cloud, fate=fate)


async def content(request: web.Request) -> web.StreamResponse:
    """The bytes of a file, as they came; half of them and a closed connection for a cut."""
    cloud = request.app[CLOUD]
    key_id = cloud.authenticate(request)
    fate = cloud.fate_of_batch_call("file_content")
    cloud.refuse(fate)
    file = _file(request, key_id=key_id)
    spoiled = await answering.spoil(request, file.read(offset=0, size=PIECE), cloud=cloud, fate=fate)
    if spoiled is not None:
        return spoiled
    cut = fate.kind is FaultKind.CUT
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = file.size
    await response.prepare(request)
    for piece in file.pieces(end=file.size // 2 if cut else None):
        await response.write(piece)
    if cut:
        answering.hang_up(request)
    return response


def _file(request: web.Request, *, key_id: str) -> StoredFile:
    cloud: Any = request.app[CLOUD]
    file: StoredFile | None = cloud.files.find(request.match_info["id"], key_id=key_id)
    if file is None:
        raise cloud.unknown("文件不存在")
    return file
