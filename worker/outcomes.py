"""From what became of a call to the settlement of its task. Pure; the engine and the rescue apply it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial

from tollgate.domain import retries, verdicts
from tollgate.domain.errors import UpstreamError
from tollgate.domain.settling import NOTHING_BILLED, Bill, Known, Settlement
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.domain.usage import TokenUsage
from tollgate.domain.values import value
from tollgate.domain.verdicts import Action, Verdict
from worker import billing, detours
from worker.billing import Leased, Rules
from worker.detours import Ways
from worker.upstreams.upstream import Answer

KEPT_HINT_S = 60.0
"""A retry that is due sooner stays with this worker's own timer; a later one is the announcer's."""
UNSTORABLE = "unstorable"
"""Error code of a task whose answer came, and was paid, but cannot be kept."""


@value
class Outcome:
    """A settlement, and what the error says of the upstream."""

    settlement: Settlement
    pause_reason: str | None = None
    """The credential is to be paused."""
    slow_down: bool = False
    """Refused for our rate: the route's concurrency is to be lowered."""
    outage: bool = False
    """The upstream was not there, or broken, and its tasks may go elsewhere."""


def answered(
    leased: Leased,
    answer: Answer,
    *,
    rules: Rules,
    now: datetime,
    jitter: float,
    ways: Ways | None = None,
    known: Known | None = None,
) -> Outcome:
    """A complete answer: the task succeeds, unless the model failed inside its HTTP 200 ("network_error")."""
    usage = answer.usage or billing.estimated_usage(leased, answer.texts)
    bill = billing.bill(leased, usage, rules)
    if answer.finish_reason == "network_error":
        error = UpstreamError("the model ended with network_error", code="1234", http_status=answer.http_status)
        told = bill if answer.usage else None
        return failed(leased, error, sent=True, bill=told, rules=rules, now=now, jitter=jitter, ways=ways)
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
            known=known,
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
    repeatable: bool = False,
    ended_there: bool = False,
    ways: Ways | None = None,
) -> Outcome:
    """A try without an answer. `sent`: its first byte left. `bill`: what it cost all the same, where that is known.

    `repeatable`: the upstream tells a repeated request_id from a new call, so an answer that never came is asked for
    once more, whatever `on_uncertain` says: nothing is bought twice by that. `ended_there`: the upstream had the call,
    under an id that is known, and it is over: whatever its error is called, it is no refusal of the next one. `ways`:
    where else its model runs; None where the failure says nothing of the upstream."""
    if not sent and error.http_status is None:
        error = UpstreamError(str(error), kind="connect")
    if bill is None and error.usage is not None:
        bill = billing.bill(leased, error.usage, rules)
    verdict = verdicts.judge(error)
    if ended_there and verdict.action is not Action.FAIL:
        verdict = replace(verdict, action=Action.RETRY_UNCERTAIN, slow_down=False)
    tried = partial(
        _tried, leased, error, verdict=verdict, rules=rules, now=now, jitter=jitter, bill=bill, repeatable=repeatable,
        ended_there=ended_there,
    )  # fmt: skip
    stays = tried()
    if ways is None:
        return stays
    settlement = detours.settled(
        stays.settlement, verdict, ways=ways, rules=rules, now=now,
        tried=lambda at_once: tried(at_once=at_once).settlement,
    )  # fmt: skip
    return replace(stays, settlement=settlement, outage=ways.outage(verdict))


