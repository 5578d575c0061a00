"""Streams, read by the SDKs that people have: the same answer as in one piece, word by word."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import orjson
import pytest
import zhipuai
from openai import AsyncOpenAI

from tests.broker.private_redis import PrivateRedis
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import LIMIT_S, V4, until
from tests.gateway.test_sdk import MESSAGES, Served, serve
from tests.gateway.upstream import Dictated, listening
from tollgate.broker import bus as bus_module
from tollgate.broker.bus import RedisBus
from tollgate.simulator import SimulatorSettings

AWKWARD = 'he said: "你好"\n\n第二行: a:b \u2028\u2029\u0085 🙂 \\ </s> data: [DONE]'
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


@pytest.fixture
async def served(gate_with: OpenGate) -> AsyncIterator[Served]:
    async with (
        gate_with(simulator=SimulatorSettings(tokens_per_second=400, extra_models=("embedding-3",))) as gate,
        serve(gate) as running,
    ):
        yield running


def asking(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@contextlib.asynccontextmanager
async def of_openai(served: Served, **options: Any) -> AsyncIterator[Any]:
    """OpenAI's client. Any: its types know no fields but OpenAI's."""
    plain = {"api_key": served.key, "base_url": served.url + "/v1", "max_retries": 0}
    async with AsyncOpenAI(**{**plain, **options}) as client:
        yield client


async def chunks_of(served: Served, messages: Any, **options: Any) -> list[Any]:
    """By ZhipuAI's SDK."""
    read: list[Any] = []
    await asyncio.to_thread(read_into, read, served, messages, **options)
    return read


def read_into(read: list[Any], served: Served, messages: Any, **options: Any) -> None:
    """What comes before an error is kept, too."""
    with contextlib.closing(served.sdk()) as client:
        stream: Any = client.chat.completions.create(model="glm-4.7", messages=messages, stream=True, **options)
        with contextlib.closing(stream.response):
            read.extend(stream)


def joined(chunks: list[Any], field: str = "content") -> str:
    return "".join(getattr(c.choices[0].delta, field, None) or "" for c in chunks if c.choices)


class TestZhipu:
    async def test_a_stream_says_what_the_whole_answer_says(self, served: Served) -> None:
        messages = asking(f"[[echo]]{AWKWARD}")
        chunks = await chunks_of(served, messages)
        assert joined(chunks) == AWKWARD
        assert len(chunks) > 3, "it came in pieces"
        assert all(chunk.choices for chunk in chunks)
        assert [c.choices[0].finish_reason for c in chunks][-2:] == [None, "stop"]
        whole = await asyncio.to_thread(served.sdk().chat.completions.create, model="glm-4.7", messages=messages)
        assert whole.choices[0].message.content == AWKWARD
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens

    async def test_reasoning_and_tool_calls_are_streamed_too(self, served: Served) -> None:
        chunks = await chunks_of(
            served, asking("[[tool]]rain?"), tools=TOOLS, extra_body={"thinking": {"type": "enabled"}}
        )
        calls = [call for c in chunks for call in (c.choices[0].delta.tool_calls or [])]
        assert [call.function.name for call in calls] == ["weather"]
        orjson.loads(calls[0].function.arguments)
        assert chunks[-1].choices[0].finish_reason == "tool_calls"

    async def test_what_it_cost_is_kept_and_its_result_can_be_fetched(self, served: Served) -> None:
        chunks = await chunks_of(served, asking("[[tokens:40]]"))
        caller = await served.gate.caller()
        task = await caller.get(f"/tasks/{chunks[0].id}")
        assert served.gate.simulator is not None
        assert task["usage"]["completion_tokens"] == served.gate.simulator.bill.completion_tokens
        assert task["result"]["choices"][0]["message"]["content"] == joined(chunks)

    @pytest.mark.parametrize(
        ("fault", "error"), [("1301", zhipuai.APIRequestFailedError), ("1302", zhipuai.APIReachLimitError)]
    )
    async def test_what_fails_before_its_first_word_raises_as_without_a_stream(
        self, gate_with: OpenGate, fault: str, error: Any
    ) -> None:
        async with gate_with(simulator=SimulatorSettings(), sync_retry_s=0.001) as gate, serve(gate) as served:
            with pytest.raises(error):
                await chunks_of(served, asking(f"[[fault:{fault}]]"))

    async def test_a_stream_that_breaks_off_raises_and_is_not_repeated_silently(self, served: Served) -> None:
        read: list[Any] = []
        with pytest.raises(zhipuai.APIResponseError):
            await asyncio.to_thread(read_into, read, served, asking("[[fault:stream_cut]][[tokens:80]]"))
        assert joined(read)


