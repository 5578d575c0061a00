"""What the simulator refuses before the model runs: keys and parameters."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from tests.simulator.client import Start, chat_body


def token(*, key_id: str = "tester", secret: str = "secret", expires_s: float = 3600) -> str:
    """Made when the tests are collected, used when their turn comes."""
    now_ms = int(time.time() * 1000)
    claims = {"api_key": key_id, "exp": now_ms + int(expires_s * 1000), "timestamp": now_ms}
    return jwt.encode(claims, secret, algorithm="HS256", headers={"alg": "HS256", "sign_type": "SIGN"})


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "1001"),
        ("nodot", "1002"),
        ("a.", "1002"),
        ("a.b.c", "1002"),
        ("a.b.c.d", "1002"),
        (token(expires_s=-1), "1003"),
    ],
)
async def test_a_key_of_another_form_is_refused(start: Start, key: str | None, code: str) -> None:
    reply = await (await start()).send("POST", "/chat/completions", body=chat_body(), key=key)
    assert (reply.status, reply.code) == (401, code)


@pytest.mark.parametrize("key", ["any.thing", token()])
async def test_any_key_in_the_right_form_is_let_in(start: Start, key: str) -> None:
    client = await start()
    assert (await client.send("POST", "/chat/completions", body=chat_body(), key=key)).status == 200


@pytest.mark.parametrize(
    ("accepted", "key", "code"),
    [
        ("tester.secret", "tester.secret", None),
        ("tester.secret", "tester.other", "1000"),
        ("tester.secret", "other.secret", "1000"),
        ("tester", "tester.other", None),
        ("tester.secret", token(), None),
        ("tester.secret", token(secret="wrong"), "1004"),
        ("tester.secret", token(key_id="other"), "1000"),
    ],
)
async def test_accepted_keys_shut_out_others(start: Start, accepted: str, key: str, code: str | None) -> None:
    client = await start(accept_keys=(accepted,))
    reply = await client.send("POST", "/chat/completions", body=chat_body(), key=key)
    assert (reply.body.get("error") or {}).get("code") == code


@pytest.mark.parametrize(("code", "status"), [("1113", 429), ("1000", 401), ("1004", 401)])
async def test_a_key_can_be_refused_while_it_runs(start: Start, code: str, status: int) -> None:
    client = await start()
    for key in ("tester", "tester.secret", "*"):
        client.simulator.change(refuse_keys={key: code})
        reply = await client.chat()
        assert (reply.status, reply.code) == (status, code)
    client.simulator.change(refuse_keys={})
    assert (await client.chat()).status == 200


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "no-such-model"}, "1211"),
        ({"model": None}, "1213"),
        ({"model": "embedding-3"}, "1212"),
        ({"messages": None}, "1213"),
        ({"messages": []}, "1214"),
        ({"messages": "hello"}, "1214"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "1214"),
        ({"messages": [{"role": "user", "content": None}]}, "1214"),
        ({"messages": [{"role": "system", "content": "x"}]}, "1214"),
        ({"temperature": 1.5}, "1210"),
        ({"temperature": -0.1}, "1210"),
        ({"temperature": "hot"}, "1214"),
        ({"top_p": 2}, "1210"),
        ({"max_tokens": 0}, "1214"),
        ({"max_tokens": True}, "1214"),
        ({"max_tokens": 131_073}, "1210"),
        ({"model": "glm-4-flash", "max_tokens": 8_193}, "1210"),
        ({"seed": "x"}, "1214"),
        ({"stop": 3}, "1214"),
        ({"request_id": "short"}, "1214"),
        ({"request_id": "x" * 65}, "1214"),
        ({"user_id": 5}, "1214"),
        ({"tools": [{}]}, "1214"),
        ({"tools": [{"type": "function"}] * 129}, "1214"),
        ({"messages": [{"role": "user", "content": "x" * 800_001}]}, "1261"),
    ],
)
@pytest.mark.parametrize("path", ["/chat/completions", "/async/chat/completions"])
async def test_a_wrong_parameter_is_refused(start: Start, path: str, fields: dict[str, Any], code: str) -> None:
    client = await start()
    reply = await client.send("POST", path, body=chat_body(**fields))
    assert (reply.status, reply.code) == (400, code)
    assert client.simulator.bill.charges == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "top_p": 1, "max_tokens": 131_072},
        {"thinking": None, "response_format": None, "temperature": None, "request_id": None, "seed": None},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}, {"role": "tool", "content": "1"}]},
        {"extra_field": 1},
    ],
)
async def test_a_right_parameter_or_a_null_is_taken(start: Start, fields: dict[str, Any]) -> None:
    assert (await (await start()).chat(**fields)).status == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b'{"model":"\\ud800"}'])
async def test_a_body_that_is_no_object_is_refused(start: Start, raw: bytes) -> None:
    reply = await (await start()).send("POST", "/chat/completions", raw=raw)
    assert (reply.status, reply.code) == (400, "1210")


async def test_limits_that_are_not_documented_can_be_lifted(start: Start) -> None:
    client = await start(check_request_id=False, extra_models=("my-model",))
    assert (await client.chat(request_id="x", model="my-model")).status == 200
    assert client.simulator.bill.cost_nano == 0


async def test_an_unknown_path_is_1222(start: Start) -> None:
    reply = await (await start()).send("POST", "/no/such/thing", body={})
    assert (reply.status, reply.code) == (404, "1222")
