"""From what a batch's files say of a line to its settlement. Pure.

A line that the upstream failed, or left, was not billed: it runs by itself, and its own call's error decides. One that
cannot be read may have been billed: it is uncertain, as an answer that was cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from tollgate.domain.errors import UpstreamError
from tollgate.domain.settling import Bill, Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.upstream_batch_answers import LineAnswer
from tollgate.domain.usage import parse_usage
from tollgate.store.upstream_lines import Line
from worker import billing, outcomes
from worker.billing import Rules
from worker.upstreams.chat import parse_answer

LEFT = UpstreamError("its upstream batch ended without an answer to it", code="batch_unfinished")
LOST = UpstreamError("its upstream batch ended without a readable answer to it", kind="garbage")


def settlement(line: Line, answer: LineAnswer, *, rules: Rules, now: datetime, jitter: float) -> Settlement:
    """What becomes of a line by the answer that came for it."""
    if answer.result is not None and answer.body is not None:
        try:
            parsed = parse_answer("chat", answer.status, answer.body, answer.result)
        except UpstreamError as error:
            return _failed(line, error, bill=_bill(line, answer.body, rules), rules=rules, now=now, jitter=jitter)
        judged = outcomes.answered(line, parsed, rules=rules, now=now, jitter=jitter).settlement
        return _of_queued(judged, now=now)
    bill, why = _bill(line, answer.body, rules), answer.error or LEFT
    if answer.unreadable:
        return _failed(line, why, bill=bill, rules=rules, now=now, jitter=jitter)
    return _not_bought(line, why, bill=bill, now=now)


def unanswered(line: Line, *, lost: bool, rules: Rules, now: datetime, jitter: float) -> Settlement:
    """What becomes of a line for which none came. `lost`: there are answers of which nobody can say whose they are."""
    if lost:
        return _failed(line, LOST, bill=None, rules=rules, now=now, jitter=jitter)
    return _not_bought(line, LEFT, bill=None, now=now)


def _bill(line: Line, body: Mapping[str, Any] | None, rules: Rules) -> Bill | None:
    """What was charged all the same, where it says so."""
    usage = parse_usage((body or {}).get("usage"))
    return billing.bill(line, usage, rules) if usage else None


def _failed(
    line: Line, error: UpstreamError, *, bill: Bill | None, rules: Rules, now: datetime, jitter: float
) -> Settlement:
    judged = outcomes.failed(line, error, sent=True, bill=bill, rules=rules, now=now, jitter=jitter).settlement
    return _of_queued(judged, now=now)


def _not_bought(line: Line, error: UpstreamError, *, bill: Bill | None, now: datetime) -> Settlement:
    return _of_queued(
        Settlement(
            task_id=line.id,
            fence=line.fence,
            attempt=line.attempt,
            outcome=AttemptOutcome.FAILED,
            state=TaskState.QUEUED,
            counts_as_try=False,
            bill=bill or Bill(),
            http_status=error.http_status,
            error_code=error.code or error.kind,
            error_message=str(error),
        ),
        now=now,
    )


def _of_queued(judged: Settlement, *, now: datetime) -> Settlement:
    """The same of a task that no worker holds; what is to run again is due at once, and by itself."""
    again = judged.state is TaskState.QUEUED
    return replace(
        judged,
        held=TaskState.QUEUED,
        knows_id=True,
        hinted=False,
        unbatched=again,
        not_before=now if again else judged.not_before,
    )
