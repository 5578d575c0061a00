"""When a try is repeated, and when it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import retries, verdicts
from tollgate.domain.errors import UpstreamError
from tollgate.domain.retries import Decision, Fail, Pause, Retry, RetryPolicy
from tollgate.domain.states import OnUncertain

NOW = datetime(2026, 5, 1, 10, 0, tzinfo=UTC)  # 18:00 in China
POLICY = RetryPolicy()


def decide(
    error: UpstreamError,
    *,
    tries: int = 1,
    purchases: int = 1,
    deadline: datetime | None = None,
    on_uncertain: OnUncertain = OnUncertain.RETRY,
    jitter: float = 0.0,
) -> Decision:
    return retries.decide(
        error,
        verdict=verdicts.judge(error),
        tries=tries,
        purchases=purchases,
        now=NOW,
        retry_deadline=deadline,
        policy=POLICY,
        on_uncertain=on_uncertain,
        jitter=jitter,
    )


def error(
    code: str | None = None,
    *,
    status: int | None = None,
    kind: str | None = None,
    retry_after_s: float | None = None,
    message: str = "the upstream refused",
) -> UpstreamError:
    return UpstreamError(message, code=code, http_status=status, kind=kind, retry_after_s=retry_after_s)


def wait_s(decision: Decision) -> float:
    assert isinstance(decision, Retry)
    return (decision.at - NOW).total_seconds()


@pytest.mark.parametrize(
    ("tries", "slow", "ceiling_s"),
    [
        (0, False, 0.5),
        (1, False, 0.5),
        (2, False, 1.0),
        (3, False, 2.0),
        (7, False, 30.0),
        (1, True, 5.0),
        (2, True, 10.0),
        (6, True, 120.0),
        (10_000, True, 120.0),
    ],
)
def test_the_wait_grows_exponentially_to_a_cap_with_jitter_over_a_floor(
    tries: int, slow: bool, ceiling_s: float
) -> None:
    assert retries.back_off_s(POLICY, tries=tries, slow=slow, jitter=0.0) == pytest.approx(ceiling_s / 10)
    assert retries.back_off_s(POLICY, tries=tries, slow=slow, jitter=1.0) == pytest.approx(ceiling_s)


@pytest.mark.parametrize("refusal", [error("1302", status=429), error("1305"), error(kind="connect")])
def test_a_refusal_repeats_the_same_attempt_however_often(refusal: UpstreamError) -> None:
    decision = decide(refusal, tries=100_000, purchases=100)
    assert isinstance(decision, Retry)
    assert not decision.close_attempt


def test_an_overloaded_upstream_is_asked_more_slowly() -> None:
    assert wait_s(decide(error("1305"), jitter=0.5)) == pytest.approx(2.75)
    assert wait_s(decide(error("1302"), jitter=0.5)) == pytest.approx(0.275)


@pytest.mark.parametrize("lost", [error("1234", status=500), error(kind="timeout"), error(kind="garbage")])
def test_a_try_that_may_have_been_billed_closes_its_attempt(lost: UpstreamError) -> None:
    decision = decide(lost, tries=1, purchases=3)
    assert isinstance(decision, Retry)
    assert decision.close_attempt


def test_refusals_do_not_use_up_the_purchases() -> None:
    assert isinstance(decide(error(kind="cut"), tries=50, purchases=1), Retry)


def test_the_purchases_are_limited() -> None:
    decision = decide(error("500", status=500), purchases=4)
    assert decision == Fail(
        reason_code="500",
        message="the upstream refused (not tried again: 4 tries that may have been billed are the limit)",
        uncertain=True,
    )


def test_on_uncertain_fail_never_buys_again() -> None:
    decision = decide(error(kind="timeout"), on_uncertain=OnUncertain.FAIL)
    assert isinstance(decision, Fail)
    assert decision.reason_code == "no_answer"
    assert decision.uncertain
    assert "on_uncertain" in decision.message
    assert isinstance(decide(error("1302"), on_uncertain=OnUncertain.FAIL), Retry)


def test_a_first_answer_that_cannot_be_fetched_counts_as_bought() -> None:
    decision = decide(error("1231", status=400))
    assert isinstance(decision, Retry)
    assert decision.close_attempt


def test_a_final_error_fails_with_the_upstreams_code_and_words() -> None:
    decision = decide(error("1301", status=400, message="unsafe"))
    assert decision == Fail(reason_code="1301", message="unsafe", uncertain=False)


def test_a_final_error_without_a_code_fails_with_a_slug() -> None:
    decision = decide(error(status=422))
    assert isinstance(decision, Fail)
    assert decision.reason_code == "bad_request"


@pytest.mark.parametrize(("code", "reason"), [("1113", "no_balance"), ("1002", "bad_key"), ("1309", "plan")])
def test_a_refused_credential_is_paused_even_after_the_deadline(code: str, reason: str) -> None:
    decision = decide(error(code, status=429, message="no"), deadline=NOW - timedelta(days=1))
    assert decision == Pause(reason=reason, message="no")


def test_no_try_starts_after_the_deadline() -> None:
    overloaded = error("1305", status=429)
    at = NOW + timedelta(seconds=wait_s(decide(overloaded)))
    assert isinstance(decide(overloaded, deadline=at), Retry)
    late = decide(overloaded, deadline=at - timedelta(microseconds=1))
    assert isinstance(late, Fail)
    assert late.reason_code == "1305"
    assert not late.uncertain
    assert "deadline" in late.message


@pytest.mark.parametrize(
    ("retry_after_s", "at_least_s", "at_most_s"),
    [
        (20.0, 20.0, 20.5),
        (0.001, 0.05, 0.501),
        (0.0, 0.05, 0.5),
        (-5.0, 0.05, 0.5),
        (float("nan"), 0.05, 0.5),
        (float("inf"), 86_400.0, 86_400.5),
    ],
)
@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_retry_after_is_a_minimum(retry_after_s: float, at_least_s: float, at_most_s: float, jitter: float) -> None:
    waited = wait_s(decide(error(status=429, retry_after_s=retry_after_s), jitter=jitter))
    assert at_least_s <= waited <= at_most_s


def test_a_daily_limit_ends_at_midnight_in_china() -> None:
    decision = decide(error("1304", status=429))
    assert isinstance(decision, Retry)
    assert decision.at == datetime(2026, 5, 1, 16, 0, tzinfo=UTC)
    assert decision.at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("message", "at"),
    [
        ("您的限额将在 2026-05-01 20:30:00 重置。", datetime(2026, 5, 1, 12, 30, tzinfo=UTC)),
        ("resets at 2026-05-08T00:00:00", datetime(2026, 5, 7, 16, 0, tzinfo=UTC)),
        ("your limit is reached", NOW + timedelta(hours=1)),
        ("resets at 2026-13-45 99:00:00", NOW + timedelta(hours=1)),
        ("resets at 2099-01-01 00:00:00", NOW + timedelta(hours=1)),
        ("has reset at 2026-05-01 17:59:00", NOW + timedelta(seconds=0.5)),
    ],
)
@pytest.mark.parametrize("code", ["1308", "1310"])
def test_a_plan_limit_ends_at_the_time_in_its_message(code: str, message: str, at: datetime) -> None:
    decision = decide(error(code, status=429, message=message))
    assert isinstance(decision, Retry)
    assert decision.at == at


def test_those_who_wait_for_the_same_limit_are_spread() -> None:
    assert wait_s(decide(error("1304"), jitter=0.5)) == wait_s(decide(error("1304"))) + 15.0


@given(
    st.sampled_from([error("1302"), error("1305"), error("1304"), error("1308"), error(kind="cut")]),
    st.integers(min_value=1, max_value=10**6),
    st.floats(min_value=0, max_value=1, exclude_max=True),
    st.integers(min_value=-(10**6), max_value=10**6),
)
def test_a_retry_is_always_later_than_now_and_never_after_the_deadline(
    failure: UpstreamError, tries: int, jitter: float, deadline_s: int
) -> None:
    deadline = NOW + timedelta(seconds=deadline_s)
    decision = decide(failure, tries=tries, jitter=jitter, deadline=deadline)
    if isinstance(decision, Retry):
        assert NOW < decision.at <= deadline
