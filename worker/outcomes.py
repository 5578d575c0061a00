"""From what became of a call to the settlement of its task. Pure; the engine and the rescue apply it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol
from uuid import UUID

from tollgate.domain import retries, verdicts
from tollgate.domain.errors import UpstreamError
from tollgate.domain.prices import Price, PriceTable, charge, worst_case_nano
from tollgate.domain.retries import RetryPolicy
from tollgate.domain.settling import NOTHING_BILLED, Bill, Settlement
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.domain.usage import TokenUsage, estimate_prompt_tokens
from worker.upstreams.upstream import Answer

ASSUMED_MAX_TOKENS = 4_096
"""What an answer without max_tokens may come to, for the possible cost of an uncertain call."""
KEPT_HINT_S = 60.0
"""A retry that is due sooner stays with this worker's own timer; a later one is the announcer's."""
UNSTORABLE = "unstorable"
"""Error code of a task whose answer came, and was paid, but cannot be kept."""


class Leased(Protocol):
    """What settling needs to know of a task: a worker's claim, or a dead worker's orphan."""

    @property
    def id(self) -> UUID: ...
    @property
    def fence(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def tries(self) -> int: ...
    @property
    def route(self) -> str: ...
    @property
    def retry_until(self) -> datetime: ...
    @property
    def on_uncertain(self) -> OnUncertain: ...
    @property
    def prompt_tokens_estimate(self) -> int: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def attempt_started_at(self) -> datetime: ...


@dataclass(slots=True, kw_only=True)
class Rules:
    """What an outcome is judged by. `prices` is replaced when new versions are published."""

    prices: PriceTable
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def price_of(self, route: str, *, at: datetime) -> Price | None:
        """What was in force then."""
        upstream, _, model = route.partition("/")
        return self.prices.find(upstream, model, at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A settlement, and what the error says of the upstream."""

    settlement: Settlement
    pause_reason: str | None = None
    """The credential is to be paused."""


def answered(leased: Leased, answer: Answer, *, rules: Rules, now: datetime, jitter: float) -> Outcome:
    """A complete answer: the task succeeds, unless the model failed inside its HTTP 200 ("network_error")."""
    usage = answer.usage or _estimated_usage(leased, answer)
    bill = _bill(leased, usage, rules)
    if answer.finish_reason == "network_error":
        error = UpstreamError("the model ended with network_error", code="1234", http_status=answer.http_status)
        known = bill if answer.usage else None
        return failed(leased, error, sent=True, bill=known, rules=rules, now=now, jitter=jitter)
    return Outcome(
        settlement=Settlement(
            task_id=leased.id,
            fence=leased.fence,
            attempt=leased.attempt,
            outcome=AttemptOutcome.SUCCEEDED,
            state=TaskState.SUCCEEDED,
            bill=bill,
            http_status=answer.http_status,
            result=answer.body,
        )
    )


def failed(
    leased: Leased,
    error: UpstreamError,
    *,
    sent: bool,
    rules: Rules,
    now: datetime,
    jitter: float,
    bill: Bill | None = None,
) -> Outcome:
    """A try without an answer. `sent`: its first byte left. `bill`: what it cost all the same, where that is known."""
    if not sent and error.http_status is None:
        error = UpstreamError(str(error), kind="connect")
    if bill is None and error.usage is not None:
        bill = _bill(leased, error.usage, rules)
    verdict = verdicts.judge(error)
    decision = retries.decide(
        error,
        verdict=verdict,
        tries=leased.tries + 1,
        purchases=leased.attempt,
        now=now,
        retry_deadline=leased.retry_until,
        policy=rules.policy,
        on_uncertain=leased.on_uncertain,
        jitter=jitter,
    )
    match decision:
        case retries.Pause():
            named = decision.reason if error.code is None else f"{decision.reason} ({error.code})"
            # Tried again at once: there may be another credential. Where there is none, the hint is given back.
            settlement = given_back(leased, error=error, hinted=True)
            return Outcome(settlement=settlement, pause_reason=f"{named}: {decision.message}")
        case retries.Retry():
            closes_as = AttemptOutcome.UNCERTAIN if bill is None else AttemptOutcome.FAILED
            if not decision.close_attempt:  # refused: nothing was bought
                closes_as, bill = AttemptOutcome.OPEN, None
            return Outcome(settlement=_retry(leased, error, closes_as, decision.at, now=now, bill=bill, rules=rules))
        case retries.Fail():
            uncertain = decision.uncertain and bill is None
            closes_as = AttemptOutcome.UNCERTAIN if uncertain else AttemptOutcome.FAILED
            settlement = _ended(leased, error, closes_as, TaskState.FAILED, bill=bill, rules=rules)
            return Outcome(settlement=_explained(settlement, decision))


