"""What an upstream says of a batch, and the lines of its files: read in every form that was seen. Pure.

ZhipuAI's batch times come in seconds or milliseconds, the id of no file is null or '', request_counts is an object, a
number (with the counts beside it) or null. An error line has its code in response.body.error, in error, beside
custom_id, or in a sentence. What cannot be read costs only itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from tollgate.domain.errors import UpstreamError
from tollgate.domain.values import value

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
KNOWN = ENDED | {"validating", "in_progress", "finalizing", "cancelling"}
NO_SECONDS = 100_000_000_000
"""A larger number counts milliseconds: in seconds it were the year 5138."""
_OURS = re.compile(r"([0-9a-f]{32})-([1-9]\d{0,8})", re.ASCII)
_NAMED = re.compile(rb'"custom_id"\s*:\s*"([0-9a-f]{32}-[1-9]\d{0,8})"')
_CODE = re.compile(r"\[(\w{3,40})\]")
_CODES, _MESSAGES = ("code", "error_code", "err_code"), ("message", "msg", "error_message", "error_msg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A batch as its upstream shows it."""

    id: str
    status: str
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: datetime | None
    mark: str | None
    """Ours, from its metadata."""
    completed: int | None = None
    """Lines that are answered so far, if it says so."""
    error: str | None = None
    """Why it failed as a whole."""

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@value
class LineAnswer:
    """What a line of an output or error file says of one of ours. One of `result` and `error` is set."""

    task_id: UUID
    attempt: int
    status: int
    result: str | None = None
    """The answer, JSON."""
    body: Mapping[str, Any] | None = None
    """The same, read."""
    error: UpstreamError | None = None

    @property
    def unreadable(self) -> bool:
        """It may be an answer that was paid."""
        return self.error is not None and self.error.kind == "garbage"


def read_batch(told: Mapping[str, Any], *, mark_name: str) -> Seen:
    """Raises UpstreamError (garbage) for what is no batch."""
    identifier, status = told.get("id"), told.get("status")
    if not isinstance(identifier, str) or not identifier or status not in KNOWN:
        raise UpstreamError("the answer is no batch", kind="garbage")
    metadata = told.get("metadata")
    mark = metadata.get(mark_name) if isinstance(metadata, Mapping) else None
    counts = told.get("request_counts")
    beside = counts if isinstance(counts, Mapping) else told
    return Seen(
        id=identifier,
        status=status,
        input_file_id=_id(told.get("input_file_id")),
        output_file_id=_id(told.get("output_file_id")),
        error_file_id=_id(told.get("error_file_id")),
        created_at=moment(told.get("created_at")),
        mark=mark if isinstance(mark, str) else None,
        completed=_count(beside.get("completed")),
        error=_whole_error(told.get("errors")),
    )


def moment(value: object) -> datetime | None:
    """Of seconds or milliseconds since 1970; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return None
    try:
        return datetime.fromtimestamp(value / 1000 if value >= NO_SECONDS else value, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None


def read_line(raw: bytes) -> LineAnswer | None:
    """What a line says. One that is no JSON, but names its custom_id, is an answer that cannot be read; None: there is
    no telling whose it is."""
    try:
        told = _loaded(raw)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return _unreadable(raw)
    named = _OURS.fullmatch(str(told.get("custom_id") or told.get("customId") or ""))
    if named is None:
        return None
    task_id, attempt = UUID(named[1]), int(named[2])
    response = told.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    status = _count(response.get("status_code")) if isinstance(response, dict) else None
    if isinstance(body, str):
        body = _body_of(body)
    if isinstance(body, dict) and "choices" in body and (status or 200) < 300:
        return LineAnswer(task_id=task_id, attempt=attempt, status=status or 200, result=_dumped(body), body=body)
    error = _error(told, body, status=status)
    return LineAnswer(task_id=task_id, attempt=attempt, status=status or 0, error=error, body=_mapping(body))


def _unreadable(raw: bytes) -> LineAnswer | None:
    found = _NAMED.search(raw)
    named = _OURS.fullmatch(found[1].decode()) if found else None
    if named is None:
        return None
    error = UpstreamError("its line in the batch's file cannot be read", kind="garbage")
    return LineAnswer(task_id=UUID(named[1]), attempt=int(named[2]), status=0, error=error)


def _error(told: Mapping[str, Any], body: object, *, status: int | None) -> UpstreamError:
    """By the innermost place that says something."""
    places = (_mapping(body).get("error"), told.get("error"), body, told)
    for place in places:
        code, message = _said(place)
        if code or message:
            return UpstreamError(message or f"failed with {code}", code=code, http_status=status)
    if isinstance(body, dict):  # a 200 that holds no answer
        return UpstreamError("the answer has no choices", http_status=status, kind="garbage")
    return UpstreamError("the upstream's batch failed it without a word", http_status=status, code="batch_failed")


def _said(place: object) -> tuple[str | None, str | None]:
    if isinstance(place, str) and place:
        found = _CODE.search(place)
        return (found[1] if found else None), place
    if not isinstance(place, Mapping):
        return None, None
    code = next((place[name] for name in _CODES if isinstance(place.get(name), str | int)), None)
    message = next((place[name] for name in _MESSAGES if isinstance(place.get(name), str)), None)
    return (str(code) if code not in (None, "") else None), message or None


def _loaded(raw: bytes) -> Any:
    """orjson refuses escaped halves of surrogate pairs, which models write; those lines were paid as well."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return json.loads(raw)


def _dumped(body: Mapping[str, Any]) -> str:
    try:
        return orjson.dumps(body).decode()
    except TypeError:
        return json.dumps(body)


def _body_of(text: str) -> object:
    try:
        return _loaded(text.encode("utf-8", "surrogatepass"))
    except ValueError:
        return text


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def _whole_error(errors: object) -> str | None:
    listed = errors.get("data") if isinstance(errors, Mapping) else errors
    first = listed[0] if isinstance(listed, list) and listed else None
    code, message = _said(first)
    line = first.get("line") if isinstance(first, Mapping) else None
    told = ": ".join(part for part in (code, message) if part)
    return f"line {line}: {told}" if told and isinstance(line, int) else told or None
