"""From a line of a batch's file to the TaskRequest it asks for. Pure.

A line is a call in the form of OpenAI's and ZhipuAI's batches (custom_id, method, url, body), checked as the dialect of
its url checks that call, or a task in the words of POST /tasks. What it leaves out, the batch says (`LineDefaults`);
how and when it runs, only the batch says.
Sources: platform.openai.com, "the request input object" of batches; docs.bigmodel.cn, "batch API".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

import orjson
import pydantic

from gateway import chat_body, embeddings_body, openai_chat_body, task_body, validation
from gateway.bodies import require_shallow
from gateway.task_body import CustomId, Label
from tollgate.domain.errors import InvalidRequestError, PermissionDeniedError, RequestError, UnknownModelError
from tollgate.domain.states import OnUncertain
from tollgate.domain.tasks import TaskRequest

Dialect = Literal["openai", "zhipu"]

URLS: Mapping[str, tuple[Dialect, str]] = {
    "/v1/chat/completions": ("openai", "chat"),
    "/v1/embeddings": ("openai", "embeddings"),
    "/v4/chat/completions": ("zhipu", "chat"),
    "/v4/embeddings": ("zhipu", "embeddings"),
    "/api/paas/v4/chat/completions": ("zhipu", "chat"),
    "/api/paas/v4/embeddings": ("zhipu", "embeddings"),
}
"""Of a line, or a batch's endpoint -> in whose words its body is, and what it asks for."""
OF_THE_BATCH = ("callback_url", "run_after", "expires_at", "priority", "mode")
"""What a task may say and a line may not."""
DROPPED = frozenset({"request_id"})
"""From bodies: a line is named by its custom_id."""
GOOD_CUSTOM_ID = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,256}")
MAX_MESSAGE = 1_000
Kind = Callable[[object], str]
"""From a model's name to the kind of its upstream, as `Services.upstream_kind`."""


class LineCode(StrEnum):
    """Why a line is invalid, in OpenAI's words where it has them."""

    TOO_LONG = "line_too_long"
    INVALID_JSON = "invalid_json_line"
    MISSING_VALUE = "missing_value"
    INVALID_VALUE = "invalid_value"
    MODEL_NOT_FOUND = "model_not_found"
    PERMISSION_DENIED = "permission_denied"
    DUPLICATE_CUSTOM_ID = "duplicate_custom_id"


