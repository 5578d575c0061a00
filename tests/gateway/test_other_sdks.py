"""The SDKs that cannot live beside zhipuai 2.x, each in an environment of its own that `make test` makes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests import sdks
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import LIMIT_S, V4
from tests.gateway.test_sdk import Served, serve
from tests.gateway.test_streams import AWKWARD, asking
from tollgate.simulator import SimulatorSettings

V3 = "/api/paas/v3/model-api"
LINES = AWKWARD.replace("\u2028", "").replace("\u2029", "").replace("\u0085", "")


@pytest.fixture
async def served(gate_with: OpenGate) -> AsyncIterator[Served]:
    simulator = SimulatorSettings(tokens_per_second=800, extra_models=("embedding-3",))
    async with gate_with(simulator=simulator, sync_retry_s=0.001) as gate, serve(gate) as running:
        yield running


async def drive(name: str, **asked: Any) -> Any:
    return await asyncio.to_thread(sdks.drive, name, **asked)


class TestZhipuai1:
    @staticmethod
    async def call(served: Served, call: str, **arguments: Any) -> Any:
        told = {"model": "glm-4.7", **arguments}
        return await drive("zhipuai-1", key=served.key, url=served.url + V3, call=call, arguments=told)

    async def test_invoke(self, served: Served) -> None:
        answer = await self.call(served, "invoke", prompt=asking(f"[[echo]]{AWKWARD}"), temperature=0.5, top_p=0.7)
        assert (answer["code"], answer["success"], answer["data"]["task_status"]) == (200, True, "SUCCESS")
        [choice] = answer["data"]["choices"]
        assert json.loads(choice["content"]) == AWKWARD
        assert served.gate.simulator is not None
        assert answer["data"]["usage"]["completion_tokens"] == served.gate.simulator.bill.completion_tokens

    async def test_invoke_for_plain_text(self, served: Served) -> None:
        answer = await self.call(served, "invoke", prompt="[[echo]]hello", return_type="text", request_id="request-1")
        assert answer["data"]["choices"] == [{"role": "assistant", "content": "hello"}]
        assert answer["data"]["request_id"] == "request-1"

    async def test_async_invoke_and_its_result(self, served: Served) -> None:
        made = await self.call(served, "async_invoke", prompt=asking("[[echo]]later"))
        assert made["data"]["task_status"] == "PROCESSING"
        task_id = made["data"]["task_id"]
        await (await served.gate.caller()).get(f"/tasks/{task_id}", wait=LIMIT_S)
        told = await self.call(served, "query", task_id=task_id)
        assert json.loads(told["data"]["choices"][0]["content"]) == "later"

    @pytest.mark.parametrize("incremental", [None, True, False])
    async def test_sse_invoke(self, served: Served, incremental: bool | None) -> None:
        text = f"  blanks first\n\n {LINES} end"
        events = await self.call(served, "sse_invoke", prompt=asking(f"[[echo]]{text}"), incremental=incremental)
        *added, last = events
        assert {event["event"] for event in added} == {"add"}
        assert len(added) > 2
        read = added[-1]["data"] if incremental is False else "".join(event["data"] for event in added)
        assert read == text
        assert last["event"] == "finish"
        meta = json.loads(last["meta"])
        assert meta["task_id"] == last["id"] == added[0]["id"]
        assert served.gate.simulator is not None
        assert meta["usage"]["completion_tokens"] == served.gate.simulator.bill.completion_tokens

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ({"model": "gpt"}, 1211),
            ({"prompt": []}, 1214),
            ({"temperature": 7}, 1214),
            ({"prompt": asking("[[fault:1301]]")}, 1301),
            ({"prompt": asking("[[fault:1302]]")}, 1302),
        ],
        ids=repr,
    )
    async def test_what_is_wrong_is_told_where_its_users_look(self, served: Served, arguments: Any, code: int) -> None:
        """Under HTTP 200: for any other status this SDK returns None."""
        answer = await self.call(served, "invoke", **{"prompt": asking("hello"), **arguments})
        assert (answer["code"], answer["success"]) == (code, False)
        assert answer["msg"]
        [event] = await self.call(served, "sse_invoke", **{"prompt": asking("hello"), **arguments})
        assert event["event"] == "error"
        assert event["data"].startswith(f"[{code}][")

    async def test_a_wrong_key_and_a_task_of_nobody(self, served: Served) -> None:
        asked = {"url": served.url + V3, "arguments": {"task_id": "8098028963974553570"}, "call": "query"}
        assert (await drive("zhipuai-1", key="wrong.key", **asked))["code"] == 1000
        assert (await drive("zhipuai-1", key=served.key, **asked))["code"] == 1200

    async def test_an_embedding_is_not_streamed(self, served: Served) -> None:
        [event] = await self.call(served, "sse_invoke", model="embedding-3", prompt="a text")
        assert (event["event"], event["data"][:7]) == ("error", "[1212][")

    async def test_an_embedding(self, served: Served) -> None:
        answer = await self.call(served, "invoke", model="embedding-3", prompt="a text")
        assert all(isinstance(number, float) for number in answer["data"]["embedding"])


@pytest.mark.parametrize("by_key", [True, False], ids=["key", "jwt"])
class TestZai:
    @staticmethod
    async def call(served: Served, by_key: bool, call: str, **arguments: Any) -> Any:
        told = {"model": "glm-4.7", **arguments}
        asked = {"key": served.key, "url": served.url + V4, "by_key": by_key, "call": call, "arguments": told}
        return await drive("zai", **asked)

    async def test_the_same_answer_whole_streamed_and_fetched(self, served: Served, by_key: bool) -> None:
        messages = asking(f"[[echo]]{AWKWARD}")
        whole = await self.call(served, by_key, "whole", messages=messages)
        chunks = await self.call(served, by_key, "stream", messages=messages)
        fetched = await self.call(served, by_key, "async", messages=messages)
        assert whole["choices"][0]["message"]["content"] == AWKWARD
        assert "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks) == AWKWARD
        assert fetched["choices"][0]["message"]["content"] == AWKWARD
        assert chunks[-1]["usage"]["total_tokens"] == whole["usage"]["total_tokens"]

    async def test_what_fails(self, served: Served, by_key: bool) -> None:
        told = await self.call(served, by_key, "stream", messages=asking("[[fault:1302]]"))
        assert told == {"raised": "APIReachLimitError", "status": 429}

    async def test_embeddings(self, served: Served, by_key: bool) -> None:
        made = await self.call(served, by_key, "embeddings", model="embedding-3", input=["one"])
        assert made["usage"]["completion_tokens"] == 0
