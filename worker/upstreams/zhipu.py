"""ZhipuAI's v4 wire, with its asynchronous mode: a call is submitted, and its result fetched by the upstream's id.

Source: docs.bigmodel.cn, "async chat completions" and "query async result". The documented result leaves
`task_status` out, the SDK requires it: both forms are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tollgate.domain.errors import PollError, UpstreamError
from worker.upstreams.chat import ChatUpstream, parse_answer
from worker.upstreams.upstream import Answer, Call
from worker.upstreams.wire import refusal_of

SUBMIT = "/async/chat/completions"
RESULT = "/async-result/"
ID = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,255}")
"""It becomes a part of an address. ZhipuAI's are decimal numbers."""


class ZhipuUpstream(ChatUpstream):
    """Direct calls as its parent, and submit and poll."""

    async def submit(self, call: Call) -> str:
        """Hand the call over; returns the upstream's id of it. Raises UpstreamError.

        A repeated request_id is answered with the first one's id, or refused with 1231."""
        status, parsed, _ = await self._post(SUBMIT, call)
        upstream_id = parsed.get("id")
        if parsed.get("task_status") == "FAIL":
            raise _failure(parsed, status)
        if not isinstance(upstream_id, str) or not ID.fullmatch(upstream_id):
            raise UpstreamError("the answer to a submit has no id that could be", http_status=status, kind="garbage")
        return upstream_id

    async def fetch(self, upstream_id: str, *, credential: str, timeout_s: float) -> Answer | None:
        """The answer; None while it is being made. Raises UpstreamError where the call failed, PollError where its
        result could not be fetched."""
        try:
            status, parsed, text = await self._wire.get(
                RESULT + upstream_id, headers=self._authorization(credential), timeout_s=timeout_s
            )
        except UpstreamError as error:
            raise PollError(
                str(error),
                code=error.code,
                http_status=error.http_status,
                kind=error.kind,
                retry_after_s=error.retry_after_s,
            ) from error
        if parsed.get("task_status") == "PROCESSING":
            return None
        if parsed.get("task_status") == "FAIL":
            raise _failure(parsed, status)
        if isinstance(parsed.get("error"), dict):
            raise PollError(str(_failure(parsed, status)), http_status=status, kind="garbage")
        try:
            return parse_answer("chat", status, parsed, text)
        except UpstreamError as error:
            # It is kept there and can be asked for again: no half-read answer ends a paid call.
            raise PollError(str(error), http_status=status, kind=error.kind) from error


def _failure(parsed: Mapping[str, Any], status: int) -> UpstreamError:
    """Of a call that failed at the upstream. Its code says whether it may be billed."""
    return refusal_of(parsed, status, default="the upstream says that the call failed")