def _tried(
    leased: Leased,
    error: UpstreamError,
    *,
    verdict: Verdict,
    rules: Rules,
    now: datetime,
    jitter: float,
    bill: Bill | None,
    repeatable: bool,
    ended_there: bool,
    at_once: bool = False,
) -> Outcome:
    """By the verdict. `at_once`: the next try goes to another server."""
    asks_again = repeatable and bill is None and verdict.action is Action.RETRY_UNCERTAIN
    decision = retries.decide(
        error,
        verdict=verdict,
        tries=leased.tries + 1,
        purchases=leased.attempt - leased.refused_attempts + leased.unanswered,
        now=now,
        retry_deadline=leased.retry_until,
        policy=rules.policy,
        on_uncertain=OnUncertain.RETRY if asks_again else leased.on_uncertain,
        jitter=jitter,
        at_once=at_once,
    )
    match decision:
        case retries.Pause():
            named = decision.reason if error.code is None else f"{decision.reason} ({error.code})"
            # Tried again at once: there may be another credential. Where there is none, the hint is given back.
            settlement = given_back(leased, error=error, hinted=True)
            if bill is not None:  # refused in the middle of its answer: that much was bought
                settlement = _retry(leased, error, AttemptOutcome.FAILED, now, now=now, bill=bill, rules=rules)
            return Outcome(settlement=settlement, pause_reason=f"{named}: {decision.message}")
        case retries.Retry() if asks_again:
            return Outcome(settlement=_asked_again(leased, error, decision.at, now=now, rules=rules))
        case retries.Retry():
            closes_as = AttemptOutcome.UNCERTAIN if bill is None else AttemptOutcome.FAILED
            if not decision.close_attempt and bill is None:  # refused: nothing was bought
                closes_as = AttemptOutcome.OPEN
            settlement = _retry(leased, error, closes_as, decision.at, now=now, bill=bill, rules=rules)
            return Outcome(settlement=replace(settlement, knows_id=ended_there), slow_down=verdict.slow_down)
        case retries.Fail():
            # A refusal is only of its own send: an earlier one that went unanswered may be billed.
            uncertain = (decision.uncertain or (repeatable and leased.unanswered > 0)) and bill is None
            closes_as = AttemptOutcome.UNCERTAIN if uncertain else AttemptOutcome.FAILED
            settlement = _ended(leased, error, closes_as, TaskState.FAILED, bill=bill, rules=rules)
            settlement = replace(_explained(settlement, decision), knows_id=ended_there)
            return Outcome(settlement=settlement, slow_down=verdict.slow_down)


def left_behind(leased: Leased, *, rules: Rules, now: datetime, jitter: float) -> Settlement:
    """What a dead worker held. A call with an upstream id is taken over, by whoever claims its task next.

    Not hinted: the worker that would have remembered the retry is gone."""
    if leased.upstream_id is not None:
        return given_back(leased)
    error = UpstreamError("its worker died before the answer came", kind="cut")
    outcome = failed(leased, error, sent=True, rules=rules, now=now, jitter=jitter, repeatable=leased.mode == "async")
    return replace(outcome.settlement, hinted=False)


def cancelled(leased: Leased, *, sent: bool, rules: Rules, usage: TokenUsage | None = None) -> Settlement:
    """Its owner asked: an aborted call that was sent may be billed. `usage`: what it had come to, if known."""
    error = UpstreamError("cancelled at its owner's request", code="cancelled", kind="cancelled")
    if usage is not None:
        bill = billing.bill(leased, usage, rules)
        return _ended(leased, error, AttemptOutcome.FAILED, TaskState.CANCELLED, bill=bill, rules=rules)
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
    """The database refuses what the upstream sent: the task fails, and what it cost is booked all the same. One that
    is only queued again goes without the upstream's words."""
    if settlement.outcome is AttemptOutcome.OPEN:
        return replace(settlement, http_status=None, error_code=None, error_message=None)
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


def _asked_again(leased: Leased, error: UpstreamError, at: datetime, *, now: datetime, rules: Rules) -> Settlement:
    """The same purchase once more. What it may have cost is kept with it, should it never be answered."""
    settlement = _retry(
        leased, error, AttemptOutcome.OPEN, at, now=now, bill=billing.possible_bill(leased, rules), rules=rules
    )
    return replace(settlement, unanswered=True)


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


def _bill_of_failure(leased: Leased, outcome: AttemptOutcome, bill: Bill | None, rules: Rules) -> Bill:
    if outcome is not AttemptOutcome.UNCERTAIN:
        return bill or NOTHING_BILLED
    return billing.possible_bill(leased, rules)
