"""A file's content as an answer: streamed, and from a given byte on where a download goes on after a break."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from urllib.parse import quote

import fastapi
from fastapi.responses import StreamingResponse

from gateway.batches.views import content_of_view
from gateway.services import Services
from tollgate.domain.errors import FilesUnavailableError
from tollgate.store.files import File

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def content_of(request: fastapi.Request, services: Services, one: File) -> fastapi.Response:
    """200 with all of it, 206 with the one range that was asked for, or 416. Several ranges at once are answered with
    all of it, as RFC 9110 (14.2) allows; so is a view of a batch's results. Raises FilesUnavailableError."""
    if one.batch_id is not None:
        return await content_of_view(services, one)
    if not await services.files.exists(one.id):
        raise FilesUnavailableError(
            f"the content of file {one.id} is not in this gateway's folder of files (TOLLGATE_FILES must be the same "
            "folder for all gateways)"
        )
    headers = {
        "accept-ranges": "bytes",
        "etag": f'"{one.sha256}"',
        "content-disposition": f"attachment; filename*=UTF-8''{quote(one.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    asked = _asked(request, one, headers["etag"])
    if asked is None:
        return _streamed(services, one, 0, one.bytes, status=200, headers=headers)
    start, end = asked
    if start >= end:
        return fastapi.Response(status_code=416, headers={**headers, "content-range": f"bytes */{one.bytes}"})
    headers["content-range"] = f"bytes {start}-{end - 1}/{one.bytes}"
    return _streamed(services, one, start, end, status=206, headers=headers)


def _asked(request: fastapi.Request, one: File, etag: str) -> tuple[int, int] | None:
    """From and to, exclusive; None: all of it."""
    found = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if found is None or found[0] == "bytes=-" or request.headers.get("if-range", etag) != etag:
        return None
    if not found[1]:
        return max(0, one.bytes - int(found[2])), one.bytes
    start, end = int(found[1]), min(int(found[2]) + 1, one.bytes) if found[2] else one.bytes
    return None if found[2] and int(found[2]) < start else (start, end)


def _streamed(
    services: Services, one: File, start: int, end: int, *, status: int, headers: dict[str, str]
) -> StreamingResponse:
    headers["content-length"] = str(end - start)
    body = _between(services.files.open_at(one.id, start), end - start)
    return StreamingResponse(body, status, headers, media_type="application/octet-stream")


async def _between(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece[:size]
        size -= len(piece)
        if size <= 0:
            return
