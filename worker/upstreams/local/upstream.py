"""The local engine as an upstream: a call is a request of the engine, its answer in the wire's form."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import orjson

from tollgate.domain.errors import UpstreamError
from tollgate.domain.usage import TokenUsage
from worker.upstreams.local.admission import Busy, EngineStopped, Refused
from worker.upstreams.local.answers import OpenAnswer, OpenAnswers
from worker.upstreams.local.engine import HANG_S, Engine
from worker.upstreams.local.loading import Loaded
from worker.upstreams.local.parameters import refused
from worker.upstreams.local.prompts import Prompt, Prompter
from worker.upstreams.local.requests import Ended, EndReason, Request
from worker.upstreams.local.thoughts import Thoughts
from worker.upstreams.local.writing import Writing
from worker.upstreams.upstream import Answer, Call

STATUS = 200
CANCEL_S = 5.0
"""A call that is stopped waits so long for the engine's word on what it came to: a step, unless the device hangs."""
FINISH_REASONS = {EndReason.STOP: "stop", EndReason.LENGTH: "length"}


class LocalUpstream:
    """Belongs to the loop that made it. Its engine runs from then until `close`; `on_dead` is called in the engine's
    thread where it broke."""

    def __init__(self, loaded: Loaded, *, prefill_tokens: int, on_dead: Callable[[BaseException], None]) -> None:
        self._loaded = loaded
        self._answers = OpenAnswers()
        self._prompter = Prompter(loaded.tokenizer, context_tokens=loaded.context_tokens, defaults=loaded.defaults)
        self._engine = Engine(
            loaded.model,
            slots=loaded.slots,
            context_tokens=loaded.context_tokens,
            ends=loaded.ends,
            prefill_tokens=prefill_tokens,
            deliver=self._answers.deliver,
            on_dead=on_dead,
        )
        self._engine.start()

    async def call(self, call: Call) -> Answer:
        if call.endpoint != "chat":
            raise refused(f"a local upstream serves chat completions only, no {call.endpoint}")
        prompt = await self._prompter.prompt(call.body)
        request = Request(
            ids=prompt.ids,
            max_tokens=prompt.max_tokens,
            sampling=prompt.parameters.sampling,
            deadline_s=None if math.isinf(call.timeout_s) else time.monotonic() + call.timeout_s,
            urgent=call.urgent,
        )
        call.on_sent()
        with self._answers.writing(request, self._writing(prompt, call), cancel=self._engine.cancel) as answer:
            self._submit(request)
            ended = await self._ended(answer, call)
        return _answer(answer.writing, ended, call)

    async def close(self) -> None:
        """What still runs ends now: whoever closes has waited for what was worth it."""
        await asyncio.to_thread(self._engine.stop, 0.0)

    def _writing(self, prompt: Prompt, call: Call) -> Writing:
        return Writing(
            self._loaded.tokenizer,
            ends=self._loaded.ends,
            stop=prompt.parameters.stop,
            thoughts=Thoughts(begun=prompt.thinks) if self._loaded.thinks else None,
            writer=call.writer,
        )

    def _submit(self, request: Request) -> None:
        try:
            self._engine.submit(request)
        except Refused as error:
            raise refused(str(error)) from error
        except Busy as error:
            raise UpstreamError(str(error), code="overloaded", http_status=503) from error
        except EngineStopped as error:
            raise UpstreamError(str(error), kind="connect") from error

    async def _ended(self, answer: OpenAnswer, call: Call) -> Ended:
        """The engine's last word. Raises UpstreamError for what broke here, or where it says nothing any more; and
        CancelledError once it has let go, or does not within CANCEL_S."""
        try:
            await asyncio.wait([answer.ended], timeout=None if math.isinf(call.timeout_s) else call.timeout_s + HANG_S)
        except asyncio.CancelledError:
            self._engine.cancel(answer.request)
            await asyncio.wait([answer.ended], timeout=CANCEL_S)
            if answer.ended.done() and answer.ended.exception() is None:
                call.note_usage(_usage(answer.writing, answer.ended.result()))
            raise
        if not answer.ended.done():
            raise UpstreamError("the engine says nothing any more: its device hangs", kind="timeout")
        try:
            return answer.ended.result()
        except Exception as error:
            raise UpstreamError(f"the answer could not be written down: {error}", kind="garbage") from error


def _answer(writing: Writing, ended: Ended, call: Call) -> Answer:
    """Raises UpstreamError where the engine did not come to the answer's end."""
    usage = _usage(writing, ended)
    if not writing.stopped and ended.reason not in FINISH_REASONS:
        raise _failure(ended, usage)
    writing.finish()
    reason = "stop" if writing.stopped else FINISH_REASONS[ended.reason]
    body = {
        "id": call.request_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [{"index": 0, "finish_reason": reason, "message": writing.message}],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    }
    return Answer(
        body=orjson.dumps(body).decode(), usage=usage, http_status=STATUS, upstream_id=None, finish_reason=reason
    )


def _usage(writing: Writing, ended: Ended) -> TokenUsage:
    """A step may be on its way when a stop string is found: its tokens are not the answer's, its time is."""
    return TokenUsage(
        prompt_tokens=ended.prompt_tokens,
        completion_tokens=writing.tokens if writing.stopped else ended.completion_tokens,
        engine_us=round(ended.engine_s * 1_000_000),
    )


def _failure(ended: Ended, usage: TokenUsage) -> UpstreamError:
    """What it came to is known, so nothing is uncertain about it; what never began came to nothing."""
    told = ended.error or f"the engine ended the request: {ended.reason}"
    if ended.reason is EndReason.DEADLINE:
        return UpstreamError("no answer in time", kind="timeout", usage=usage)
    if ended.reason is EndReason.CANCELLED:
        return UpstreamError("the engine was stopped before the answer was whole", kind="cut", usage=usage)
    if ended.reason is EndReason.DEVICE and not usage.completion_tokens and not usage.engine_us:
        return UpstreamError(told, kind="connect")
    return UpstreamError(told, code="server_error", http_status=500, usage=usage)
