"""One HTTP POST to an upstream and its JSON answer: what ZhipuAI's and OpenAI's wire have in common.

aiohttp, because a call costs it 0.1 ms of CPU with a thousand in flight, where httpx took 31.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from tollgate.domain import sse
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
        answer = await self._ask("POST", path, body, headers=headers, timeout_s=timeout_s, on_sent=on_sent)
        if isinstance(answer[1].get("error"), dict):  # inside a 200
            raise refusal_of(answer[1], answer[0], default="an error without a message")
        return answer

    async def stream(
        self, path: str, body: bytes, *, headers: Mapping[str, str], timeout_s: float, on_sent: Callable[[], None]
    ) -> AsyncGenerator[str]:
        """POST, and the data of each server-sent event as it comes; the text of an answer that is not a stream.

        `total_timeout_s` is for answers that come in one piece: one that is written may take as long as it goes on.
        Raises UpstreamError."""
        with _Translated():
            async with self._request("POST", path, body, headers, timeout_s, on_sent) as response:
                if response.status >= 300 or response.content_type != "text/event-stream":
                    parsed, text = _parsed(response, await _read_whole(response))
                    if isinstance(parsed.get("error"), dict):
                        raise refusal_of(parsed, response.status, default="an error without a message")
                    yield text
                    return
                parser = sse.Parser()
                async for part in response.content.iter_any():
                    try:
                        for data in parser.feed(part):
                            yield data
                    except sse.TooLongError as error:
                        raise UpstreamError(str(error), http_status=response.status, kind="garbage") from error

    async def get(
        self, path: str, *, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, Mapping[str, Any], str]:
        """GET and read whole, as `post`; but an `error` inside a 200 is the caller's to read."""
        return await self._ask("GET", path, None, headers=headers, timeout_s=timeout_s, on_sent=_nothing)

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        on_sent: Callable[[], None],
    ) -> tuple[int, Mapping[str, Any], str]:
        whole_s = min(self._spec.total_timeout_s, timeout_s)
        with _Translated():
            async with self._request(method, path, body, headers, whole_s, on_sent) as response:
                raw = await _read_whole(response)
        return response.status, *_parsed(response, raw)

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
        on_sent: Callable[[], None],
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """To be entered and read under `_Translated`."""
        return self._open().request(
            method,
            URL(f"{self._base_url}{path}", encoded=True),
            data=None if body is None else _Told(body, on_sent=on_sent),
            headers=headers if body is None else {"Content-Type": "application/json", **headers},
            timeout=self._limits(timeout_s),
            allow_redirects=False,
        )

    def _limits(self, timeout_s: float) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=timeout_s,
            sock_connect=self._spec.connect_timeout_s,
            sock_read=self._spec.first_byte_timeout_s,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


def _nothing() -> None:
    """A poll is billed by nobody."""


class _Told(aiohttp.BytesPayload):
    """A body that tells the moment from which its call may be billed: its first byte goes out on a made connection.

    (aiohttp's tracing tells it too, and costs each call a tenth more.)"""

    def __init__(self, body: bytes, *, on_sent: Callable[[], None]) -> None:
        super().__init__(body, content_type="application/json")
        self._on_sent = on_sent

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._on_sent()
        await super().write_with_length(writer, content_length)


class _Translated:
    """A block in which what goes wrong is an UpstreamError. A class: `contextlib`'s generators take 2 us a call."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, aiohttp.ClientError | OSError | ValueError):
            return
        if isinstance(error.__cause__, UpstreamError):  # from `on_sent`
            raise error.__cause__ from None
        _forget_frames(error)
        raise _upstream_error(error) from error


def _upstream_error(error: Exception) -> UpstreamError:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return UpstreamError("no connection in time", kind="connect")
        case aiohttp.ClientConnectorError():
            return UpstreamError(f"no connection: {error}"[:MAX_MESSAGE], kind="connect")
        case TimeoutError():
            return UpstreamError("no answer in time", kind="timeout")
        case _:
            return UpstreamError(f"the connection broke: {type(error).__name__}", kind="cut")


def _forget_frames(error: BaseException | None) -> None:
    """What broke the connection is kept by its stream, which the frames of its traceback keep: prompt and answer would
    stay until the collector comes, which is seldom."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


async def _read_whole(response: aiohttp.ClientResponse) -> bytes:
    if 0 <= (response.content_length or -1) <= MAX_ANSWER_BYTES and "Content-Encoding" not in response.headers:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise UpstreamError("the answer is too long", http_status=response.status, kind="garbage")
    return b"".join(parts)


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
    return parsed, text


def _refusal(response: aiohttp.ClientResponse, parsed: Any) -> UpstreamError:
    retry_after_s = _retry_after(response.headers.get("Retry-After"))
    told = parsed if isinstance(parsed, dict) else {}
    return refusal_of(told, response.status, default=f"HTTP {response.status}", retry_after_s=retry_after_s)


def refusal_of(
    parsed: Mapping[str, Any], status: int, *, default: str, retry_after_s: float | None = None
) -> UpstreamError:
    """The error in an answer's `error` object, or in SGLang's form, which is one itself; `default` is its message where
    it has none."""
    error = parsed if parsed.get("object") == "error" else parsed.get("error")
    told = error if isinstance(error, dict) else {}
    code = told.get("code") or told.get("type")
    return UpstreamError(
        _plain(str(told.get("message") or default)),
        code=_plain(str(code)) if isinstance(code, str | int) else None,
        http_status=status,
        retry_after_s=retry_after_s,
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
