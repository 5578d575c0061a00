"""One HTTP POST to an upstream and its JSON answer: what ZhipuAI's and OpenAI's wire have in common.

aiohttp, because a call costs it 0.1 ms of CPU with a thousand in flight, where httpx took 31.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import orjson

from tollgate.domain.errors import UpstreamError
from tollgate.domain.routing import UpstreamSpec

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A longer answer is no chat completion; reading on would only fill memory."""
KEEP_ALIVE_S = 4.0
"""An idle connection is kept so long: less than servers do (uvicorn, and so vLLM: 5 s), since a call written to a
connection that is just being closed may or may not have been read."""
MAX_MESSAGE = 500
"""Characters of an upstream's error message that are kept."""


class Wire:
    """A connection pool to one upstream."""

    def __init__(self, spec: UpstreamSpec, *, base_url: str) -> None:
        self._spec = spec
        self._base_url = base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, path: str, body: bytes, *, headers: Mapping[str, str], timeout_s: float, on_sent: Callable[[], None]
    ) -> tuple[int, Mapping[str, Any], str]:
        """POST and read whole. Returns status, the parsed object and its text. Raises UpstreamError."""
        limits = aiohttp.ClientTimeout(
            total=min(self._spec.total_timeout_s, timeout_s),
            sock_connect=self._spec.connect_timeout_s,
            sock_read=self._spec.first_byte_timeout_s,
        )
        try:
            async with self._open().post(
                f"{self._base_url}{path}",
                data=body,
                headers={"Content-Type": "application/json", **headers},
                timeout=limits,
                allow_redirects=False,
                trace_request_ctx=on_sent,
            ) as response:
                raw = await _read_whole(response)
        except aiohttp.ConnectionTimeoutError as error:
            raise UpstreamError("no connection in time", kind="connect") from error
        except aiohttp.ClientConnectorError as error:
            raise UpstreamError(f"no connection: {error}"[:MAX_MESSAGE], kind="connect") from error
        except TimeoutError as error:
            raise UpstreamError("no answer in time", kind="timeout") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamError(f"the connection broke: {type(error).__name__}", kind="cut") from error
        return response.status, *_parsed(response, raw)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(
                connector=connector, trace_configs=[_sent_trace()], auto_decompress=True
            )
        return self._session


async def _read_whole(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise UpstreamError("the answer is too long", http_status=response.status, kind="garbage")
    return b"".join(parts)


def _sent_trace() -> aiohttp.TraceConfig:
    """Tells the moment from which a call may be billed: its headers go out on a made connection."""

    async def sent(_session: Any, context: Any, _params: Any) -> None:
        context.trace_request_ctx()

    config = aiohttp.TraceConfig()
    config.on_request_headers_sent.append(sent)
    return config


def _parsed(response: aiohttp.ClientResponse, raw: bytes) -> tuple[Mapping[str, Any], str]:
    """The answer as an object. Raises UpstreamError: by its status and code where it is an error."""
    try:
        text = raw.decode()
        parsed = orjson.loads(raw)
    except ValueError:
        text, parsed = "", None
    if response.status >= 300:
        raise _refusal(response, parsed)
    if not isinstance(parsed, dict):
        raise UpstreamError("the answer is not a JSON object", http_status=response.status, kind="garbage")
    if isinstance(parsed.get("error"), dict):
        raise _refusal(response, parsed)
    return parsed, text


def _refusal(response: aiohttp.ClientResponse, parsed: Any) -> UpstreamError:
    told = parsed.get("error") if isinstance(parsed, dict) else None
    told = told if isinstance(told, dict) else {}
    code = told.get("code") or told.get("type")
    message = _plain(str(told.get("message") or f"HTTP {response.status}"))
    return UpstreamError(
        message,
        code=_plain(str(code)) if isinstance(code, str | int) else None,
        http_status=response.status,
        retry_after_s=_retry_after(response.headers.get("Retry-After")),
    )


def _plain(text: str) -> str:
    """Without NUL and what else no database's text can hold."""
    return text[:MAX_MESSAGE].replace("\0", "").encode("utf-8", "replace").decode()


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header; its date form is rare enough to do without."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
