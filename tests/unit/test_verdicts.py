"""What each upstream error means: code first, then status, then the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import verdicts
from tollgate.domain.errors import UpstreamError
from tollgate.domain.verdicts import Action, NotBefore, Verdict


def judge(code: str | None = None, status: int | None = None, kind: str | None = None) -> Verdict:
    return verdicts.judge(UpstreamError("refused", code=code, http_status=status, kind=kind))


@pytest.mark.parametrize(
    ("codes", "action", "reason"),
    [
        ("1000 1001 1002 1003 1004 1100", Action.PAUSE, "bad_key"),
        ("1110 1111 1112 1121", Action.PAUSE, "account"),
        ("1113", Action.PAUSE, "no_balance"),
        ("1309 1311 1313", Action.PAUSE, "plan"),
        ("500 1120 1200 1230 1234", Action.RETRY_UNCERTAIN, "server_error"),
        ("1210 1213 1214 1215", Action.FAIL, "bad_request"),
        ("1211 1212 1221 1222", Action.FAIL, "model_unavailable"),
        ("1220", Action.FAIL, "not_permitted"),
        ("1261", Action.FAIL, "prompt_too_long"),
        ("1300 1301", Action.FAIL, "blocked"),
        ("1231", Action.FETCH, "duplicate_request_id"),
        ("1302 1303", Action.RETRY, "rate_limited"),
        ("1304", Action.RETRY, "daily_limit"),
        ("1305 1312", Action.RETRY, "overloaded"),
        ("1308 1310", Action.RETRY, "plan_limit"),
        ("rate_limit_exceeded", Action.RETRY, "rate_limited"),
        ("insufficient_quota", Action.PAUSE, "no_balance"),
        ("invalid_api_key", Action.PAUSE, "bad_key"),
        ("model_not_found", Action.FAIL, "model_unavailable"),
        ("context_length_exceeded", Action.FAIL, "prompt_too_long"),
        ("server_error", Action.RETRY_UNCERTAIN, "server_error"),
    ],
)
@pytest.mark.parametrize("status", [None, 200, 400, 401, 403, 429, 500, 503])
def test_a_business_code_decides_whatever_the_status(
    codes: str, action: Action, reason: str, status: int | None
) -> None:
    for code in codes.split():
        verdict = judge(code, status, "garbage")
        assert (verdict.action, verdict.reason) == (action, reason)


@pytest.mark.parametrize("code", [None, "9999", "brand_new_code", "1", "٥٠٠"])
@pytest.mark.parametrize(
    ("statuses", "action"),
    [
        ((429,), Action.RETRY),
        ((503,), Action.RETRY),
        ((401, 402, 403), Action.PAUSE),
        ((400, 404, 405, 409, 413, 415, 422, 434, 435), Action.FAIL),
        ((301, 307), Action.FAIL),
        ((408, 500, 502, 504, 520, 599), Action.RETRY_UNCERTAIN),
        ((200, 204), Action.RETRY_UNCERTAIN),
    ],
)
def test_an_unknown_code_leaves_it_to_the_status(code: str | None, statuses: tuple[int, ...], action: Action) -> None:
    assert {judge(code, status).action for status in statuses} == {action}


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        ("connect", Action.RETRY),
        ("timeout", Action.RETRY_UNCERTAIN),
        ("cut", Action.RETRY_UNCERTAIN),
        ("garbage", Action.RETRY_UNCERTAIN),
        ("cancelled", Action.RETRY_UNCERTAIN),
        (None, Action.RETRY_UNCERTAIN),
    ],
)
@pytest.mark.parametrize("status", [None, 200])
def test_without_a_code_and_a_bad_status_the_wire_decides(kind: str | None, action: Action, status: int | None) -> None:
    assert judge(None, status, kind).action is action


@pytest.mark.parametrize(
    ("code", "status", "action"),
    [
        ("429", 200, Action.RETRY),
        ("400", None, Action.FAIL),
        ("503", None, Action.RETRY),
        ("400", 429, Action.RETRY),
    ],
)
def test_a_status_repeated_as_code_counts_where_there_is_no_other(
    code: str, status: int | None, action: Action
) -> None:
    assert judge(code, status).action is action


@pytest.mark.parametrize(
    ("code", "status", "slow_down", "back_off"),
    [
        ("1302", 429, True, "fast"),
        ("1303", 429, True, "fast"),
        (None, 429, True, "fast"),
        ("1305", 429, False, "slow"),
        ("1312", 429, False, "slow"),
        (None, 503, False, "slow"),
        ("1113", 429, False, "fast"),
        ("1234", 500, False, "fast"),
    ],
)
def test_only_our_own_excess_lowers_the_concurrency(
    code: str | None, status: int, slow_down: bool, back_off: str
) -> None:
    verdict = judge(code, status)
    assert (verdict.slow_down, verdict.back_off) == (slow_down, back_off)


@pytest.mark.parametrize(
    ("code", "not_before"),
    [
        ("1304", NotBefore.NEXT_DAY),
        ("1308", NotBefore.NAMED_TIME),
        ("1310", NotBefore.NAMED_TIME),
        ("1302", None),
    ],
)
def test_limits_tell_when_they_end(code: str, not_before: NotBefore | None) -> None:
    assert judge(code, 429).not_before is not_before


@given(
    st.none() | st.text(max_size=8),
    st.none() | st.integers(min_value=0, max_value=999),
    st.none() | st.text(max_size=8),
)
def test_every_error_has_a_verdict(code: str | None, status: int | None, kind: str | None) -> None:
    assert judge(code, status, kind).reason
