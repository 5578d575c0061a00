"""Makes a batch of a file, in whichever dialect it was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from gateway.batches.lines import URLS
from gateway.files import records, uploads
from gateway.services import Services
from tollgate.domain.addresses import check_url
from tollgate.domain.batches import Batch, NewBatch, Via
from tollgate.domain.errors import InvalidRequestError, PermissionDeniedError
from tollgate.domain.ids import new_id
from tollgate.domain.states import Priority
from tollgate.domain.tasks import Key
from tollgate.store import batches, files
from tollgate.store.files import File

REPEATED_WITHIN = timedelta(seconds=60)
"""The same file in the same words within it is a client that had no answer: ZhipuAI's SDK sends a POST up to four
times by itself."""
DEFAULT_WINDOW_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """One batch to run, as every dialect says it."""

    input_file_id: UUID | None = None
    tasks: Sequence[Mapping[str, Any]] | None = None
    """Lines in place of a file: one of the two is given."""
    endpoint: str | None = None
    """One of `lines.URLS`; None: each line says its own."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Of lines that do not say it: model, label, system, parameters."""
    via: Via = Via.DIRECT
    priority: Priority = Priority.BULK
    strict: bool = False
    max_cost_nano: int | None = None
    metadata: Mapping[str, Any] | None = None
    callback_url: str | None = None
    window_s: int = DEFAULT_WINDOW_S
    request_id: str | None = None
    delete_input: bool = False
    name: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what was asked; not of how its end is told."""
        given = str(self.input_file_id) if self.tasks is None else hashlib.sha256(orjson.dumps(self.tasks)).hexdigest()
        content = (
            given, self.endpoint, self.defaults, self.via, self.priority, self.strict,
            self.max_cost_nano, self.metadata, self.window_s, self.delete_input, self.name,
        )  # fmt: skip
        return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def create(services: Services, key: Key, asked: BatchRequest) -> tuple[Batch, bool]:
    """The batch, and whether it is new: one that was asked for a moment ago in the same words is not made twice.

    Raises InvalidRequestError, PermissionDeniedError, NotFoundError for the file, RequestIdConflictError. A list of
    tasks is kept as a file first: FileTooLargeError, FilesUnavailableError."""
    _check(services, key, asked)
    if asked.input_file_id is not None:
        return await _of_file(services, key, asked, asked.input_file_id)
    kept = await uploads.keep(services, key, asked.tasks or [])
    is_new = False
    try:
        made, is_new = await _of_file(services, key, asked, kept.id)
        return made, is_new
    finally:
        if not is_new:
            await records.delete(services, key, kept.id)


async def _of_file(services: Services, key: Key, asked: BatchRequest, file_id: UUID) -> tuple[Batch, bool]:
    now = datetime.now(UTC)
    async with services.database.write() as connection:
        file = await files.find(connection, file_id, project_id=key.project_id, now=now, hold=True)
        new = _new(asked, key, file, now=now)
        if asked.request_id is None:
            known = await batches.repeated(connection, new, since=now - REPEATED_WITHIN)
            if known is not None:
                return known, False
        made, is_new = await batches.add(connection, new)
    services.batch_intake.wake()
    return made, is_new


def require_runnable(services: Services, *, endpoint: str | None, via: Via) -> None:
    """Raises InvalidRequestError for what no batch of this installation can be."""
    if endpoint is not None and endpoint not in URLS:
        raise InvalidRequestError(
            f"endpoint: a batch cannot call {endpoint[:100]!r}", field="endpoint", allowed=" or ".join(URLS)
        )
    if via is Via.LOCAL and not any(one.kind == "local" for one in services.catalog.upstreams.values()):
        raise InvalidRequestError(
            "via local: this installation has no local upstream", field="via", allowed="'direct' or 'upstream_batch'"
        )


def require_input(file: File) -> int:
    """Its lines. Raises InvalidRequestError for a file that was not uploaded."""
    if file.purpose != "batch" or file.lines is None:
        raise InvalidRequestError(
            f"file {file.id} is the output of a batch, no input for one", field="input_file_id",
            allowed="a file that was uploaded with purpose 'batch'",
        )  # fmt: skip
    return file.lines


def _check(services: Services, key: Key, asked: BatchRequest) -> None:
    require_runnable(services, endpoint=asked.endpoint, via=asked.via)
    if asked.priority is Priority.INTERACTIVE and not key.may_interactive:
        raise PermissionDeniedError("this key may not submit with priority interactive; leave priority out")
    if asked.callback_url is not None:
        check_url(asked.callback_url, rules=services.settings.callback_rules, field="callback_url")


def _new(asked: BatchRequest, key: Key, file: File, *, now: datetime) -> NewBatch:
    return NewBatch(
        id=new_id(),
        project_id=key.project_id,
        key_id=key.id,
        request_id=asked.request_id,
        digest=asked.digest,
        endpoint=asked.endpoint or "",
        name=asked.name or file.filename,
        input_file_id=file.id,
        input_bytes=file.bytes,
        total=require_input(file),
        delete_input=asked.delete_input,
        via=asked.via,
        priority=asked.priority,
        strict=asked.strict,
        defaults=orjson.dumps(asked.defaults).decode() if asked.defaults else None,
        max_cost_nano=asked.max_cost_nano,
        metadata=orjson.dumps(asked.metadata).decode() if asked.metadata else None,
        callback_url=asked.callback_url,
        window_s=asked.window_s,
        created_at=now,
        expires_at=now + timedelta(seconds=asked.window_s),
    )
