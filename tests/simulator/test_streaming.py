"""Streams: chunks, the last one with usage, then [DONE]; and what a cut leaves of them."""

from __future__ import annotations

import time

import aiohttp
import orjson
import pytest

from tests.simulator.client import KEY, Start, chat_body, frames


async def test_the_chunks_make_up_the_whole_answer(start: Start) -> None:
    client = await start()
    whole = await client.chat()
    streamed = frames((await client.chat(stream=True)).raw)
    chunks = [orjson.loads(frame) for frame in streamed[:-1]]
    assert streamed[-1] == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == whole.text
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == whole.body["usage"]
    assert not any("usage" in chunk for chunk in chunks[:-1])


async def test_line_separators_of_unicode_are_escaped(start: Start) -> None:
    raw = (await (await start()).chat("[[echo]]a\u2028b\u2029c\u0085d\x0be", stream=True)).raw.decode()
    assert not set("\u2028\u2029\u0085\x0b") & set(raw)
    assert "\\u2028" in raw


async def test_tokens_come_at_their_speed(start: Start) -> None:
    client = await start(tokens_per_second=100)
    before = time.monotonic()
    await client.chat("[[tokens:40]]", stream=True)
    streamed_s = time.monotonic() - before
    await client.chat("[[tokens:40]]")
    assert streamed_s > 0.35
    assert time.monotonic() - before - streamed_s > 0.35


@pytest.mark.parametrize("fault", ["stream_cut", "cut"])
async def test_a_cut_stream_breaks_off_and_is_billed_whole(start: Start, fault: str) -> None:
    client = await start()
    url, headers = f"{client.simulator.base_url}/chat/completions", {"Authorization": f"Bearer {KEY}"}
    body = chat_body(f"[[fault:{fault}]][[tokens:80]]", stream=True)
    got = b""
    async with client.session.post(url, json=body, headers=headers) as response:
        while b"[DONE]" not in got:
            try:
                got += await response.content.readany()
            except aiohttp.ClientPayloadError:
                break
    assert got.startswith(b"data: ")
    assert b"[DONE]" not in got
    assert client.simulator.bill.completion_tokens == 80


async def test_a_stream_cut_leaves_a_direct_call_alone(start: Start) -> None:
    assert (await (await start()).chat("[[fault:stream_cut]]")).status == 200


async def test_an_error_before_a_stream_is_an_http_error(start: Start) -> None:
    reply = await (await start()).chat("[[fault:500]]", stream=True)
    assert (reply.status, reply.code) == (500, "500")


async def test_thinking_and_tool_calls_are_streamed(start: Start) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    reply = await (await start()).chat(stream=True, thinking={"type": "enabled"}, tools=[tool], tool_choice="required")
    chunks = [orjson.loads(frame) for frame in frames(reply.raw)[:-1]]
    assert chunks[0]["choices"][0]["delta"]["reasoning_content"]
    assert chunks[-1]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "f"
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
