"""ZhipuAI's files and batches, by its own SDK: called seldom, so what the SDK costs does not matter here.

Its errors become UpstreamError, as the wire's do. It is imported when it is first needed, and blocks: it runs in
threads. Never with its own retries: it would send a POST up to four times.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from tollgate.domain.errors import UpstreamError
from tollgate.domain.upstream_batch_answers import Seen, read_batch
from tollgate.domain.upstream_batches import ENDPOINT
from worker.upstreams.wire import refusal_of

if TYPE_CHECKING:
    from zhipuai import ZhipuAI

TIMEOUT_S = 120.0
"""Of each wait for the wire: a file of 100 MB takes many, each for a piece."""
CONNECT_S = 10.0
MARK = "tollgate"
"""The name of our id in a batch's metadata."""
PAGE, PAGES = 100, 20
"""How much of the upstream's list is looked through; it begins with the newest."""
EARLIER = timedelta(hours=1)
"""The upstream's clock may be so much behind ours."""
STREAMED = {"X-Stainless-Raw-Response": "stream"}
"""What makes the SDK hand out a body unread."""
Result = TypeVar("Result")


class Cloud:
    """One account at an upstream."""

    def __init__(self, *, base_url: str, secret: str) -> None:
        self._base_url = base_url
        self._secret = secret
        self._client: ZhipuAI | None = None

    async def upload(self, path: Path, *, name: str) -> str:
        """The file's id. Raises UpstreamError."""

        def send() -> object:
            with path.open("rb") as file:
                return self._sdk().files.create(file=(name, file), purpose="batch").id

        identifier = await self._ask(send)
        if not isinstance(identifier, str) or not identifier:
            raise UpstreamError("the answer to an upload has no file id", kind="garbage")
        return identifier

    async def create(self, file_id: str, *, mark: str) -> Seen:
        """Begin a batch of an uploaded file, under our `mark`. Raises UpstreamError."""
        return _seen(
            await self._ask(
                lambda: self._sdk().batches.create(
                    endpoint=ENDPOINT,
                    input_file_id=file_id,
                    completion_window="24h",
                    metadata={MARK: mark},
                )
            )
        )

    async def find(self, *, mark: str, file_id: str, since: datetime) -> Seen | None:
        """The batch of our mark, or of our file: not every answer shows the metadata. Raises UpstreamError."""
        after: Any = None
        for _ in range(PAGES):
            found = [_seen(one) for one in await self._ask(lambda after=after: self._page(after))]  # type: ignore[misc]
            mine = next((seen for seen in found if seen.mark == mark or seen.input_file_id == file_id), None)
            last = found[-1] if found else None
            if mine is not None or last is None or (last.created_at and last.created_at < since - EARLIER):
                return mine
            after = last.id
        return None

    def _page(self, after: str | None) -> list[Any]:
        options = {"after": after} if after else {}
        page = self._sdk().batches.list(limit=PAGE, **options)
        data = getattr(page, "data", None)
        if not isinstance(data, list):
            raise UpstreamError("the answer is no list of batches", kind="garbage")
        return data

    async def retrieve(self, upstream_id: str) -> Seen:
        """Raises UpstreamError."""
        return _seen(await self._ask(lambda: self._sdk().batches.retrieve(upstream_id)))

    async def cancel(self, upstream_id: str) -> None:
        """Raises UpstreamError. After its end it changes nothing."""
        await self._ask(lambda: self._sdk().batches.cancel(upstream_id))

    async def download(self, file_id: str, path: Path) -> None:
        """Write the file's whole content to `path`, a piece at a time. Raises UpstreamError where not all came."""

        def fetch() -> None:
            answer: Any = self._sdk().files.content(file_id, extra_headers=STREAMED)
            with contextlib.closing(answer), path.open("wb") as file:
                for piece in answer.iter_bytes():
                    file.write(piece)

        await self._ask(fetch)

    async def close(self) -> None:
        if self._client is not None:
            await asyncio.to_thread(self._client.close)

    async def _ask(self, call: Callable[[], Result]) -> Result:
        return await asyncio.to_thread(_translated, call)

    def _sdk(self) -> ZhipuAI:
        """In a thread. Two may make one at once; then one is used once only."""
        if self._client is None:
            import httpx
            import zhipuai

            timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_S)
            self._client = zhipuai.ZhipuAI(
                api_key=self._secret, base_url=self._base_url, max_retries=0, timeout=timeout
            )
        return self._client


def _seen(batch: Any) -> Seen:
    told = batch.model_dump(warnings=False) if hasattr(batch, "model_dump") else {}
    return read_batch(told, mark_name=MARK)


def _translated(call: Callable[[], Result]) -> Result:
    with _errors_of_sdk():
        return call()


@contextlib.contextmanager
def _errors_of_sdk() -> Iterator[None]:
    """Raises UpstreamError for whatever the SDK and its HTTP client raise."""
    import httpx
    import zhipuai

    try:
        yield
    except zhipuai.APIStatusError as error:
        raise refusal_of(_body(error), error.status_code, default=f"HTTP {error.status_code}") from error
    except (zhipuai.APITimeoutError, httpx.TimeoutException) as error:
        never_sent = isinstance(error.__cause__ or error, httpx.ConnectTimeout | httpx.PoolTimeout)
        raise UpstreamError(_told(error), kind="connect" if never_sent else "timeout") from error
    except (zhipuai.APIConnectionError, httpx.TransportError) as error:
        never_sent = isinstance(error.__cause__ or error, httpx.ConnectError)
        raise UpstreamError(_told(error), kind="connect" if never_sent else "cut") from error
    except (zhipuai.ZhipuAIError, httpx.HTTPError, ValueError, TypeError, AttributeError) as error:
        # Its parser raises what it likes where an answer is not what it expects.
        raise UpstreamError(_told(error), kind="garbage") from error


def _told(error: Exception) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return f"{str(error) or type(error).__name__}{cause}"


def _body(error: Any) -> dict[str, Any]:
    try:
        parsed = orjson.loads(error.response.content)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
