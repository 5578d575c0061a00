"""Request bodies: read whole up to a limit, parsed by orjson (which refuses lone surrogates and NaN)."""

from __future__ import annotations

from typing import Any

import fastapi
import orjson

from tollgate.domain.errors import InvalidRequestError, PayloadTooLargeError


async def read_json(request: fastapi.Request, *, max_bytes: int) -> Any:
    """The parsed body. Raises PayloadTooLargeError, InvalidRequestError."""
    raw = await _read(request, max_bytes)
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}", field="body", allowed="JSON", code="1210") from None
    require_shallow(parsed)
    return parsed


def require_shallow(parsed: Any) -> None:
    """Raises InvalidRequestError.

    orjson reads 1,024 levels and writes 254, of which an answer and a digest need a few around a body."""
    try:
        orjson.dumps([[[[parsed]]]])
    except orjson.JSONEncodeError:
        raise InvalidRequestError(
            "the body is nested too deeply", field="body", allowed="at most 250 levels", code="1210"
        ) from None


def require_object(body: Any, *, field: str = "body") -> dict[str, Any]:
    if not isinstance(body, dict):
        raise InvalidRequestError("not a JSON object", field=field, allowed="a JSON object", code="1210")
    return body


async def _read(request: fastapi.Request, max_bytes: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
    return b"".join(parts)


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the body is over {max_bytes:,} bytes; send less at once")
