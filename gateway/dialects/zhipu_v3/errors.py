"""Errors on the v3 wire: `{"code": 1214, "msg": "...", "success": false}`, under HTTP 200.

zhipuai 1.0.7 returns None for any other status, and its users test `response["code"] == 200`: an HTTP status would hide
what is wrong from all of them. In a stream it is an `error` event, whose form `[1214][...]` the real service used.
"""

from __future__ import annotations

import fastapi
import orjson
import pydantic

from gateway.dialects.route import json_response
from gateway.dialects.zhipu_v3.events import event
from gateway.dialects.zhipu_v4 import errors as v4
from gateway.event_stream import HEADERS
from gateway.openapi import error_answers


class V3Error(pydantic.BaseModel):
    """Every error of the v3 wire, under HTTP 200."""

    code: int = pydantic.Field(description="ZhipuAI's business code")
    msg: str
    success: bool = pydantic.Field(description="false")


RESPONSES = error_answers(V3Error)


def answer(error: Exception) -> fastapi.Response:
    code, message = told(error)
    return problem(code, message)


def streamed(error: Exception) -> fastapi.Response:
    """As the only event of a stream: of a JSON body the SDK would make a stream without events."""
    code, message = told(error)
    return fastapi.Response(error_event(code, message), headers=HEADERS)


def told(error: Exception) -> tuple[str, str]:
    """Code and message, as the v4 wire has them."""
    problem = orjson.loads(bytes(v4.answer(error).body))["error"]
    return problem["code"], problem["message"]


def problem(code: str, message: str) -> fastapi.Response:
    return json_response({"code": int(code), "msg": message, "success": False})


def error_event(code: str, message: str, *, task_id: str = "-") -> bytes:
    return event("error", task_id, f"[{code}][{message}]")
