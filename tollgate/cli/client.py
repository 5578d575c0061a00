"""The HTTP client of the command line: one method for each question it asks, foreign errors translated here."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx2

from tollgate import __version__
from tollgate.cli import connection, output
from tollgate.cli.connection import Target, segment
from tollgate.cli.exits import GatewayUnreachableError, RefusedError

Json = dict[str, Any]
CONNECT_S = 5.0
ANSWER_S = 60.0
"""Longer than any answer takes; a long list is committed in seconds."""
WAIT_MAX_S = 30.0
"""The longest that one request asks the gateway to wait; what waits longer asks again."""
UNAVAILABLE_TRIES = 5
"""A 503 says that nothing was done: it is asked again so often, after its Retry-After. A 429 with one says that the
key's limits have room then: it is asked again for as long as that takes."""


class Gateway:
    """A connection to one gateway. Raises RefusedError for its errors, GatewayUnreachableError without an answer."""

    def __init__(self, target: Target, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.target = target
        self.sleep = sleep
        self._told: set[str] = set()
        self._http = httpx2.Client(
            base_url=target.url,
            headers={"Authorization": f"Bearer {target.key}", "User-Agent": f"tollgate-cli/{__version__}"},
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
            # A proxy is for the world outside: asked for 127.0.0.1 it would look on its own machine.
            trust_env=not connection.is_loopback(target.url),
        )

    def __enter__(self) -> Gateway:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, tasks: Sequence[Json]) -> list[Json]:
        """POST /tasks, all or nothing: the accepted tasks, in order."""
        accepted: list[Json] = self.ask("POST", "/tasks", body=list(tasks))["data"]
        return accepted

    def task(self, task_id: str, *, wait_s: float = 0) -> Json:
        return self.ask("GET", f"/tasks/{segment(task_id)}", params=_wait(wait_s))

    def tasks(self, ids: Sequence[str], *, wait_s: float = 0) -> tuple[list[Json], list[str]]:
        """The tasks of these ids that are there, in order, and the ids that are not."""
        answer = self.ask("GET", "/tasks", params={"id": ",".join(ids), **_wait(wait_s)})
        return answer["data"], answer["missing"]

    @contextlib.contextmanager
    def stream(
        self, path: str, *, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx2.Response]:
        """An answer that is read as it comes; one that is cut raises GatewayUnreachableError in the block."""
        with self._translated(), self._http.stream("GET", path, params=params, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise self._refusal(response)
            yield response

    def upload(self, chunks: Iterable[bytes], *, filename: str) -> Json:
        """POST /files, with the file's bytes as they come. Asked once: what was read is gone."""
        headers = {"Content-Type": "application/jsonl"}
        response = self._send(
            "POST", "/files", params={"filename": filename}, content=chunks, headers=headers, timeout_s=ANSWER_S
        )
        if not response.is_success:
            raise self._refusal(response)
        return self._required(response)

    def page(self, filters: Mapping[str, str]) -> Json:
        """One page of the list: `data`, `has_more`, `last_id`."""
        return self.ask("GET", "/tasks", params=filters)

    def cancel(self, task_id: str) -> Json:
        return self.ask("POST", f"/tasks/{segment(task_id)}/cancel")

    def delete(self, task_id: str) -> Json:
        """Its texts. Refused with a 409 before its end."""
        return self.ask("DELETE", f"/tasks/{segment(task_id)}")

    def usage(self, filters: Mapping[str, str]) -> Json:
        return self.ask("GET", "/usage", params=filters)

    def usage_csv(self, filters: Mapping[str, str]) -> str:
        return self._request("GET", "/usage", params={**filters, "format": "csv"}).text

    def models(self) -> list[Json]:
        listed: list[Json] = self.ask("GET", "/models")["data"]
        return listed

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        timeout_s: float = ANSWER_S,
    ) -> Json:
        """The answer to any request that is answered in JSON, within `timeout_s`."""
        return self._required(self._request(method, path, params=params, body=body, timeout_s=timeout_s))

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        timeout_s: float = ANSWER_S,
    ) -> httpx2.Response:
        headers = {} if body is None else {"Content-Type": "application/json"}
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8")
        tries = 1
        while True:
            response = self._send(method, path, params=params, content=content, headers=headers, timeout_s=timeout_s)
            if response.status_code == 429 and response.headers.get("Retry-After"):
                self._tell_of_waiting(self._refusal(response))
            elif response.status_code == 503 and tries < UNAVAILABLE_TRIES:
                tries += 1
            else:
                break
            self.sleep(_retry_after_s(response))
        if response.is_success:
            return response
        raise self._refusal(response)

    def _tell_of_waiting(self, refusal: RefusedError) -> None:
        """Once for each limit: many requests may have to wait for it."""
        limit = str(refusal.details.get("limit"))
        if limit not in self._told:
            output.note(f"{refusal}; waiting for it")
        self._told.add(limit)

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None,
        content: bytes | Iterable[bytes] | None,
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> httpx2.Response:
        timeout = httpx2.Timeout(timeout_s, connect=CONNECT_S)
        with self._translated():
            return self._http.request(method, path, params=params, content=content, headers=headers, timeout=timeout)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raises GatewayUnreachableError for what the HTTP client raises."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise GatewayUnreachableError(self._unreachable(error), sent=False) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise GatewayUnreachableError(
                f"{self.target.url} did not answer: {str(error) or type(error).__name__}", sent=True
            ) from error

    def _required(self, response: httpx2.Response) -> Json:
        answer = _object(response)
        if answer is None:
            raise RefusedError(response.status_code, kind="foreign", message=self._foreign(response))
        return answer

    def _refusal(self, response: httpx2.Response) -> RefusedError:
        answer = _object(response)
        error = (answer or {}).get("error")
        if not isinstance(error, dict):
            message = (answer or {}).get("problem") or self._foreign(response)
            return RefusedError(response.status_code, kind="foreign", message=str(message))
        message = str(error.get("message"))
        if error.get("allowed"):
            message += f" (allowed: {error['allowed']})"
        if response.status_code == 401:
            message = f"{self.target.url} refuses the key of {self.target.key_from}: {message}"
        return RefusedError(response.status_code, kind=str(error.get("type")), message=message, details=error)

    def _unreachable(self, error: Exception) -> str:
        return (
            f"nobody answers at {self.target.url} (from {self.target.url_from}): {error}. "
            "Start a gateway with `tollgate up`, or set TOLLGATE_URL to where one runs"
        )

    def _foreign(self, response: httpx2.Response) -> str:
        return (
            f"{self.target.url} answered HTTP {response.status_code} without Tollgate's JSON: "
            "is there a Tollgate gateway at this address?"
        )


def lines_of(response: httpx2.Response) -> Iterator[bytes]:
    """Of a streamed answer, without their ends: \\n alone. httpx's own also cuts where a text holds U+2028."""
    held: list[bytes] = []
    for chunk in response.iter_bytes():
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*held, line))
            held.clear()
        held.append(rest)
    if last := b"".join(held):
        yield last


def _object(response: httpx2.Response) -> Json | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _retry_after_s(response: httpx2.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), WAIT_MAX_S) if text.isdigit() else 2.0


def _wait(seconds: float) -> dict[str, str]:
    return {"wait": f"{min(seconds, WAIT_MAX_S):g}"} if seconds > 0 else {}