class TestOpenAI:
    async def test_a_stream_says_what_the_whole_answer_says(self, served: Served) -> None:
        async with of_openai(served) as client:
            stream = await client.chat.completions.create(
                model="glm-4.7", messages=asking(f"[[echo]]{AWKWARD}"), stream=True, temperature=1.5
            )
            chunks = [chunk async for chunk in stream]
        assert joined(chunks) == AWKWARD
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [c.choices[0].finish_reason for c in chunks][-1] == "stop"
        assert all(chunk.usage is None for chunk in chunks)

    async def test_usage_comes_where_it_is_asked_for_in_a_chunk_without_choices(self, served: Served) -> None:
        async with of_openai(served) as client:
            stream = await client.chat.completions.create(
                model="glm-4.7", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
            *chunks, last = [chunk async for chunk in stream]
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)
        assert last.choices == []
        assert served.gate.simulator is not None
        assert last.usage.completion_tokens == served.gate.simulator.bill.completion_tokens

    async def test_a_call_without_a_stream(self, served: Served) -> None:
        async with of_openai(served) as client:
            whole = await client.chat.completions.create(
                model="glm-4.7",
                messages=[{"role": "developer", "content": "be kind"}, *asking("[[echo]]hello")],
                temperature=2,
                max_completion_tokens=50,
                n=1,
                stop="never",
                user="somebody",
                frequency_penalty=0.5,
            )
        assert (whole.object, whole.choices[0].message.content) == ("chat.completion", "hello")
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    async def test_models(self, served: Served) -> None:
        async with of_openai(served) as client:
            listed = await client.models.list()
            assert "glm-4.7" in [model.id for model in listed.data]
            assert (await client.models.retrieve("flash")).id == "flash"
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("gpt-4")

    async def test_an_idempotency_key_is_a_request_id(self, served: Served) -> None:
        caller = await served.gate.caller()
        headers = {"Authorization": f"Bearer {caller.key}", "Idempotency-Key": "only-once"}
        for path, body in (
            ("/v1/chat/completions", {"model": "glm-4.7", "messages": MESSAGES}),
            ("/v1/embeddings", {"model": "embedding-3", "input": "a text"}),
        ):
            once = {**headers, "Idempotency-Key": f"only-once-{path[-4:]}"}
            answers = [await caller.http.post(path, json=body, headers=once) for _ in range(2)]
            assert [answer.status_code for answer in answers] == [200, 200]
            assert len({answer.headers["x-task-id"] for answer in answers}) == 1
        short = await caller.http.post("/v1/embeddings", json=body, headers={**headers, "Idempotency-Key": "x"})
        assert short.status_code == 400

    @pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"dimensions": 256}], ids=repr)
    async def test_embeddings(self, served: Served, options: Any) -> None:
        async with of_openai(served) as client:
            made = await client.embeddings.create(model="embedding-3", input=["one", "two"], **options)
        assert [each.index for each in made.data] == [0, 1]
        assert len(made.data[0].embedding) == options.get("dimensions", len(made.data[1].embedding))
        theirs = await asyncio.to_thread(
            served.sdk().embeddings.create, model="embedding-3", input=["one", "two"], extra_body=dict(options)
        )
        assert made.data[0].embedding == pytest.approx(theirs.data[0].embedding, abs=1e-6)
        assert theirs.usage.completion_tokens == 0

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"model": "gpt-4"}, openai.NotFoundError),
            ({"messages": []}, openai.BadRequestError),
            ({"temperature": 3}, openai.BadRequestError),
            ({"n": 2}, openai.BadRequestError),
            ({"messages": asking("[[fault:1301]]")}, openai.BadRequestError),
            ({"messages": asking("[[fault:1302]]")}, openai.RateLimitError),
            ({"messages": asking("[[fault:500]]")}, openai.InternalServerError),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
    async def test_what_fails_raises_what_its_users_catch_and_once(
        self, gate_with: OpenGate, given: Any, error: Any, streamed: bool
    ) -> None:
        async with gate_with(simulator=SimulatorSettings(), sync_retry_s=0.001) as gate, serve(gate) as served:
            async with of_openai(served, max_retries=2) as client:
                create: Any = client.chat.completions.create
                with pytest.raises(error) as raised:
                    await create(**{"model": "glm-4.7", "messages": MESSAGES, "stream": streamed, **given})
            assert raised.value.body["message"]
            assert gate.simulator is not None
            assert gate.simulator.stats.requests["chat"] <= 1

    async def test_a_wrong_key(self, served: Served) -> None:
        async with of_openai(served, api_key="wrong.key") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()