class InvalidLineError(Exception):
    """A line that becomes no task. `field` is a dotted path in it ("body.messages.0.role"); `custom_id` is the line's,
    where it has a good one. Every text of it can be stored."""

    def __init__(self, code: LineCode, message: str, *, field: str | None = None, custom_id: str | None = None) -> None:
        self.code = code
        self.message = message.replace("\0", "")[:MAX_MESSAGE]
        self.field = field
        self.custom_id = custom_id
        super().__init__(self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineDefaults:
    """What a batch says for the lines that do not say it themselves."""

    endpoint: str | None = None
    """One of URLS; lines call the same, in whichever wire's words. None: what their own url says."""
    model: str | None = None
    label: str | None = None
    system: str | None = None
    """The system message of chats without one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the body, such as temperature and max_tokens."""


class Call(pydantic.BaseModel):
    """A line in the form of OpenAI's and ZhipuAI's batches. Fields that it does not know are the client's own."""

    model_config = pydantic.ConfigDict(strict=True)

    custom_id: CustomId = pydantic.Field(description="a text of 1 to 256 characters, no control characters")
    method: Literal["POST"] | None = pydantic.Field(None, description="POST")
    url: str | None = pydantic.Field(None, description=" or ".join(URLS))
    body: dict[str, Any] = pydantic.Field(description="a JSON object: the body of the call")
    label: Label | None = pydantic.Field(None, description="1 to 64 characters, no control characters")
    metadata: dict[str, Any] | None = pydantic.Field(
        None, description=f"a JSON object of at most {task_body.MAX_METADATA_BYTES} bytes"
    )
    on_uncertain: OnUncertain | None = pydantic.Field(None, strict=False, description="'retry' or 'fail'")


def parse(raw: bytes, *, defaults: LineDefaults, upstream_kind: Kind) -> TaskRequest:
    """What the line `raw` asks for, without a request_id: its custom_id names it. Raises InvalidLineError."""
    line = _object(raw)
    try:
        require_shallow(line)
        _require_lines_own(line)
        if "body" in line or "url" in line:
            return _of_call(line, defaults, upstream_kind)
        return _of_task(line, defaults)
    except RequestError as error:
        raise refused(error, custom_id=_good_custom_id(line)) from None


def too_long(max_line_bytes: int) -> InvalidLineError:
    """Of a line that `LineReader` passed over."""
    return InvalidLineError(LineCode.TOO_LONG, f"the line is over {max_line_bytes:,} bytes")


def refused(error: RequestError, *, custom_id: str | None) -> InvalidLineError:
    """What a dialect or admission found wrong, as the reason of a line."""
    if isinstance(error, UnknownModelError):
        return InvalidLineError(LineCode.MODEL_NOT_FOUND, str(error), field="model", custom_id=custom_id)
    if isinstance(error, PermissionDeniedError):
        return InvalidLineError(LineCode.PERMISSION_DENIED, str(error), custom_id=custom_id)
    if isinstance(error, InvalidRequestError):
        code = LineCode.MISSING_VALUE if error.code == validation.MISSING else LineCode.INVALID_VALUE
        allowed = f" (allowed: {error.allowed})" if error.allowed else ""
        return InvalidLineError(code, f"{error}{allowed}", field=error.field or None, custom_id=custom_id)
    return InvalidLineError(LineCode.INVALID_VALUE, str(error), custom_id=custom_id)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidLineError(LineCode.INVALID_JSON, _unreadable(raw, error)) from None
    if not isinstance(line, dict):
        raise InvalidLineError(LineCode.INVALID_JSON, "the line is not a JSON object")
    return line


def _unreadable(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        return f"the line is not UTF-8: {wrong.reason} at byte {wrong.start + 1}"
    return f"the line is not JSON: {error.msg} at column {error.colno}"


def _require_lines_own(line: Mapping[str, Any]) -> None:
    for name in OF_THE_BATCH:
        if line.get(name) is not None:
            raise InvalidRequestError(f"{name}: the batch says it for all of its lines; leave it out", field=name)


def _of_task(line: Mapping[str, Any], defaults: LineDefaults) -> TaskRequest:
    if defaults.endpoint is not None and URLS[defaults.endpoint][1] != "chat":
        raise InvalidRequestError(
            f"url: missing, and the batch is for {defaults.endpoint}", field="url", code=validation.MISSING
        )
    asked = task_body.task_of(_filled(line, defaults))
    return replace(asked, label=asked.label or defaults.label, body=_with_system(asked.body, defaults))


def _of_call(line: Mapping[str, Any], defaults: LineDefaults, upstream_kind: Kind) -> TaskRequest:
    call = validation.check(line, Call)
    task_body.require_short(call.metadata)
    asked = _asked(call, defaults, upstream_kind)
    return TaskRequest(
        model=asked.model,
        body=_with_system(asked.body, defaults) if asked.endpoint == "chat" else asked.body,
        endpoint=asked.endpoint,
        custom_id=call.custom_id,
        label=call.label or defaults.label,
        metadata=call.metadata,
        on_uncertain=call.on_uncertain,
    )


def _asked(call: Call, defaults: LineDefaults, upstream_kind: Kind) -> TaskRequest:
    dialect, endpoint = _called(call.url, defaults)
    try:
        body = _filled(call.body, defaults)
        if endpoint == "embeddings":
            return embeddings_body.task_of(body)
        if dialect == "zhipu":
            return chat_body.task_of(body)
        return openai_chat_body.task_of(body, key_of_header=None, kind=upstream_kind(body.get("model")))[0]
    except InvalidRequestError as error:
        error.field = f"body.{error.field}" if error.field else "body"
        raise


def _called(url: str | None, defaults: LineDefaults) -> tuple[Dialect, str]:
    """In whose words, and for what, a line of this url is."""
    of_batch = URLS[defaults.endpoint] if defaults.endpoint else None
    if url is None and of_batch is not None:
        return of_batch
    allowed = defaults.endpoint or " or ".join(URLS)
    if url is None:
        raise InvalidRequestError("url: missing", field="url", allowed=allowed, code=validation.MISSING)
    of_line = URLS.get(url)
    if of_line is None:
        raise InvalidRequestError(f"url: a batch cannot call {url[:100]!r}", field="url", allowed=allowed)
    if of_batch is not None and of_batch[1] != of_line[1]:
        raise InvalidRequestError(f"url: the batch is for {defaults.endpoint}", field="url", allowed=allowed)
    return of_line


def _filled(given: Mapping[str, Any], defaults: LineDefaults) -> dict[str, Any]:
    """`given` without nulls, and with what the batch says where it says nothing."""
    if given.get("stream"):
        raise InvalidRequestError("stream: the results of a batch are fetched; leave it out", field="stream")
    own = chat_body.without_nulls(given, less=DROPPED)
    filled = {**defaults.parameters, **own}
    if "max_completion_tokens" in own and "max_tokens" not in own:
        filled.pop("max_tokens", None)  # the same, by another name
    if defaults.model is not None:
        filled.setdefault("model", defaults.model)
    return filled


def _with_system(body: Mapping[str, Any], defaults: LineDefaults) -> Mapping[str, Any]:
    if defaults.system is None or any(one["role"] in ("system", "developer") for one in body["messages"]):
        return body
    return {**body, "messages": [{"role": "system", "content": defaults.system}, *body["messages"]]}


def _good_custom_id(line: Mapping[str, Any]) -> str | None:
    """Of an invalid line."""
    given = line.get("custom_id")
    return given if isinstance(given, str) and GOOD_CUSTOM_ID.fullmatch(given) else None
