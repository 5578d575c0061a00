"""Each parameter just inside and just outside its range, in both dialects."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.gate import V4, Gate, chat, one, refusal

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}

INSIDE: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1},
    {"temperature": 0.5},
    {"top_p": 0.01},
    {"top_p": 1},
    {"max_tokens": 1},
    {"max_tokens": 131_072},
    {"stop": []},
    {"stop": ["a", "b", "c", "d"]},
    {"seed": 0},
    {"seed": -(2**63)},
    {"do_sample": False},
    {"stream": False},
    {"user_id": "u" * 6},
    {"user_id": "用" * 128},
    {"request_id": "r" * 6},
    {"request_id": "求" * 64},
    {"tools": []},
    {"tools": [TOOL] * 128},
    {"tool_choice": "auto"},
    {"tool_choice": {"type": "function"}},
    {"response_format": {"type": "json_object"}},
    {"thinking": {"type": "enabled"}},
    {"messages": [USER]},
    {"messages": [{"role": "system", "content": "s"}, USER, {"role": "assistant", "content": "a"}]},
    {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}, {"role": "tool", "content": "r"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    {"messages": [{**USER, "name": "unknown fields of a message pass"}]},
    {"no_such_parameter": {"passes": ["through"]}},
    *(
        {name: None}
        for name in ("temperature", "top_p", "max_tokens", "stop", "seed", "do_sample", "stream", "user_id")
    ),
    *({name: None} for name in ("request_id", "tools", "tool_choice", "response_format", "thinking")),
]

MESSAGES = "a list of messages with role (system, user, assistant, tool) and content"
OUTSIDE: list[tuple[dict[str, Any], str, str | None, str]] = [
    # what is sent, the field that is named, what is said to be allowed, ZhipuAI's code
    ({"temperature": -0.01}, "temperature", "a number from 0 to 1", "1214"),
    ({"temperature": 1.01}, "temperature", "a number from 0 to 1", "1214"),
    ({"temperature": "0.5"}, "temperature", "a number from 0 to 1", "1214"),
    ({"temperature": True}, "temperature", "a number from 0 to 1", "1214"),
    ({"top_p": 0.009}, "top_p", "a number from 0.01 to 1", "1214"),
    ({"top_p": 1.01}, "top_p", "a number from 0.01 to 1", "1214"),
    ({"max_tokens": 0}, "max_tokens", "an integer from 1", "1214"),
    ({"max_tokens": 1.5}, "max_tokens", "an integer from 1", "1214"),
    ({"max_tokens": True}, "max_tokens", "an integer from 1", "1214"),
    ({"max_tokens": 2**31}, "max_tokens", "an integer from 1", "1214"),
    ({"max_tokens": 131_073}, "max_tokens", "an integer from 1 to 131072", "1214"),
    ({"stop": "word"}, "stop", "a list of at most 4 strings", "1214"),
    ({"stop": ["a"] * 5}, "stop", "a list of at most 4 strings", "1214"),
    ({"stop": ["a", 1]}, "stop.1", "a list of at most 4 strings", "1214"),
    ({"seed": 1.5}, "seed", "an integer", "1214"),
    ({"do_sample": "yes"}, "do_sample", "true or false", "1214"),
    ({"user_id": "u" * 5}, "user_id", "6 to 128 characters", "1214"),
    ({"user_id": "u" * 129}, "user_id", "6 to 128 characters", "1214"),
    ({"request_id": "r" * 5}, "request_id", "6 to 64 characters, no control characters", "1214"),
    ({"request_id": "r" * 65}, "request_id", "6 to 64 characters, no control characters", "1214"),
    ({"request_id": "request\n1"}, "request_id", "6 to 64 characters, no control characters", "1214"),
    ({"request_id": "request\x851"}, "request_id", "6 to 64 characters, no control characters", "1214"),
    ({"request_id": 1234567}, "request_id", "6 to 64 characters, no control characters", "1214"),
    ({"tools": [TOOL] * 129}, "tools", "a list of at most 128 tools", "1214"),
    ({"tools": {}}, "tools", "a list of at most 128 tools", "1214"),
    ({"tools": ["f"]}, "tools.0", "a list of at most 128 tools", "1214"),
    ({"tool_choice": 1}, "tool_choice", "a string or an object", "1214"),
    ({"response_format": "json"}, "response_format", "an object such as {'type': 'json_object'}", "1214"),
    ({"thinking": True}, "thinking", "an object such as {'type': 'enabled'}", "1214"),
    ({"messages": []}, "messages", MESSAGES, "1214"),
    ({"messages": None}, "messages", MESSAGES, "1213"),
    ({"messages": "hi"}, "messages", MESSAGES, "1214"),
    ({"messages": ["hi"]}, "messages.0", MESSAGES, "1214"),
    ({"messages": [{"content": "hi"}]}, "messages.0.role", MESSAGES, "1213"),
    ({"messages": [USER, {"role": "bot", "content": "hi"}]}, "messages.1.role", MESSAGES, "1214"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", MESSAGES, "1213"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content", MESSAGES, "1214"),
    ({"messages": [{"role": "system", "content": "s"}]}, "messages", MESSAGES, "1214"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "messages", MESSAGES, "1214"),
    ({"model": None}, "model", "the name of a model, as GET /models lists them", "1213"),
    ({"model": ""}, "model", "the name of a model, as GET /models lists them", "1214"),
    ({"model": "m" * 129}, "model", "the name of a model, as GET /models lists them", "1214"),
    ({"model": "embedding-3"}, "model", "a model for chat", "1212"),
]


@pytest.mark.parametrize("given", INSIDE, ids=repr)
async def test_what_is_inside_its_range_is_accepted(sqlite_gate: Gate, given: dict[str, Any]) -> None:
    caller = await sqlite_gate.caller()
    body = {"model": "glm-4.7", "messages": [USER], **given}
    made = await caller.submit(body)
    again = await caller.post(V4 + "/async/chat/completions", body)
    assert (again["id"] == made["id"]) is bool(given.get("request_id")), "both dialects make the same task of it"


@pytest.mark.parametrize(("given", "field", "allowed", "code"), OUTSIDE, ids=lambda value: repr(value)[:60])
async def test_what_is_outside_its_range_is_refused_with_its_field_and_what_is_allowed(
    sqlite_gate: Gate, given: dict[str, Any], field: str, allowed: str | None, code: str
) -> None:
    caller = await sqlite_gate.caller()
    body = {**chat(), **given}
    alone = refusal(await caller.send("POST", "/tasks", body=body), 400)
    assert (alone["type"], alone["field"], alone.get("allowed")) == ("invalid_request", field, allowed)

    in_list = refusal(await caller.send("POST", "/tasks", body=[chat(), body]), 400)
    assert (in_list["field"], in_list.get("allowed")) == (f"tasks.1.{field}", allowed)
    assert in_list["message"].startswith("tasks.1")

    for path in ("/chat/completions", "/async/chat/completions"):
        v4 = refusal(await caller.send("POST", V4 + path, body=body), 400)
        assert set(v4) == {"code", "message"}
        assert v4["code"] == code
        assert field in v4["message"]
    assert (await caller.get("/tasks"))["data"] == []


@pytest.mark.parametrize("missing", ["model", "messages"])
async def test_a_missing_parameter_is_1213(sqlite_gate: Gate, missing: str) -> None:
    caller = await sqlite_gate.caller()
    body = {name: value for name, value in chat().items() if name != missing}
    assert refusal(await caller.send("POST", "/tasks", body=body), 400)["field"] == missing
    assert refusal(await caller.send("POST", V4 + "/chat/completions", body=body), 400)["code"] == "1213"


async def test_an_asynchronous_call_has_no_stream(sqlite_gate: Gate) -> None:
    caller = await sqlite_gate.caller()
    submit = V4 + "/async/chat/completions"
    assert refusal(await caller.send("POST", submit, body=chat(stream=True)), 400)["code"] == "1212"


TIME = "a time: ISO 8601 with its zone, or Unix seconds"


@pytest.mark.parametrize(
    ("given", "field", "allowed"),
    [
        ({"custom_id": ""}, "custom_id", "1 to 256 characters, no control characters"),
        ({"custom_id": "c" * 257}, "custom_id", "1 to 256 characters, no control characters"),
        ({"custom_id": "c\0"}, "custom_id", "1 to 256 characters, no control characters"),
        ({"label": ""}, "label", "1 to 64 characters, no control characters: a dimension of the accounts"),
        ({"label": "l" * 65}, "label", "1 to 64 characters, no control characters: a dimension of the accounts"),
        ({"label": "l\t"}, "label", "1 to 64 characters, no control characters: a dimension of the accounts"),
        ({"metadata": []}, "metadata", "a JSON object of at most 16384 bytes, returned as it came"),
        ({"metadata": {"m": "x" * 16_384}}, "metadata", "at most 16384 bytes of JSON"),
        ({"priority": "urgent"}, "priority", "'interactive' or 'bulk'"),
        ({"on_uncertain": "ignore"}, "on_uncertain", None),
        ({"run_after": "tomorrow"}, "run_after", TIME),
        ({"run_after": "2030-01-01T00:00:00"}, "run_after", TIME),
        ({"run_after": True}, "run_after", TIME),
        ({"run_after": "9999-12-31T23:59:59-10:00"}, "run_after", TIME),
        ({"run_after": 1e300}, "run_after", TIME),
        ({"run_after": -1}, "run_after", TIME),
        ({"expires_at": "9999-12-31T00:00:00Z"}, "expires_at", TIME),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at", "a later time"),
        ({"run_after": "2035-01-02T00:00:00Z", "expires_at": "2035-01-01T00:00:00Z"}, "expires_at", "a later time"),
        ({"prompt": ""}, "prompt", "a text: short for one user message"),
        ({"prompt": ["p"]}, "prompt", "a text: short for one user message"),
        ({"messages": [USER]}, "prompt", None),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_the_gateways_own_fields_have_ranges_too(
    sqlite_gate: Gate, given: dict[str, Any], field: str, allowed: str | None
) -> None:
    caller = await sqlite_gate.caller()
    refused = refusal(await caller.send("POST", "/tasks", body=one(**given)), 400)
    assert refused["field"] == field
    assert allowed is None or refused["allowed"] == allowed
    assert refusal(await caller.send("POST", "/tasks", body=[one(**given)]), 400)["field"] == f"tasks.0.{field}"


@pytest.mark.parametrize(
    "given",
    [
        {"custom_id": "号" * 256},
        {"label": "标" * 64},
        {"priority": "bulk"},
        {"on_uncertain": "fail"},
        {"run_after": 4_000_000_000},
        {"run_after": "2035-01-01T00:00:00+08:00", "expires_at": "2035-01-01T00:00:01+08:00"},
        {"run_after": "8999-12-30T00:00:00Z"},
        {"expires_at": 4_000_000_000.5},
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_the_gateways_own_fields_are_accepted_within_them(sqlite_gate: Gate, given: dict[str, Any]) -> None:
    caller = await sqlite_gate.caller()
    shown = await caller.get(f"/tasks/{await caller.id_of(**given)}")
    for name in given.keys() & {"custom_id", "label", "priority"}:
        assert shown[name] == given[name]