class TestEvents:
    """GET /tasks/{id}/events."""

    async def test_a_reader_that_is_cut_off_goes_on_where_it_was(self, served: Served) -> None:
        async with httpx2.AsyncClient(base_url=served.url, headers=bearer(served)) as http:
            made = (await http.post("/tasks", json=task("[[tokens:100]]", stream=True))).json()
            first, place = await events_of(http, made["id"], stop_after=4)
            rest, _ = await events_of(http, made["id"], after=place)
            again, _ = await events_of(http, made["id"])
            later, _ = await events_of(http, made["id"], after=place)
        ended = rest[-1][1]
        assert rest[-1][0] == "end"
        text = ended["result"]["choices"][0]["message"]["content"]
        assert told(first) + told(rest) == told(again) == text
        assert told(later) == told(rest)
        assert told(first)

    async def test_a_task_that_is_not_streamed_is_told_at_its_end(self, served: Served) -> None:
        async with httpx2.AsyncClient(base_url=served.url, headers=bearer(served)) as http:
            made = (await http.post("/tasks", json=task(f"[[echo]]{AWKWARD}"))).json()
            events, _ = await events_of(http, made["id"])
        assert [name for name, _ in events] == ["delta", "end"]
        assert told(events) == AWKWARD

    async def test_an_attempt_that_breaks_off_is_told_as_a_restart(self, served: Served) -> None:
        async with httpx2.AsyncClient(base_url=served.url, headers=bearer(served)) as http:
            made = (await http.post("/tasks", json=task("[[fault:once:stream_cut]][[tokens:60]]", stream=True))).json()
            events, _ = await events_of(http, made["id"])
        names = [name for name, _ in events]
        restart = names.index("restart")
        assert 0 < restart < len(names) - 1
        final = events[-1][1]
        assert told(events[restart:]) == final["result"]["choices"][0]["message"]["content"]
        first, second = final["attempts"]
        assert (first["outcome"], second["outcome"]) == ("failed", "succeeded")
        assert first["completion_tokens"] > 0, "what was generated is billed"
        assert first["cost_estimated"]

    async def test_many_read_one_stream(self, served: Served) -> None:
        async with httpx2.AsyncClient(base_url=served.url, headers=bearer(served)) as http:
            made = (await http.post("/tasks", json=task("[[tokens:80]]", stream=True))).json()
            read = await asyncio.gather(*(events_of(http, made["id"]) for _ in range(8)))
        assert len({told(events) for events, _ in read}) == 1
        assert len(served.gate.services.watches) == 0

    async def test_a_slow_reader_gets_all_and_holds_nobody_up(self, served: Served) -> None:
        """It reads 1 KB at a time from a small buffer, and after the first pauses until the others are done."""
        caller = await served.gate.caller()
        made = await caller.submit(task("[[tokens:400]]", stream=True))
        go_on = threading.Event()
        slow = asyncio.create_task(asyncio.to_thread(read_slowly, served, made["id"], go_on))
        try:
            async with httpx2.AsyncClient(base_url=served.url, headers=bearer(served)) as http:
                events, _ = await events_of(http, made["id"])
        finally:
            go_on.set()
        received = await slow
        assert told(received) == told(events)

    async def test_a_gateway_that_stops_cuts_it_and_says_no_end(self, served: Served) -> None:
        caller = await served.gate.caller()
        made = await caller.submit(task("[[tokens:200]]", stream=True))
        async with httpx2.AsyncClient(base_url=served.url, headers=bearer(served)) as http:
            reading = asyncio.create_task(events_of(http, made["id"]))
            await until(lambda: len(served.gate.services.watches) == 1)
            served.gate.services.waiters.release()
            events, _ = await reading
        assert "end" not in [name for name, _ in events]

    @pytest.mark.parametrize("given", ["1", "x:0.0", "1:0", "1:0.x"])
    async def test_an_id_that_is_none_is_told(self, served: Served, given: str) -> None:
        async with httpx2.AsyncClient(base_url=served.url, headers=bearer(served)) as http:
            made = (await http.post("/tasks", json=task())).json()
            answer = await http.get(f"/tasks/{made['id']}/events", headers={"Last-Event-ID": given})
        assert answer.status_code == 400
        assert "Last-Event-ID" in answer.text

    async def test_nobody_elses(self, served: Served) -> None:
        theirs = await served.gate.caller(project="other")
        made = await theirs.submit(task(stream=True))
        async with httpx2.AsyncClient(base_url=served.url, headers=bearer(served)) as http:
            assert (await http.get(f"/tasks/{made['id']}/events")).status_code == 404


