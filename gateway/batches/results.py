"""The lines of a batch as an answer: OpenAI's output lines, native JSON lines, or a table; streamed as they are read.

What an upstream answered goes on as it stands where that is what is told: it is parsed for its text, or where a dialect
tells it in words of its own. A line of JSON is one line for everyone, also for who cuts at U+2028 as at a line feed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from itertools import zip_longest
from typing import Any, Protocol

import orjson
from fastapi.responses import StreamingResponse

from gateway import answers, openai_answers
from gateway.batches.lines import URLS, Dialect
from gateway.batches.result_pages import AnyLine, Page, Pages
from gateway.ends import end_of
from tollgate.domain import shown
from tollgate.domain.batches import Batch
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store.batch_results import Line

AT_ONCE = 100
"""Lines that are written before others have their turn."""
INVALID = "invalid"
"""Beside the states of tasks, of a line that became none."""
ERASED = ("erased", "the answer was erased")
BATCH_CODES = {TaskState.EXPIRED: "batch_expired", TaskState.CANCELLED: "batch_cancelled"}
"""What OpenAI calls the ends of lines that were not run."""
_BREAKS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
"""They stand in strings only, where they may be escaped."""


class Form(Protocol):
    """How lines are written."""

    media_type: str
    head: bytes
    """Before the first."""

    def written(self, page: Page) -> bytes: ...


async def stream(pages: Pages, form: Form, *, headers: Mapping[str, str]) -> StreamingResponse:
    """Nothing is read ahead of the client. What fails before the first line is raised here; later the answer breaks
    off, so that nobody takes a part for the whole."""
    first = await anext(pages, None)
    told = {**headers, "x-content-type-options": "nosniff"}
    return StreamingResponse(_written(first, pages, form), headers=told, media_type=form.media_type)


async def _written(page: Page | None, pages: Pages, form: Form) -> AsyncGenerator[bytes]:
    if form.head:
        yield form.head
    async with contextlib.aclosing(pages):
        while page is not None:
            for start in range(0, len(page.lines), AT_ONCE):
                within = slice(start, start + AT_ONCE)
                yield form.written(Page(page.lines[within], page.cursors[within]))
                await asyncio.sleep(0)
            page = await anext(pages, None)


class OpenAILines:
    """The lines of output and error files, whose answers are told in the words of the batch's endpoint."""

    media_type = "application/jsonl"
    head = b""

    def __init__(self, batch: Batch) -> None:
        self._batch_id = batch.id
        self._dialect: Dialect = URLS[batch.endpoint][0] if batch.endpoint in URLS else "openai"

    def written(self, page: Page) -> bytes:
        both = zip_longest(page.lines, page.cursors)
        return _each_on_its_own([orjson.dumps(_with_cursor(self._told(one), cursor)) for one, cursor in both])

    def _told(self, one: AnyLine) -> dict[str, Any]:
        if not isinstance(one, Line):
            name = f"{self._batch_id.hex}_{one.line}"
            error: dict[str, Any] = {"code": one.code, "message": one.message, "param": one.field, "line": one.line}
            return _output(name, one.custom_id, 400, self._problem(one.code, one.message, one.field), error)
        name = one.id.hex
        if one.state is TaskState.SUCCEEDED:
            if one.result is None:
                return _output(name, one.custom_id, 410, self._problem(*ERASED), _told_error(*ERASED))
            return _output(name, one.custom_id, 200, self._answer(one), None)
        message = one.error_message or "the task failed"
        status, code = end_of(one.error_code)
        error = _told_error(BATCH_CODES.get(one.state, code), message)
        return _output(name, one.custom_id, status, self._failure(one.error_code, message), error)

    def _answer(self, one: Line) -> dict[str, Any]:
        if self._dialect == "zhipu":
            return answers.embeddings(one) if one.endpoint == "embeddings" else answers.completion(one)
        return openai_answers.embeddings(one) if one.endpoint == "embeddings" else openai_answers.completion(one)

    def _failure(self, code: str | None, message: str) -> dict[str, Any]:
        if self._dialect == "zhipu":
            return {"error": {"code": end_of(code)[1], "message": message}}
        return openai_answers.failure(code, message)[1]

    def _problem(self, code: str, message: str, field: str | None = None) -> dict[str, Any]:
        if self._dialect == "zhipu":
            return {"error": {"code": "1214", "message": message}}
        return openai_answers.problem(message, kind="invalid_request_error", code=code, param=field)


