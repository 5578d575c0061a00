"""A server that speaks as vLLM does, or SGLang: chunks, usage, errors, metrics, and the abort of who hangs up.

The forms are those of vLLM's `entrypoints/openai` and SGLang's `srt/entrypoints/openai`. Both are ASGI on uvicorn, and
so is this.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tollgate.cli.http_server import Server

PROMPT_TOKENS = 9
ID = "chatcmpl-0a1b2c3d4e5f"
VLLM_METRICS = """\
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 12662.0
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="glm-4-9b"} 3.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="glm-4-9b"} 1.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="glm-4-9b"} 0.4213
# HELP vllm:time_to_first_token_seconds Histogram of time to first token in seconds.
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="glm-4-9b"} 12.0
vllm:cache_config_info{block_size="16",cache_dtype="auto",engine="0",num_gpu_blocks="8192"} 1.0
"""
SGLANG_METRICS = """\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="glm-4-9b",pp_rank="0",tp_rank="0"} 14.0
sglang:num_running_reqs{engine_type="unified",model_name="glm-4-9b",pp_rank="0",tp_rank="1"} 14.0
# HELP sglang:num_queue_reqs The number of requests in the waiting queue.
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{engine_type="unified",model_name="glm-4-9b",pp_rank="0",tp_rank="0"} 20.0
sglang:num_queue_reqs{engine_type="unified",model_name="glm-4-9b",pp_rank="0",tp_rank="1"} 20.0
# HELP sglang:token_usage The token usage.
# TYPE sglang:token_usage gauge
sglang:token_usage{engine_type="unified",model_name="glm-4-9b",pp_rank="0",tp_rank="0"} 0.74
"""


@dataclass(kw_only=True)
class InferenceServer:
    """Writes `pieces`, a token each. `gate`, once cleared, holds what comes after the first piece."""

    pieces: tuple[str, ...] = ("Four", " is", " the", " answer", ".")
    continuous: bool = False
    """Usage with every chunk: --enable-force-include-usage, or stream_options.continuous_usage_stats."""
    breaks: bool = False
    """It ends a stream with an error in the middle."""
    refusal: tuple[int, dict[str, Any]] | None = None
    health: int = 200
    metrics: str | None = VLLM_METRICS
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    """Whoever asked has hung up, and the engine works for him no more."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    base_url: str = ""

    async def __aenter__(self) -> InferenceServer:
        self.gate.set()
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
        ]
        self._listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(Starlette(routes=routes), lifespan="off", log_config=None, access_log=False, ws="none")
        ready = asyncio.Event()
        self._server = Server(config, on_ready=ready.set)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        await ready.wait()
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.gate.set()
        self._server.should_exit = True
        await self._serving
        self._listener.close()

    async def _complete(self, request: Request) -> Response:
        self.asked.append(body := orjson.loads(await request.body()))
        if self.refusal is not None:
            status, told = self.refusal
            return JSONResponse(told, status_code=status)
        if body.get("stream"):
            return StreamingResponse(self._chunks(body), media_type="text/event-stream")
        return await self._unless_gone(request, self._whole())

    async def _whole(self) -> Response:
        self.arrived.set()
        await self.gate.wait()
        message = {"role": "assistant", "content": "".join(self.pieces), "tool_calls": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        return JSONResponse({**_head("chat.completion"), "choices": [choice], "usage": self._usage(len(self.pieces))})

    async def _unless_gone(self, request: Request, answer: Any) -> Response:
        """As vLLM's `with_cancellation`: whichever is first, the answer or the end of the connection."""
        answering = asyncio.ensure_future(answer)
        leaving = asyncio.create_task(self._left(request))
        await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            leaving.cancel()
            done: Response = answering.result()
            return done
        answering.cancel()
        self.aborted.set()
        return Response(status_code=499)

    async def _left(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """`data: [DONE]` last, and before it the usage, in a chunk without choices."""
        try:
            yield self._chunk({"role": "assistant", "content": ""}, written=0)
            for written, piece in enumerate(self.pieces, start=1):
                yield self._chunk({"content": piece}, written=written)
                self.arrived.set()
                await self.gate.wait()
                if self.breaks:
                    yield b'data: {"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}\n\n'
                    yield b"data: [DONE]\n\n"
                    return
            yield self._chunk({"content": ""}, written=len(self.pieces), finish_reason="stop")
            if (body.get("stream_options") or {}).get("include_usage"):
                last = {**_head("chat.completion.chunk"), "choices": [], "usage": self._usage(len(self.pieces))}
                yield b"data: " + orjson.dumps(last) + b"\n\n"
            yield b"data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.set()
            raise

    def _chunk(self, delta: dict[str, Any], *, written: int, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, "token_ids": None}
        chunk = {**_head("chat.completion.chunk"), "choices": [choice]}
        if self.continuous:
            chunk["usage"] = self._usage(written)
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _usage(self, written: int) -> dict[str, Any]:
        details = {"cached_tokens": 4}
        return {
            "prompt_tokens": PROMPT_TOKENS,
            "total_tokens": PROMPT_TOKENS + written,
            "completion_tokens": written,
            "prompt_tokens_details": details,
        }

    async def _models(self, _: Request) -> Response:
        card = {"id": "glm-4-9b", "object": "model", "created": 1, "owned_by": "vllm", "root": "zai-org/GLM-4-9B-0414"}
        return JSONResponse({"object": "list", "data": [{**card, "max_model_len": 32768}]})

    async def _health(self, _: Request) -> Response:
        return Response(status_code=self.health)

    async def _metrics(self, _: Request) -> Response:
        if self.metrics is None:
            return JSONResponse({"detail": "Not Found"}, status_code=404)
        return PlainTextResponse(self.metrics, media_type="text/plain; version=0.0.4; charset=utf-8")


def _head(kind: str) -> dict[str, Any]:
    return {"id": ID, "object": kind, "created": 1_770_000_000, "model": "glm-4-9b"}