def cancelled(leased: Leased, *, sent: bool, rules: Rules) -> Settlement:
    """Its owner asked: an aborted call that was sent may be billed."""
    error = UpstreamError("cancelled at its owner's request", code="cancelled", kind="cancelled")
    outcome = AttemptOutcome.UNCERTAIN if sent else AttemptOutcome.ABANDONED
    return _ended(leased, error, outcome, TaskState.CANCELLED, bill=None, rules=rules)


def given_back(leased: Leased, *, error: UpstreamError | None = None, hinted: bool = False) -> Settlement:
    """Not sent, or refused for a reason that is not the task's: queued again, the same attempt, no try counted."""
    return Settlement(
        task_id=leased.id,
        fence=leased.fence,
        attempt=leased.attempt,
        outcome=AttemptOutcome.OPEN,
        state=TaskState.QUEUED,
        counts_as_try=False,
        hinted=hinted,
        http_status=error.http_status if error else None,
        error_code=error.code if error else None,
        error_message=str(error) if error else None,
    )


def unstorable(settlement: Settlement) -> Settlement:
    """The database refuses what the upstream sent: the task fails, and what it cost is booked all the same."""
    succeeded = settlement.outcome is AttemptOutcome.SUCCEEDED
    return replace(
        settlement,
        state=TaskState.FAILED,
        outcome=AttemptOutcome.FAILED if succeeded else settlement.outcome,
        result=None,
        error_code=UNSTORABLE,
        error_message="the upstream's answer cannot be stored; what it cost is counted",
    )


def _retry(
    leased: Leased,
    error: UpstreamError,
    outcome: AttemptOutcome,
    at: datetime,
    *,
    now: datetime,
    bill: Bill | None,
    rules: Rules,
) -> Settlement:
    return Settlement(
        task_id=leased.id,
        fence=leased.fence,
        attempt=leased.attempt,
        outcome=outcome,
        state=TaskState.QUEUED,
        not_before=at,
        hinted=(at - now).total_seconds() < KEPT_HINT_S,
        bill=_bill_of_failure(leased, outcome, bill, rules),
        http_status=error.http_status,
        error_code=error.code or error.kind,
        error_message=str(error),
    )


def _ended(
    leased: Leased, error: UpstreamError, outcome: AttemptOutcome, state: TaskState, *, bill: Bill | None, rules: Rules
) -> Settlement:
    return Settlement(
        task_id=leased.id,
        fence=leased.fence,
        attempt=leased.attempt,
        outcome=outcome,
        state=state,
        bill=_bill_of_failure(leased, outcome, bill, rules),
        http_status=error.http_status,
        error_code=error.code or error.kind,
        error_message=str(error),
    )


def _explained(settlement: Settlement, decision: retries.Fail) -> Settlement:
    return replace(settlement, error_code=decision.reason_code, error_message=decision.message)


def _bill(leased: Leased, usage: TokenUsage, rules: Rules) -> Bill:
    price = rules.price_of(leased.route, at=leased.attempt_started_at)
    billed = charge(price, usage) if price else None
    return Bill(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        price_id=price.id if price else None,
        price_tier=billed.tier if billed else None,
        cost_nano=billed.cost_nano if billed else None,
        cost_estimated=billed.estimated if billed else usage.estimated,
    )


def _bill_of_failure(leased: Leased, outcome: AttemptOutcome, bill: Bill | None, rules: Rules) -> Bill:
    if outcome is not AttemptOutcome.UNCERTAIN:
        return bill or NOTHING_BILLED
    price = rules.price_of(leased.route, at=leased.attempt_started_at)
    if price is None:
        return NOTHING_BILLED
    completion = ASSUMED_MAX_TOKENS if leased.max_tokens is None else leased.max_tokens
    possible = worst_case_nano(price, prompt_tokens=leased.prompt_tokens_estimate, completion_tokens=completion)
    return Bill(price_id=price.id, possible_cost_nano=possible)


def _estimated_usage(leased: Leased, answer: Answer) -> TokenUsage:
    """A text counts the same as a prompt and as an answer."""
    return TokenUsage(
        prompt_tokens=leased.prompt_tokens_estimate,
        completion_tokens=estimate_prompt_tokens({"prompt": answer.texts}),
        estimated=True,
    )
