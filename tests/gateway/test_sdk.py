"""ZhipuAI's own SDK, unmodified, against a served gateway: it takes it for the cloud."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
import zhipuai
from zhipuai import ZhipuAI
from zhipuai.types.chat.async_chat_completion import AsyncCompletion, AsyncTaskStatus

from tests.gateway.conftest import OpenGate
from tests.gateway.gate import LIMIT_S, V4, Caller, Gate, until
from tollgate.domain.states import Role
from tollgate.simulator import SimulatorSettings

MESSAGES = [{"role": "user", "content": "hello from the SDK"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A gateway on a port of its own."""

    gate: Gate
    url: str
    key: str

    def sdk(self, **options: Any) -> ZhipuAI:
        plain = {"api_key": self.key, "base_url": self.url + V4, "max_retries": 0}
        return ZhipuAI(**{**plain, **options})


class Server(uvicorn.Server):
    """Signals stay the test run's own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serve(gate: Gate) -> AsyncIterator[Served]:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        config = uvicorn.Config(gate.app, lifespan="off", log_config=None, access_log=False, ws="none")
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started or serving.done())
        try:
            yield Served(gate=gate, url=f"http://127.0.0.1:{listener.getsockname()[1]}", key=await gate.key())
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, LIMIT_S)


@pytest.fixture
async def served(gate_with: OpenGate) -> AsyncIterator[Served]:
    simulator = SimulatorSettings()
    async with gate_with(simulator=simulator, sync_retry_s=0.001) as gate, serve(gate) as running:
        yield running


@pytest.fixture(params=[True, False], ids=["key", "jwt"])
def sdk(served: Served, request: pytest.FixtureRequest) -> ZhipuAI:
    return served.sdk(disable_token_cache=request.param)


async def test_an_async_call_is_submitted_and_retrieved(served: Served, sdk: ZhipuAI) -> None:
    calls = sdk.chat.asyncCompletions
    made = await asyncio.to_thread(calls.create, model="glm-4.7", messages=MESSAGES, request_id="request-1")
    assert isinstance(made, AsyncTaskStatus)
    assert made.request_id == "request-1"
    result: Any = made
    async with asyncio.timeout(LIMIT_S):
        while result.task_status == "PROCESSING":
            result = await asyncio.to_thread(calls.retrieve_completion_result, made.id)
    assert isinstance(result, AsyncCompletion)
    assert (result.task_status, result.id, result.request_id) == ("SUCCESS", made.id, "request-1")
    assert result.choices[0].finish_reason == "stop"
    assert served.gate.simulator is not None
    assert result.usage.completion_tokens == served.gate.simulator.bill.completion_tokens


async def test_a_direct_call_is_answered(served: Served, sdk: ZhipuAI) -> None:
    answer = await asyncio.to_thread(sdk.chat.completions.create, model="glm-4.7", messages=MESSAGES, temperature=0)
    assert answer.choices[0].message.content
    assert served.gate.simulator is not None
    assert answer.usage.completion_tokens == served.gate.simulator.bill.completion_tokens


async def test_a_task_under_way_reads_as_processing_and_a_failed_one_as_fail(served: Served) -> None:
    sdk = served.sdk()
    create, retrieve = sdk.chat.asyncCompletions.create, sdk.chat.asyncCompletions.retrieve_completion_result
    for hook, status in (("[[latency:60]]", "PROCESSING"), ("[[fault:1301]]", "FAIL")):
        made = await asyncio.to_thread(create, model="glm-4.7", messages=[{"role": "user", "content": hook}])
        async with asyncio.timeout(LIMIT_S):
            result = await asyncio.to_thread(retrieve, made.id)
            while result.task_status != status:
                result = await asyncio.to_thread(retrieve, made.id)
        assert isinstance(result, AsyncTaskStatus)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"model": "gpt"}, zhipuai.APIRequestFailedError),
        ({"messages": []}, zhipuai.APIRequestFailedError),
        ({"request_id": "short"}, zhipuai.APIRequestFailedError),
        ({"messages": [{"role": "user", "content": "[[fault:1302]]"}]}, zhipuai.APIReachLimitError),
        ({"messages": [{"role": "user", "content": "[[fault:500]]"}]}, zhipuai.APIInternalError),
    ],
    ids=repr,
)
async def test_what_fails_raises_what_its_users_catch_and_once(served: Served, given: Any, error: Any) -> None:
    """With the SDK's own retries on: an error that is final is not sent again."""
    create = served.sdk(max_retries=3).chat.completions.create
    with pytest.raises(error) as raised:
        await asyncio.to_thread(create, **{"model": "glm-4.7", "messages": MESSAGES, **given})
    assert raised.value.response.json()["error"]["message"]
    assert served.gate.simulator is not None
    assert served.gate.simulator.stats.requests["chat"] <= 1


