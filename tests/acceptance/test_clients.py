"""The four SDKs, unmodified, against real processes, in both ways to run Tollgate: one text, however it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import openai
import pytest
import zhipuai

from tests import sdks
from tests.acceptance.conftest import Deployment

MODEL = "glm-4-air"
TEXT = '  \u9ed1\u8272: line one\n\nline "two"\t\U0001f469\u200d\U0001f680 data: [DONE]\n:colons: \\ end'
MESSAGES: Any = [{"role": "user", "content": f"[[echo]]{TEXT}"}]
ECHO: Mapping[str, Any] = {"model": MODEL, "messages": MESSAGES}


def by_openai(deployment: Deployment) -> Iterator[tuple[str, int]]:
    with openai.OpenAI(api_key=deployment.key, base_url=f"{deployment.url}/v1", max_retries=0) as client:
        create: Any = client.chat.completions.create
        whole = create(model=MODEL, messages=MESSAGES)
        yield whole.choices[0].message.content, whole.usage.total_tokens
        options = {"include_usage": True}
        chunks = list(create(model=MODEL, messages=MESSAGES, stream=True, stream_options=options))
        yield "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks[-1].usage.total_tokens
        later: Any = client.responses.create(model=MODEL, input=MESSAGES[0]["content"], background=True)
        while later.status in ("queued", "in_progress"):
            later = client.responses.retrieve(later.id, timeout=60, extra_query={"wait": 20})
        yield later.output_text, later.usage.total_tokens


def by_zhipuai(deployment: Deployment, asked: Mapping[str, Any] = ECHO) -> Iterator[tuple[str, int]]:
    at = f"{deployment.url}/api/paas/v4"
    with zhipuai.ZhipuAI(api_key=deployment.key, base_url=at, max_retries=0) as client:
        whole: Any = client.chat.completions.create(**asked)
        yield whole.choices[0].message.content, whole.usage.total_tokens
        chunks: list[Any] = list(client.chat.completions.create(**asked, stream=True))
        yield "".join(c.choices[0].delta.content or "" for c in chunks), chunks[-1].usage.total_tokens
        made = client.chat.asyncCompletions.create(**asked)
        deployment.get(f"/tasks/{made.id}", wait=60)
        later: Any = client.chat.asyncCompletions.retrieve_completion_result(made.id)
        yield later.choices[0].message.content, later.usage.total_tokens


def by_zai(deployment: Deployment, asked: Mapping[str, Any] = ECHO) -> Iterator[tuple[str, int]]:
    def call(name: str) -> Any:
        at = f"{deployment.url}/api/paas/v4"
        return sdks.drive("zai", key=deployment.key, url=at, by_key=False, call=name, arguments=dict(asked))

    for name in ("whole", "async"):
        answer = call(name)
        yield answer["choices"][0]["message"]["content"], answer["usage"]["total_tokens"]
    chunks = call("stream")
    yield "".join(c["choices"][0]["delta"]["content"] or "" for c in chunks), chunks[-1]["usage"]["total_tokens"]


def by_zhipuai_1(deployment: Deployment, asked: Mapping[str, Any] = ECHO) -> Iterator[tuple[str, int]]:
    def call(name: str, **arguments: Any) -> Any:
        at = f"{deployment.url}/api/paas/v3/model-api"
        told = {**asked, "prompt": asked["messages"], **arguments}
        del told["messages"]
        return sdks.drive("zhipuai-1", key=deployment.key, url=at, call=name, arguments=told)

    def read(answer: Any) -> tuple[str, int]:
        return json.loads(answer["data"]["choices"][0]["content"]), answer["data"]["usage"]["total_tokens"]

    yield read(call("invoke"))
    *added, last = call("sse_invoke", incremental=True)
    yield "".join(event["data"] for event in added), json.loads(last["meta"])["usage"]["total_tokens"]
    task_id = call("async_invoke")["data"]["task_id"]
    deployment.get(f"/tasks/{task_id}", wait=60)
    yield read(call("query", task_id=task_id))


SDKS: list[Callable[[Deployment], Iterator[tuple[str, int]]]] = [by_openai, by_zhipuai, by_zai, by_zhipuai_1]


@pytest.mark.timeout(300)
def test_every_sdk_reads_the_same_text_whole_streamed_and_later(deployment: Deployment) -> None:
    answers = [answer for sdk in SDKS for answer in sdk(deployment)]
    assert [text for text, _ in answers] == [TEXT] * 3 * len(SDKS)
    bill = deployment.bill()
    assert bill["charges"] == len(answers), "each was bought once"
    assert sum(tokens for _, tokens in answers) == bill["prompt_tokens"] + bill["completion_tokens"]
    total = deployment.get("/usage")["total"]
    assert (total["tasks_succeeded"], total["cost"]) == (len(answers), bill["cost"])