class TestOverRedis:
    """With the bus of the distributed mode."""

    @pytest.fixture
    async def served(
        self, gate_with: OpenGate, private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Served]:
        monkeypatch.setattr(bus_module, "RECONNECT_S", 0.05)
        bus = RedisBus(private_redis.url)
        simulator = SimulatorSettings(tokens_per_second=200)
        async with gate_with(simulator=simulator, bus=bus) as gate, serve(gate) as running:
            yield running
        await bus.close()

    async def test_it_is_told_word_by_word(self, served: Served) -> None:
        chunks = await chunks_of(served, asking(f"[[echo]]{AWKWARD * 4}"))
        assert joined(chunks) == AWKWARD * 4
        assert len(chunks) > 6

    async def test_a_server_that_restarts_in_mid_stream_costs_no_word(
        self, gate_with: OpenGate, private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The model goes on only when what it wrote was read: nothing here depends on how fast anything is."""
        monkeypatch.setattr(bus_module, "RECONNECT_S", 0.05)
        dictated = Dictated()
        events: list[tuple[str, Any]] = []
        async with contextlib.AsyncExitStack() as stack:
            base_url = await stack.enter_async_context(listening(dictated.receive))
            stack.callback(dictated.end)
            bus = RedisBus(private_redis.url)
            stack.push_async_callback(bus.close)
            gate = await stack.enter_async_context(gate_with(upstream=base_url, bus=bus))
            served = await stack.enter_async_context(serve(gate))
            http = httpx2.AsyncClient(base_url=served.url, headers=bearer(served), timeout=60)
            await stack.enter_async_context(http)
            made = (await http.post("/tasks", json=task(stream=True))).json()
            reading = asyncio.create_task(events_of(http, made["id"], into=events))
            for text in ("one ", "two ", "three "):
                dictated.say(text)
                await until(functools.partial(heard, events, text), limit_s=60)
                assert not reading.done(), "it comes in pieces, after the restart too"
                await asyncio.to_thread(private_redis.stop)
                await asyncio.to_thread(private_redis.start)
            dictated.end()
            await asyncio.wait_for(reading, 60)
        assert told(events) == "one two three " == events[-1][1]["result"]["choices"][0]["message"]["content"]


class TestLeaving:
    async def test_a_client_that_leaves_leaves_its_task_running(self, served: Served) -> None:
        task_id = await leave(served)
        caller = await served.gate.caller()
        assert (await caller.get(f"/tasks/{task_id}", wait=LIMIT_S))["state"] == "succeeded"

    async def test_a_client_that_asks_for_it_cancels_and_pays_what_was_written(self, served: Served) -> None:
        task_id = await leave(served, {"x-on-disconnect": "cancel"})
        caller = await served.gate.caller()
        ended = await caller.get(f"/tasks/{task_id}", wait=LIMIT_S)
        assert ended["state"] == "cancelled"
        [attempt] = ended["attempts"]
        assert 0 < attempt["completion_tokens"] < 200
        assert attempt["cost_estimated"]


async def leave(served: Served, headers: dict[str, str] | None = None) -> str:
    """Read a little, and go."""
    asked = {"model": "glm-4.7", "messages": asking("[[tokens:200]]"), "stream": True}
    async with (
        httpx2.AsyncClient(base_url=served.url, headers=bearer(served)) as http,
        http.stream("POST", f"{V4}/chat/completions", json=asked, headers=headers or {}) as response,
    ):
        async for line in response.aiter_lines():
            if line:
                break
    await until(lambda: len(served.gate.services.watches) == 0)
    return str(response.headers["x-task-id"])


def task(prompt: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "glm-4.7", "prompt": prompt, **fields}


def bearer(served: Served) -> dict[str, str]:
    return {"Authorization": f"Bearer {served.key}"}


async def events_of(
    http: httpx2.AsyncClient,
    task_id: str,
    *,
    after: str | None = None,
    stop_after: int | None = None,
    into: list[tuple[str, Any]] | None = None,
) -> tuple[list[tuple[str, Any]], str]:
    """Name and data of each, and the last id. Each is put `into` the caller's list as it comes."""
    events: list[tuple[str, Any]] = [] if into is None else into
    place, name = "", ""
    headers = {"Last-Event-ID": after} if after else {}
    async with http.stream("GET", f"/tasks/{task_id}/events", headers=headers) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                place = value
            elif field == "data":
                events.append((name, orjson.loads(value)))
                if len(events) == stop_after:
                    break
    return events, place


def read_slowly(served: Served, task_id: str, go_on: threading.Event) -> list[tuple[str, Any]]:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((host, int(port)))
        asked = f"GET /tasks/{task_id}/events HTTP/1.0\r\nAuthorization: Bearer {served.key}\r\n\r\n"
        connection.sendall(asked.encode())
        raw = b""
        while part := connection.recv(1024):
            raw += part
            go_on.wait()
    frames = raw.partition(b"\r\n\r\n")[2].decode().split("\n\n")
    named = (dict(line.split(": ", 1) for line in one.splitlines() if ": " in line) for one in frames)
    return [(one["event"], orjson.loads(one["data"])) for one in named if "data" in one]


def heard(events: list[tuple[str, Any]], text: str) -> bool:
    return told(events).endswith(text)


def told(events: list[tuple[str, Any]]) -> str:
    return "".join(data.get("content", "") for name, data in events if name == "delta")