async def test_an_unknown_task_is_a_status_error_of_404(served: Served) -> None:
    retrieve = served.sdk().chat.asyncCompletions.retrieve_completion_result
    with pytest.raises(zhipuai.APIStatusError) as raised:
        await asyncio.to_thread(retrieve, "00000000-0000-7000-8000-000000000000")
    assert raised.value.status_code == 404


@pytest.mark.parametrize("by_key", [True, False], ids=["key", "jwt"])
async def test_a_wrong_key_is_an_authentication_error(served: Served, by_key: bool) -> None:
    key_id, _, _ = served.key.partition(".")
    sdk = served.sdk(api_key=f"{key_id}.{'0' * 32}", disable_token_cache=by_key)
    with pytest.raises(zhipuai.APIAuthenticationError):
        await asyncio.to_thread(sdk.chat.completions.create, model="glm-4.7", messages=MESSAGES)


async def test_a_conflict_is_a_failed_request_and_not_sent_again(served: Served) -> None:
    create = served.sdk(max_retries=3).chat.asyncCompletions.create
    await asyncio.to_thread(create, model="glm-4.7", messages=MESSAGES, request_id="request-1")
    with pytest.raises(zhipuai.APIRequestFailedError) as raised:
        await asyncio.to_thread(create, model="glm-4-flash", messages=MESSAGES, request_id="request-1")
    assert raised.value.response.json()["error"]["code"] == "1231"


async def test_a_submission_over_its_budget_is_a_reached_limit_and_not_sent_again(served: Served) -> None:
    admin = Caller(http=served.gate.http, key=await served.gate.key(role=Role.ADMIN))
    limits = {"project": "acme", "period": "day", "limit_cost": "0"}
    assert (await admin.send("PUT", "/budgets", body=limits)).status_code == 200
    answers: list[httpx.Response] = []
    with httpx.Client(event_hooks={"response": [answers.append]}) as http:
        sdk = served.sdk(max_retries=3, http_client=http)
        for create in (sdk.chat.asyncCompletions.create, sdk.chat.completions.create):
            with pytest.raises(zhipuai.APIReachLimitError) as raised:
                await asyncio.to_thread(create, model="glm-4.7", messages=MESSAGES)
            assert raised.value.response.json()["error"]["code"] == "1113"
    assert [answer.status_code for answer in answers] == [429, 429], "each was sent once"


async def test_a_client_that_closes_its_connection_is_noticed(served: Served) -> None:
    """Over a real socket, as uvicorn tells it."""
    host, port = served.url.removeprefix("http://").split(":")
    body = b'{"model":"glm-4.7","messages":[{"role":"user","content":"[[latency:60]]"}]}'
    head = f"POST {V4}/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: {served.key}\r\n"
    head += "x-on-disconnect: cancel\r\n"
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    simulator = served.gate.simulator
    assert simulator is not None
    await until(lambda: simulator.stats.in_flight)
    writer.close()
    await writer.wait_closed()
    await until(lambda: not served.gate.services.waiters.waiting)
    caller = Caller(http=served.gate.http, key=served.key)
    (task,) = (await caller.get("/tasks"))["data"]
    assert (await caller.get(f"/tasks/{task['id']}", wait=LIMIT_S))["state"] == "cancelled"