def _with_cursor(told: dict[str, Any], cursor: str | None) -> dict[str, Any]:
    return told if cursor is None else {**told, "cursor": cursor}


def _output(name: str, custom_id: str | None, status: int, body: dict[str, Any], error: Any) -> dict[str, Any]:
    request_id = f"batch_req_{name}"
    response = {"status_code": status, "request_id": name, "body": body}
    return {"id": request_id, "custom_id": custom_id, "response": response, "error": error}


class NativeLines:
    """Objects of all that is known of a line."""

    media_type = "application/x-ndjson"
    head = b""

    def __init__(self, *, currency: str, with_input: bool = False) -> None:
        self._currency = currency
        self._with_input = with_input

    def written(self, page: Page) -> bytes:
        both = zip_longest(page.lines, page.cursors)
        return _each_on_its_own([orjson.dumps(self._told(one, cursor)) for one, cursor in both])

    def _told(self, one: AnyLine, cursor: str | None) -> dict[str, Any]:
        told = told_of(one, currency=self._currency)
        told["response"] = _as_stored(one.result) if isinstance(one, Line) else None
        if self._with_input:
            told["input"] = _as_stored(one.input) if isinstance(one, Line) else None
        return _with_cursor(told, cursor)


def told_of(one: AnyLine, *, currency: str) -> dict[str, Any]:
    """What is told of a line beside what it was sent and answered as a whole."""
    if not isinstance(one, Line):
        error = {"code": one.code, "message": one.message, "field": one.field}
        return _entry(one.line, one.custom_id, None, "FAIL", INVALID, error=error)
    bought = shown.bought(one.attempts, currency=currency)
    answering = next((a for a in one.attempts if a.outcome is AttemptOutcome.SUCCEEDED), None)
    return _entry(
        one.line,
        one.custom_id,
        str(one.id),
        one.state.status,
        one.state,
        model=one.model,
        upstream=f"{answering.upstream}/{answering.upstream_model}" if answering else None,
        text=_text(one),
        usage=bought["usage"],
        cost=bought["cost"],
        error=_error(one),
    )


def _entry(
    line: int,
    custom_id: str | None,
    task_id: str | None,
    status: str,
    state: str,
    *,
    model: str | None = None,
    upstream: str | None = None,
    text: str | None = None,
    usage: dict[str, int] | None = None,
    cost: str | None = None,
    error: dict[str, str | None] | None = None,
) -> dict[str, Any]:
    return {
        "line": line,
        "custom_id": custom_id,
        "task_id": task_id,
        "status": status,
        "state": state,
        "model": model,
        "upstream": upstream,
        "text": text,
        "usage": usage,
        "cost": cost,
        "error": error,
    }


def _error(one: Line) -> dict[str, str | None] | None:
    if one.state is TaskState.SUCCEEDED:
        return None if one.result is not None else _told_error(*ERASED)
    return _told_error(one.error_code, one.error_message or "the task failed")


def _told_error(code: str | None, message: str) -> dict[str, str | None]:
    return {"code": code, "message": message}


def _text(one: Line) -> str | None:
    """What the model wrote; None: it is no chat, or the model called a tool instead."""
    if one.result is None or one.endpoint != "chat":
        return None
    choices = orjson.loads(one.result).get("choices")
    try:
        content = choices[0]["message"].get("content")
    except (TypeError, LookupError, AttributeError):
        return None
    return content if isinstance(content, str) else None


def _as_stored(text: str | None) -> orjson.Fragment | None:
    """Between the tokens of JSON a line feed is a space like others; within them there is none."""
    if text is not None and ("\n" in text or "\r" in text):
        text = text.replace("\n", " ").replace("\r", " ")
    return None if text is None else orjson.Fragment(text)


def _each_on_its_own(lines: list[bytes]) -> bytes:
    text = b"\n".join((*lines, b""))
    for given, escaped in _BREAKS:
        text = text.replace(given, escaped)
    return text
