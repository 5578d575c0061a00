"""An upload: from a request to a file that is kept and has its row. The body is read as it comes, in flat memory.

First the bytes are durable, then the row is committed, then the client is answered. Whoever dies in between leaves
bytes without a row, which `tidying` removes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import fastapi
import orjson

from gateway.files import names
from gateway.files.contents import checked, too_large
from gateway.files.fields import BATCH, lifetime, require_purpose
from gateway.files.form import Form
from gateway.files.tally import Written
from gateway.services import Services
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.ids import new_id
from tollgate.domain.tasks import Key
from tollgate.store import files
from tollgate.store.files import File

FORM_BYTES = 256 * 1024
"""Of a form beside its file: more than its fields can come to."""


async def receive_form(request: fastapi.Request, services: Services, key: Key, *, purpose: str | None = None) -> File:
    """A form with a file, as SDKs and browsers send it. `purpose` is that of a form that names none; None: it must.

    Raises InvalidRequestError, FileTooLargeError, FilesUnavailableError, StoreUnavailableError, ClientDisconnect."""
    form = Form(request.headers.get("content-type", ""), _body(request, services, beside=FORM_BYTES))
    await form.find_file()
    if "purpose" in form.fields:
        require_purpose(form.fields["purpose"])  # before its gigabytes have come

    async def content() -> AsyncIterator[bytes]:
        async for chunk in form.file():
            yield chunk
        # Fields may stand after the file. Where they are wrong, nothing is kept either.
        require_purpose(form.fields.get("purpose", purpose))
        lifetime(form.fields)

    file_id = new_id()
    written = await _write(services, file_id, content())
    return await _add(services, key, file_id, written, filename=form.filename, lives=lifetime(form.fields))


async def receive_raw(request: fastapi.Request, services: Services, key: Key, *, filename: str | None) -> File:
    """The body is the file. Raises what `receive_form` does."""
    file_id = new_id()
    written = await _write(services, file_id, _body(request, services))
    return await _add(services, key, file_id, written, filename=filename, lives=None)


async def keep(services: Services, key: Key, lines: Iterable[Mapping[str, Any]]) -> File:
    """A file of a list. Raises FileTooLargeError, FilesUnavailableError, StoreUnavailableError."""

    async def content() -> AsyncIterator[bytes]:
        for line in lines:
            yield orjson.dumps(line) + b"\n"

    file_id = new_id()
    written = await _write(services, file_id, content())
    return await _add(services, key, file_id, written, filename="tasks.jsonl", lives=None)


async def _write(services: Services, file_id: UUID, content: AsyncIterator[bytes]) -> Written:
    return await services.files.write(file_id, checked(content, max_bytes=services.settings.max_file_bytes))


async def _body(request: fastapi.Request, services: Services, *, beside: int = 0) -> AsyncIterator[bytes]:
    """As it comes. Of `beside` bytes more than a file may have."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise InvalidRequestError(
            f"the body is compressed ({encoding}); upload it uncompressed", field="content-encoding", allowed="identity"
        )
    limit = services.settings.max_file_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit + beside:
        raise too_large(limit)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit + beside:
            raise too_large(limit)
        yield chunk


async def _add(
    services: Services, key: Key, file_id: UUID, written: Written, *, filename: str | None, lives: timedelta | None
) -> File:
    """Its row. Where this fails the bytes stay: whether it was committed is not known then."""
    now = datetime.now(UTC)
    days = services.settings.file_days
    limits = [limit for limit in (lives, timedelta(days=days) if days else None) if limit is not None]
    made = File(
        id=file_id,
        project_id=key.project_id,
        key_id=key.id,
        filename=names.cleaned(filename),
        purpose=BATCH,
        bytes=written.bytes,
        lines=written.lines,
        sha256=written.sha256,
        batch_id=None,
        created_at=now,
        expires_at=now + min(limits) if limits else None,
    )
    async with services.database.write() as connection:
        await files.add(connection, made)
    return made
