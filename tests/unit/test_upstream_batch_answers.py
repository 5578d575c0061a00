"""What upstreams say of batches and their lines, in every form that was seen."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest

from tollgate.domain.errors import UpstreamError
from tollgate.domain.upstream_batch_answers import moment, read_batch, read_line

TASK = UUID("0123456789abcdef0123456789abcdef")
NAME = f"{TASK.hex}-1"
BODY = {"choices": [{"message": {"content": "hi"}}], "usage": {"total_tokens": 3}}
BATCH = {"id": "batch_1", "status": "in_progress"}


def seen(**told: Any) -> Any:
    return read_batch({**BATCH, **told}, mark_name="tollgate")


@pytest.mark.parametrize(
    ("told", "completed"),
    [
        ({"request_counts": {"total": 5, "completed": 3, "failed": 1}}, 3),
        ({"request_counts": 5, "total": 5, "completed": 3, "failed": 1}, 3),
        ({"request_counts": 5}, None),
        ({"request_counts": None}, None),
        ({"request_counts": None, "completed": 3}, 3),
        ({"request_counts": {"completed": -1}}, None),
        ({"request_counts": {"completed": True}}, None),
        ({"request_counts": {"completed": "3"}}, None),
        ({}, None),
    ],
)
def test_counts_come_in_three_forms(told: dict[str, Any], completed: int | None) -> None:
    assert seen(**told).completed == completed


@pytest.mark.parametrize("value", ["", None, 0, [], {}])
def test_what_names_no_file_is_none(value: object) -> None:
    found = seen(output_file_id=value, error_file_id="file-1", input_file_id=value)
    assert (found.output_file_id, found.error_file_id, found.input_file_id) == (None, "file-1", None)


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (1_772_366_400, NOON),
        (1_772_366_400_000, NOON),
        ("1772366400000", NOON),
        (1_772_366_400.0, NOON),
        (0, None),
        (-5, None),
        (None, None),
        (True, None),
        ("yesterday", None),
        (10**40, None),
        (float("nan"), None),
    ],
)
def test_times_come_in_seconds_or_milliseconds(value: object, at: datetime | None) -> None:
    assert moment(value) == at


@pytest.mark.parametrize(
    "told",
    [{}, {"id": "x"}, {"id": "", "status": "failed"}, {"id": 5, "status": "failed"}, {"id": "x", "status": "running"}],
)
def test_what_is_no_batch_is_garbage(told: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as refused:
        read_batch(told, mark_name="tollgate")
    assert refused.value.kind == "garbage"


@pytest.mark.parametrize("metadata", [{"tollgate": "abc"}, {"tollgate": "abc", "more": 1}])
def test_our_mark_is_read(metadata: dict[str, Any]) -> None:
    assert seen(metadata=metadata).mark == "abc"


@pytest.mark.parametrize("metadata", [None, "abc", {"tollgate": 5}, []])
def test_a_mark_of_another_form_is_none(metadata: object) -> None:
    assert seen(metadata=metadata).mark is None


@pytest.mark.parametrize(
    ("errors", "why"),
    [
        ({"object": "list", "data": [{"code": "c", "line": 3, "message": "m"}]}, "line 3: c: m"),
        ({"data": [{"message": "m"}]}, "m"),
        ([{"error_code": "c"}], "c"),
        ({"data": []}, None),
        (None, None),
    ],
)
def test_why_a_batch_failed_is_told(errors: object, why: str | None) -> None:
    assert seen(errors=errors).error == why


def line(**told: Any) -> bytes:
    return orjson.dumps({"custom_id": NAME, **told})


@pytest.mark.parametrize(
    "raw",
    [
        line(response={"status_code": 200, "body": BODY}, error=None),
        line(response={"status_code": 200, "body": BODY}, id="batch_1"),
        line(response={"body": BODY}),
        line(response={"status_code": 200, "body": orjson.dumps(BODY).decode()}),
        orjson.dumps({"customId": NAME, "response": {"status_code": 200, "body": BODY}}),
    ],
    ids=range(5),
)
def test_an_answer_is_read(raw: bytes) -> None:
    answer = read_line(raw)
    assert answer is not None
    assert (answer.task_id, answer.attempt, answer.status, answer.error) == (TASK, 1, 200, None)
    assert orjson.loads(answer.result or "") == BODY


@pytest.mark.parametrize(
    ("told", "code", "status"),
    [
        ({"response": {"status_code": 400, "body": {"error": {"code": "1261", "message": "m"}}}}, "1261", 400),
        ({"response": {"status_code": 500, "body": {"error": "boom"}}}, None, 500),
        ({"response": None, "error": {"code": "batch_expired", "message": "m"}}, "batch_expired", None),
        ({"error": {"code": 1301, "message": "m"}}, "1301", None),
        ({"code": "1302", "message": "m"}, "1302", None),
        ({"error_code": "1302", "error_message": "m"}, "1302", None),
        ({"error": "[1234] 网络错误"}, "1234", None),
        ({"error": "out of luck"}, None, None),
        ({"response": {"status_code": 400, "body": {"code": 1210, "msg": "m"}}}, "1210", 400),
        ({"response": {"status_code": 400, "body": '{"error":{"code":"1210"}}'}}, "1210", 400),
        ({"response": {"status_code": 429}}, "batch_failed", 429),
        ({}, "batch_failed", None),
    ],
)
def test_an_error_is_read_wherever_it_stands(told: dict[str, Any], code: str | None, status: int | None) -> None:
    answer = read_line(line(**told))
    assert answer is not None
    assert answer.error is not None
    assert (answer.result, answer.error.code, answer.error.http_status) == (None, code, status)
    assert not answer.unreadable


@pytest.mark.parametrize(
    "raw",
    [
        line(response={"status_code": 200, "body": BODY})[:80],
        line(response={"status_code": 200, "body": {}}),
        line(response={"status_code": 200, "body": {"id": "x"}}),
    ],
    ids=["cut", "empty", "without"],
)
def test_what_may_have_been_an_answer_is_unreadable(raw: bytes) -> None:
    answer = read_line(raw)
    assert answer is not None
    assert (answer.task_id, answer.unreadable) == (TASK, True)


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>",
        b"[]",
        b"5",
        b'{"code":500,"msg":"404 NOT_FOUND","success":false}',
        line().replace(NAME.encode(), b"somebody-elses"),
        line().replace(NAME.encode(), TASK.hex.encode() + b"-0"),
        b"\xff\xfe",
    ],
    ids=range(7),
)
def test_a_line_that_names_none_of_ours_is_told_of_nobody(raw: bytes) -> None:
    assert read_line(raw) is None


def test_half_of_a_surrogate_pair_does_not_lose_a_paid_answer() -> None:
    raw = line(response={"status_code": 200, "body": BODY}).replace(b'"hi"', rb'"\ud800"')
    answer = read_line(raw)
    assert answer is not None
    assert answer.result is not None
    assert r"\ud800" in answer.result
