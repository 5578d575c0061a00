"""What the SDKs make of a limit that is reached: the class that their users catch, and sent again where that helps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import zhipuai

from tests.gateway.conftest import OpenGate
from tests.gateway.gate import V4
from tests.gateway.test_other_sdks import V3, drive
from tests.gateway.test_sdk import MESSAGES, Served, serve
from tests.gateway.test_streams import of_openai
from tollgate.broker.rates import MemoryRates
from tollgate.domain.rates import KeyLimits
from tollgate.simulator import SimulatorSettings

CALL: dict[str, Any] = {"model": "glm-4.7", "messages": MESSAGES}
TOO_LARGE = {**CALL, "max_tokens": 50_000}
LIMITS = KeyLimits(requests_per_minute=1, tokens_per_minute=40_000)


class Clock:
    """Of the rates: each look at it is so much later."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.now_s = 1000.5

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


@pytest.fixture
async def served(gate_with: OpenGate) -> AsyncIterator[Served]:
    """Where a minute never ends."""
    rates = MemoryRates(clock=Clock(0))
    async with gate_with(simulator=SimulatorSettings(), rates=rates) as gate, serve(gate) as running:
        yield running


async def test_zhipuai_raises_what_its_users_catch(served: Served) -> None:
    sdk = served.sdk(api_key=await served.gate.key(limits=LIMITS))
    await asyncio.to_thread(sdk.chat.completions.create, **CALL)
    for create in (sdk.chat.completions.create, sdk.chat.asyncCompletions.create):
        with pytest.raises(zhipuai.APIReachLimitError) as raised:
            await asyncio.to_thread(create, **CALL)
        assert raised.value.response.json()["error"]["code"] == "1303"
        assert raised.value.response.headers["retry-after"] == "60"


async def test_openai_raises_what_its_users_catch(served: Served) -> None:
    async with of_openai(served, api_key=await served.gate.key(limits=LIMITS), max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(**CALL)
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        for asked in (CALL, {**CALL, "stream": True}):
            with pytest.raises(openai.RateLimitError) as raised:
                await client.chat.completions.create(**asked)
            assert (raised.value.code, raised.value.type) == ("rate_limit_exceeded", "requests")


async def test_what_never_fits_is_sent_once(served: Served) -> None:
    """With the SDKs' own retries on."""
    key, answers = await served.gate.key(limits=LIMITS), []  # type: ignore[var-annotated]
    with httpx.Client(event_hooks={"response": [answers.append]}) as http:
        sdk = served.sdk(api_key=key, max_retries=3, http_client=http)
        with pytest.raises(zhipuai.APIReachLimitError):
            await asyncio.to_thread(sdk.chat.completions.create, **TOO_LARGE)
    assert [answer.status_code for answer in answers] == [429]
    async with of_openai(served, api_key=key, max_retries=3) as client:
        with pytest.raises(openai.RateLimitError) as raised:
            await client.chat.completions.create(**TOO_LARGE)
    assert raised.value.response.headers["x-should-retry"] == "false"


async def test_openai_sends_again_by_itself_when_it_is_told_to(gate_with: OpenGate) -> None:
    """After a Retry-After of a second."""
    rates = MemoryRates(clock=Clock(60.5))
    async with gate_with(simulator=SimulatorSettings(), rates=rates) as gate, serve(gate) as served:
        async with of_openai(served, api_key=await gate.key(limits=LIMITS), max_retries=1) as client:
            await client.chat.completions.create(**CALL)
            raw = await client.chat.completions.with_raw_response.create(**CALL)
        assert (raw.status_code, raw.retries_taken) == (200, 1)


async def test_zhipuai_1_and_zai(served: Served) -> None:
    key = await served.gate.key(limits=LIMITS)
    asked = {"key": key, "url": served.url + V3, "call": "invoke"}
    told = await drive("zhipuai-1", **asked, arguments={"model": "glm-4.7", "prompt": MESSAGES})
    assert told["code"] == 200
    told = await drive("zhipuai-1", **asked, arguments={"model": "glm-4.7", "prompt": MESSAGES})
    assert (told["code"], told["success"]) == (1303, False)
    told = await drive("zai", key=key, url=served.url + V4, by_key=True, call="whole", arguments=CALL)
    assert told == {"raised": "APIReachLimitError", "status": 429}
