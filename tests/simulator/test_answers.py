"""Answers are a function of the request, and their tokens can be counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulator.client import Start
from tollgate.simulator import tokens, tool_calls


@pytest.mark.parametrize(
    ("text", "expected"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("你好", 2), ("你好吗啊", 3)]
)
def test_a_token_is_four_bytes_of_utf8(text: str, expected: int) -> None:
    assert tokens.count(text) == expected


@given(st.text(), st.integers(min_value=0, max_value=50))
def test_a_cut_text_is_a_start_and_within_its_tokens(text: str, limit: int) -> None:
    cut = tokens.cut(text, tokens=limit)
    assert text.startswith(cut)
    assert tokens.count(cut) <= limit


async def test_the_same_request_brings_the_same_answer(start: Start) -> None:
    client = await start()
    first, again = await client.chat(), await client.chat()
    assert first.text == again.text
    assert first.body["id"] != again.body["id"]


@pytest.mark.parametrize("fields", [{"model": "glm-4-flash"}, {"seed": 7}])
async def test_another_model_or_seed_brings_another_answer(start: Start, fields: dict[str, Any]) -> None:
    client = await start()
    assert (await client.chat()).text != (await client.chat(**fields)).text


async def test_usage_counts_what_was_sent_and_answered(start: Start) -> None:
    client = await start()
    reply = await client.chat("hello there")  # 11 bytes are 3 tokens, and 4 for the message
    usage = reply.body["usage"]
    assert usage["prompt_tokens"] == 7
    assert usage["completion_tokens"] == tokens.count(reply.text)
    assert usage["total_tokens"] == 7 + usage["completion_tokens"]
    assert reply.body["choices"][0]["finish_reason"] == "stop"


async def test_a_leading_system_message_is_cached_in_blocks_of_sixteen(start: Start) -> None:
    client = await start()
    messages = [{"role": "system", "content": "x" * 150}, {"role": "user", "content": "hi"}]
    reply = await client.chat(messages=messages)
    assert reply.body["usage"]["prompt_tokens_details"]["cached_tokens"] == 32  # 38 tokens


async def test_max_tokens_ends_the_answer_with_length(start: Start) -> None:
    reply = await (await start()).chat(max_tokens=5)
    assert reply.body["usage"]["completion_tokens"] == 5
    assert reply.body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("length", [1, 9, 1000])
async def test_a_prompt_can_ask_for_an_answer_of_a_length(start: Start, length: int) -> None:
    reply = await (await start()).chat(f"[[tokens:{length}]] go")
    assert reply.body["usage"]["completion_tokens"] == length


async def test_a_prompt_can_ask_for_an_echo(start: Start) -> None:
    assert (await (await start()).chat("say [[echo]]你好, [[latency:0]]world")).text == "你好, world"


async def test_a_stop_word_ends_the_answer(start: Start) -> None:
    assert (await (await start()).chat("[[echo]]one END two", stop=["END"])).text == "one "


async def test_thinking_adds_reasoning_that_is_billed(start: Start) -> None:
    client = await start()
    reply = await client.chat(thinking={"type": "enabled"})
    message, usage = reply.body["choices"][0]["message"], reply.body["usage"]
    assert message["reasoning_content"].startswith("Thinking")
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 16
    assert usage["completion_tokens"] == 16 + tokens.count(message["content"])
    assert client.simulator.bill.completion_tokens == usage["completion_tokens"]


async def test_json_mode_answers_json(start: Start) -> None:
    assert (await (await start()).chat(response_format={"type": "json_object"})).text.startswith('{"answer":')


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
        },
    },
}


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"messages": [{"role": "user", "content": "[[tool]]"}]},
    ],
)
async def test_a_tool_is_called_if_asked_for(start: Start, fields: dict[str, Any]) -> None:
    reply = await (await start()).chat(tools=[WEATHER], **fields)
    choice = reply.body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": '{"city":"text","days":2}',
    }


async def test_tools_alone_call_nothing(start: Start) -> None:
    reply = await (await start()).chat(tools=[WEATHER], tool_choice="auto")
    assert reply.body["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"enum": ["red", "blue"]}, "red"),
        ({"const": 3}, 3),
        ({"type": "array", "items": {"type": "boolean"}}, [True]),
        ({"type": "null"}, None),
        ({"type": "object"}, {}),
        ("nonsense", {}),
    ],
)
def test_arguments_fit_their_schema(schema: object, expected: object) -> None:
    assert tool_calls.example(schema) == expected
