"""From what became of a call to the settlement of its task."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tollgate.domain.engine_rates import EngineRate
from tollgate.domain.errors import UpstreamError
from tollgate.domain.ids import new_id
from tollgate.domain.prices import Price, PriceTable, Tier
from tollgate.domain.settling import NOTHING_BILLED, Settlement
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.domain.usage import TokenUsage
from tollgate.store.claims import Claimed
from worker import billing, outcomes
from worker.billing import Rules
from worker.outcomes import Outcome
from worker.upstreams.upstream import Answer

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MICRO = 1_000_000_000_000
"""Nano-units a million tokens, at a thousandth of the currency each."""


def price(model: str, *, since: datetime, unit: int = 1) -> Price:
    tier = Tier(name="all", input_nano=unit * MICRO, output_nano=2 * unit * MICRO)
    return Price(upstream="zhipu", model=model, valid_from=since, currency="CNY", tiers=(tier,))


OLD, NEW = datetime(2024, 1, 1, tzinfo=UTC), NOW - timedelta(minutes=1)
RULES = Rules(prices=PriceTable([price("glm", since=OLD), price("glm", since=NEW, unit=5)]))


def claimed(**changes: Any) -> Claimed:
    plain = Claimed(
        id=new_id(),
        fence=3,
        attempt=1,
        tries=0,
        endpoint="chat",
        model="glm",
        route="zhipu/glm",
        lane="cloud.bulk",
        body="{}",
        deadline=NOW + timedelta(hours=1),
        retry_until=NOW + timedelta(hours=1),
        on_uncertain=OnUncertain.RETRY,
        prompt_tokens_estimate=100,
        assumed_max_tokens=900,
        max_tokens=50,
        attempt_started_at=NOW,
    )
    return replace(plain, **changes)


def answer(**changes: Any) -> Answer:
    usage = TokenUsage(prompt_tokens=10, cached_tokens=4, completion_tokens=3)
    plain = Answer(body='{"a":1}', usage=usage, http_status=200, upstream_id="u", finish_reason="stop")
    return replace(plain, **changes)


def fails(error: UpstreamError, *, sent: bool = True, task: Claimed | None = None) -> Outcome:
    return outcomes.failed(task or claimed(), error, sent=sent, rules=RULES, now=NOW, jitter=0.5)


def answers(given: Answer, *, task: Claimed | None = None) -> Settlement:
    return outcomes.answered(task or claimed(), given, rules=RULES, now=NOW, jitter=0.5).settlement


def test_an_answer_settles_with_its_tokens_at_the_price_of_the_attempts_start() -> None:
    settled = answers(answer())
    assert (settled.state, settled.outcome, settled.result) == (
        TaskState.SUCCEEDED,
        AttemptOutcome.SUCCEEDED,
        '{"a":1}',
    )
    assert (settled.bill.prompt_tokens, settled.bill.cached_tokens, settled.bill.completion_tokens) == (10, 4, 3)
    assert settled.bill.cost_nano == 5 * (10 + 2 * 3) * 1_000_000
    before = answers(answer(), task=claimed(attempt_started_at=NEW - timedelta(seconds=1)))
    assert before.bill.cost_nano == (10 + 2 * 3) * 1_000_000
    assert before.bill.price_id != settled.bill.price_id


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "sensitive", None])
def test_whatever_ends_an_answer_but_a_network_error_is_a_success(reason: str | None) -> None:
    assert answers(answer(finish_reason=reason)).state is TaskState.SUCCEEDED


def test_a_network_error_inside_an_answer_is_bought_anew_and_its_tokens_are_paid() -> None:
    settled = answers(answer(finish_reason="network_error"))
    assert (settled.state, settled.outcome) == (TaskState.QUEUED, AttemptOutcome.FAILED)
    assert settled.bill.cost_nano == 5 * 16 * 1_000_000
    silent = answers(answer(finish_reason="network_error", usage=None))
    assert (silent.outcome, silent.bill.cost_nano) == (AttemptOutcome.UNCERTAIN, None)
    assert silent.bill.possible_cost_nano


def test_usage_that_is_missing_is_estimated_by_what_the_model_wrote() -> None:
    settled = answers(answer(usage=None, texts=("hello" * 7, "你好")))
    assert settled.bill.cost_estimated
    assert settled.bill.prompt_tokens == 100
    assert settled.bill.completion_tokens == 12


def test_a_route_without_a_price_has_tokens_and_no_cost() -> None:
    bill = answers(answer(), task=claimed(route="vllm/glm")).bill
    assert (bill.prompt_tokens, bill.cost_nano, bill.price_id) == (10, None, None)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UpstreamError("slow down", code="1302", http_status=429), AttemptOutcome.OPEN),
        (UpstreamError("busy", http_status=503), AttemptOutcome.OPEN),
        (UpstreamError("nobody there", kind="connect"), AttemptOutcome.OPEN),
        (UpstreamError("broke", http_status=500), AttemptOutcome.UNCERTAIN),
        (UpstreamError("cut", kind="cut"), AttemptOutcome.UNCERTAIN),
        (UpstreamError("late", kind="timeout"), AttemptOutcome.UNCERTAIN),
        (UpstreamError("what", http_status=200, kind="garbage"), AttemptOutcome.UNCERTAIN),
    ],
)
def test_a_try_is_repeated_by_the_same_attempt_unless_it_may_have_been_billed(
    error: UpstreamError, outcome: AttemptOutcome
) -> None:
    settled = fails(error).settlement
    assert (settled.state, settled.outcome, settled.counts_as_try) == (TaskState.QUEUED, outcome, True)
    assert (settled.bill.possible_cost_nano is not None) == (outcome is AttemptOutcome.UNCERTAIN)
    assert settled.not_before is not None
    assert settled.not_before > NOW


@pytest.mark.parametrize("kind", ["cut", "timeout", "garbage", None])
def test_what_was_not_sent_is_never_uncertain(kind: str | None) -> None:
    settled = fails(UpstreamError("whatever", kind=kind), sent=False).settlement
    assert settled.outcome is AttemptOutcome.OPEN


def test_the_possible_cost_is_the_dearest_answer_the_request_allows() -> None:
    bill = fails(UpstreamError("cut", kind="cut")).settlement.bill
    assert bill.possible_cost_nano == 5 * (100 + 2 * 50) * 1_000_000
    unbounded = fails(UpstreamError("cut", kind="cut"), task=claimed(max_tokens=None)).settlement.bill
    assert unbounded.possible_cost_nano == 5 * (100 + 2 * 900) * 1_000_000
    assert bill.cost_nano is None


def test_what_an_engine_worked_for_a_task_is_what_it_pays_for() -> None:
    rate = EngineRate(second_nano=2_000_000, tokens_per_second=1_000, alone_tokens_per_second=100)
    by_the_second = Price(upstream="gpu", model="glm", valid_from=OLD, currency="CNY", engine=rate)
    rules = Rules(prices=PriceTable([by_the_second]))
    task = claimed(route="gpu/glm")
    worked = TokenUsage(prompt_tokens=10, completion_tokens=3, engine_us=4_500)
    bill = billing.bill(task, worked, rules)
    assert (bill.engine_us, bill.cost_nano, bill.price_tier, bill.cost_estimated) == (4_500, 9_000, "engine", False)
    unknown = billing.bill(task, replace(worked, engine_us=0), rules)
    assert (unknown.engine_us, unknown.cost_nano, unknown.cost_estimated) == (None, 13 * 2_000, True)
    lost = billing.possible_bill(task, rules)
    assert lost.possible_cost_nano == (100 * 2_000 + 50 * 20_000), "a prompt of 100 tokens, an answer of 50 alone"


def test_a_final_refusal_costs_nothing_and_carries_its_code() -> None:
    settled = fails(UpstreamError("sensitive", code="1301", http_status=400)).settlement
    assert (settled.state, settled.outcome, settled.error_code) == (TaskState.FAILED, AttemptOutcome.FAILED, "1301")
    assert settled.bill == NOTHING_BILLED


def test_the_last_purchase_fails_the_task_and_stays_uncertain() -> None:
    settled = fails(UpstreamError("cut", kind="cut"), task=claimed(attempt=4)).settlement
    assert (settled.state, settled.outcome) == (TaskState.FAILED, AttemptOutcome.UNCERTAIN)
    assert settled.bill.possible_cost_nano
    assert settled.error_message is not None
    assert "4 tries" in settled.error_message


def test_on_uncertain_fail_takes_no_second_chance() -> None:
    task = claimed(on_uncertain=OnUncertain.FAIL)
    assert fails(UpstreamError("cut", kind="cut"), task=task).settlement.state is TaskState.FAILED
    refused = UpstreamError("slow down", code="1302", http_status=429)
    assert fails(refused, task=task).settlement.state is TaskState.QUEUED


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("code", "slow_down"), [("1302", True), ("1303", True), ("1305", False), ("1113", False)])
def test_a_refusal_for_our_rate_slows_the_route_down_whether_or_not_the_task_is_tried_again(
    code: str, slow_down: bool, late: bool
) -> None:
    task = claimed(retry_until=NOW - timedelta(seconds=1)) if late else claimed()
    assert fails(UpstreamError("slow down", code=code, http_status=429), task=task).slow_down is slow_down


def test_a_call_that_the_upstream_took_and_ended_says_nothing_of_our_rate() -> None:
    error = UpstreamError("slow down", code="1302", http_status=429)
    ended = outcomes.failed(claimed(), error, sent=True, rules=RULES, now=NOW, jitter=0.5, ended_there=True)
    assert not ended.slow_down


def test_a_refused_key_pauses_counts_no_try_and_keeps_the_attempt_open() -> None:
    outcome = fails(UpstreamError("no balance", code="1113", http_status=429))
    settled = outcome.settlement
    assert outcome.pause_reason == "no_balance (1113): no balance"
    assert (settled.state, settled.outcome, settled.counts_as_try) == (TaskState.QUEUED, AttemptOutcome.OPEN, False)
    assert settled.error_code == "1113"


def test_a_retry_that_is_due_soon_stays_with_the_worker_and_a_late_one_with_the_announcer() -> None:
    soon = UpstreamError("slow down", code="1302", http_status=429)
    late = UpstreamError("slow down", code="1302", http_status=429, retry_after_s=120)
    assert fails(soon).settlement.hinted
    assert not fails(late).settlement.hinted


@pytest.mark.parametrize(("sent", "outcome"), [(True, AttemptOutcome.UNCERTAIN), (False, AttemptOutcome.ABANDONED)])
def test_a_cancelled_call_may_be_billed_only_if_it_was_sent(sent: bool, outcome: AttemptOutcome) -> None:
    settled = outcomes.cancelled(claimed(), sent=sent, rules=RULES)
    assert (settled.state, settled.outcome) == (TaskState.CANCELLED, outcome)
    assert (settled.bill.possible_cost_nano is not None) == sent


def test_what_is_given_back_is_as_it_was() -> None:
    settled = outcomes.given_back(claimed())
    assert (settled.state, settled.outcome, settled.counts_as_try, settled.hinted) == (
        TaskState.QUEUED,
        AttemptOutcome.OPEN,
        False,
        False,
    )


def test_an_answer_that_cannot_be_stored_is_paid() -> None:
    paid = answers(answer())
    settled = outcomes.unstorable(paid)
    assert (settled.state, settled.outcome, settled.result) == (TaskState.FAILED, AttemptOutcome.FAILED, None)
    assert settled.bill == paid.bill


def test_a_failure_that_cannot_be_stored_stays_as_uncertain_as_it_was() -> None:
    settled = outcomes.unstorable(fails(UpstreamError("cut", kind="cut")).settlement)
    assert (settled.state, settled.outcome) == (TaskState.FAILED, AttemptOutcome.UNCERTAIN)
