"""The lines of a batch's files: requests read, answers and errors written. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from tollgate.simulator.batch_settings import ErrorForm

ENDPOINTS = ("/chat/completions", "/embeddings")
VERSIONS = ("/v4", "/v1")
"""ZhipuAI documents /v4/..., its SDK's types say /v1/...: both are taken, and a line may differ from its batch."""
_FORMS: tuple[ErrorForm, ...] = ("response", "error", "flat", "text")


class BadLineError(ValueError):
    """A line that is no request; `param` is the field at fault."""

    def __init__(self, code: str, message: str, *, param: str | None = None, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.custom_id = custom_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A request. `number` counts the file's lines from 1."""

    number: int
    custom_id: str
    body: dict[str, object]


def endpoint_of(url: object) -> str | None:
    """The endpoint without its version; None for any other text."""
    if isinstance(url, str):
        for version in VERSIONS:
            if url.removeprefix(version) in ENDPOINTS:
                return url.removeprefix(version)
    return None


def parse(raw: bytes, *, number: int, endpoint: str) -> Line:
    """The request in a line. Raises BadLineError."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadLineError("invalid_json_line", "This line is not parseable as valid JSON.") from error
    if not isinstance(line, dict):
        raise BadLineError("invalid_json_line", "This line is not a JSON object.")
    custom_id = line.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        raise BadLineError("missing_required_parameter", "Missing required parameter: custom_id.", param="custom_id")
    _check(line.get("method") == "POST", "method", custom_id)
    _check(endpoint_of(line.get("url")) == endpoint, "url", custom_id)
    body = line.get("body")
    if not isinstance(body, dict):
        raise BadLineError("invalid_request", "body must be an object.", param="body", custom_id=custom_id)
    return Line(number=number, custom_id=custom_id, body=body)


def _check(right: bool, field: str, custom_id: str) -> None:
    if not right:
        raise BadLineError("invalid_value", f"Invalid value for {field}.", param=field, custom_id=custom_id)


def answered(identifier: str, *, custom_id: str, request_id: str, body: Mapping[str, object]) -> bytes:
    """An output line."""
    response = {"status_code": 200, "request_id": request_id, "body": body}
    return _line({"id": identifier, "custom_id": custom_id, "response": response, "error": None})


def failed(
    identifier: str, *, custom_id: str | None, status: int, code: str, message: str, form: ErrorForm, number: int
) -> bytes:
    """An error line, with the keys of `form`; `number` has the turn where forms are mixed."""
    head: dict[str, object] = {"id": identifier, "custom_id": custom_id}
    error = {"code": code, "message": message}
    match _FORMS[number % len(_FORMS)] if form == "mixed" else form:
        case "error":
            return _line(head | {"response": None, "error": error})
        case "flat":
            return _line(head | error)
        case "text":
            return _line(head | {"response": None, "error": f"[{code}] {message}"})
        case _:
            response = {"status_code": status, "request_id": identifier, "body": {"error": error}}
            return _line(head | {"response": response, "error": None})


def unfinished(identifier: str, *, custom_id: str) -> bytes:
    """The error line of a request that the window did not last for."""
    message = "This request could not be executed before the completion window expired."
    error = {"code": "batch_expired", "message": message}
    return _line({"id": identifier, "custom_id": custom_id, "response": None, "error": error})


def cut(line: bytes) -> bytes:
    """A line without its second half: no JSON any more."""
    return line[: len(line) // 2] + b"\n"


def _line(content: Mapping[str, object]) -> bytes:
    return orjson.dumps(content) + b"\n"
