"""ZhipuAI's own SDK, unmodified, takes the simulator for the cloud."""

from __future__ import annotations

import asyncio

import pytest
from zhipuai import APIAuthenticationError, APIInternalError, APIReachLimitError, ZhipuAI

from tests.simulator.client import LIMIT_S, Client, Start
from tollgate.simulator import tokens

MESSAGES = [{"role": "user", "content": "hello from the SDK"}]


@pytest.fixture
async def server(start: Start) -> Client:
    return await start(latency_s=0.05)


@pytest.fixture(params=[True, False], ids=["key", "jwt"])
def sdk(server: Client, request: pytest.FixtureRequest) -> ZhipuAI:
    return ZhipuAI(
        api_key="tester.secret",
        base_url=server.simulator.base_url,
        max_retries=0,
        disable_token_cache=request.param,
    )


async def test_a_direct_call_is_answered_and_billed(server: Client, sdk: ZhipuAI) -> None:
    answer = await asyncio.to_thread(sdk.chat.completions.create, model="glm-4.7", messages=MESSAGES)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == tokens.count(answer.choices[0].message.content)
    assert answer.usage.completion_tokens == server.simulator.bill.completion_tokens


async def test_a_stream_carries_text_and_usage(server: Client, sdk: ZhipuAI) -> None:
    def read() -> tuple[str, object]:
        text, usage = "", None
        messages = [{"role": "user", "content": "[[echo]]one\u2028two\u0085three, some more words"}]
        for chunk in sdk.chat.completions.create(model="glm-4.7", messages=messages, stream=True):
            text += chunk.choices[0].delta.content or ""
            usage = chunk.usage or usage
        return text, usage

    text, usage = await asyncio.to_thread(read)
    assert text == "one\u2028two\u0085three, some more words"
    assert usage is not None


async def test_an_async_call_is_submitted_and_retrieved(server: Client, sdk: ZhipuAI) -> None:
    submitted = await asyncio.to_thread(
        sdk.chat.asyncCompletions.create, model="glm-4.7", messages=MESSAGES, request_id="request-1"
    )
    assert (submitted.task_status, submitted.request_id) == ("PROCESSING", "request-1")
    retrieve = sdk.chat.asyncCompletions.retrieve_completion_result
    async with asyncio.timeout(LIMIT_S):
        result = await asyncio.to_thread(retrieve, submitted.id)
        while result.task_status == "PROCESSING":
            result = await asyncio.to_thread(retrieve, submitted.id)
    assert result.task_status == "SUCCESS"
    assert result.choices[0].message.content.startswith("Simulated answer")
    assert result.usage.total_tokens > 0


async def test_a_failed_task_reads_as_fail(server: Client, sdk: ZhipuAI) -> None:
    messages = [{"role": "user", "content": "[[fault:fail]][[latency:0]]"}]
    create, retrieve = sdk.chat.asyncCompletions.create, sdk.chat.asyncCompletions.retrieve_completion_result
    submitted = await asyncio.to_thread(create, model="glm-4.7", messages=messages)
    assert (await asyncio.to_thread(retrieve, submitted.id)).task_status == "FAIL"


async def test_embeddings_are_read(server: Client, sdk: ZhipuAI) -> None:
    answer = await asyncio.to_thread(sdk.embeddings.create, model="embedding-3", input=["a", "b"])
    assert [len(item.embedding) for item in answer.data] == [8, 8]
    assert answer.usage.total_tokens == 2


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("[[fault:429]]", APIReachLimitError),
        ("[[fault:500]]", APIInternalError),
        ("[[fault:1000]]", APIAuthenticationError),
    ],
)
async def test_errors_are_the_sdks_classes(server: Client, sdk: ZhipuAI, prompt: str, error: type[Exception]) -> None:
    messages = [{"role": "user", "content": prompt}]
    with pytest.raises(error):
        await asyncio.to_thread(sdk.chat.completions.create, model="glm-4.7", messages=messages)
    assert server.simulator.stats.requests["chat"] == 1
