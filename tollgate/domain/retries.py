"""Whether and when a try is repeated: a pure decision from the error, the counts and the clock's reading.

A refusal (429, overload, no connection) costs nothing and is repeated until the task's deadline. A try
that may have been billed costs perhaps its full price, so few are bought.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from tollgate.domain.errors import UpstreamError
from tollgate.domain.states import OnUncertain
from tollgate.domain.verdicts import Action, NotBefore, Verdict

CHINA = timezone(timedelta(hours=8))
"""ZhipuAI's days and times. China has had no daylight saving time since 1991."""
_UNNAMED_LIMIT = timedelta(hours=1)
"""How long a plan limit is waited for when its message names no time."""
_LONGEST_LIMIT = timedelta(days=32)
"""Plan limits are by the hour, week or month: a time further away was misread."""
_LONGEST_RETRY_AFTER_S = 86_400.0
_LARGEST_EXPONENT = 64
"""Beyond it a power only overflows: any cap is reached long before."""
_JITTER_FLOOR = 0.1
_NAMED_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patiently an upstream is asked again. Times in seconds."""

    max_purchases: int = 4
    """Tries that may have been billed, together; the answer is worth that much. Refusals do not count:
    the deadline alone ends them, since a busy hour must not fail a task that cost nothing."""
    base_s: float = 0.5
    factor: float = 2.0
    cap_s: float = 30.0
    slow_base_s: float = 5.0
    """For an overloaded upstream."""
    slow_cap_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Ask again at `at` (UTC). `close_attempt`: settle this attempt as uncertain and buy anew."""

    at: datetime
    close_attempt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Give up. `reason_code` is the upstream's business code, or the verdict's slug.

    `uncertain`: the last try may have been billed, so its attempt settles as uncertain, not failed.
    """

    reason_code: str
    message: str
    uncertain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Pause the credential for `reason`; the task goes back to the queue and no try is counted."""

    reason: str
    message: str


Decision = Retry | Fail | Pause


def decide(
    error: UpstreamError,
    *,
    verdict: Verdict,
    tries: int,
    purchases: int,
    now: datetime,
    retry_deadline: datetime | None,
    policy: RetryPolicy,
    on_uncertain: OnUncertain,
    jitter: float,
    at_once: bool = False,
) -> Decision:
    """What follows a failed try. `at_once`: it goes to another server, which is not waited for.

    `tries` counts every send of the task, this one included, and sets the wait; `purchases` counts
    those that may have been billed, this one included if it may. `jitter` is a random number in
    [0, 1). `now` and `retry_deadline` are aware; None means no deadline. Action.FETCH is the caller's
    to follow; given here, the first answer could not be fetched, so it counts as uncertain.
    """
    if verdict.action is Action.PAUSE:
        return Pause(reason=verdict.reason, message=str(error))
    uncertain = verdict.action in (Action.RETRY_UNCERTAIN, Action.FETCH)
    why_not = _why_not(verdict, policy, purchases=purchases, uncertain=uncertain, on_uncertain=on_uncertain)
    if why_not is not None:
        return _fail(error, verdict, why=why_not, uncertain=uncertain)
    at = now if at_once else _when(error, verdict=verdict, tries=tries, now=now, policy=policy, jitter=jitter)
    if retry_deadline is not None and at > retry_deadline:
        return _fail(error, verdict, why="the next try would start after the deadline", uncertain=uncertain)
    return Retry(at=at, close_attempt=uncertain)


def _why_not(
    verdict: Verdict, policy: RetryPolicy, *, purchases: int, uncertain: bool, on_uncertain: OnUncertain
) -> str | None:
    """Why this is not tried again whatever the time; "" where the error says it all; None if it may be."""
    if verdict.action is Action.FAIL:
        return ""
    if uncertain and on_uncertain is OnUncertain.FAIL:
        return "it may have been billed, and on_uncertain is fail"
    if uncertain and purchases >= policy.max_purchases:
        return f"{purchases} tries that may have been billed are the limit"
    return None


def _fail(error: UpstreamError, verdict: Verdict, *, why: str, uncertain: bool) -> Fail:
    message = f"{error} (not tried again: {why})" if why else str(error)
    return Fail(reason_code=error.code or verdict.reason, message=message, uncertain=uncertain)


def _when(
    error: UpstreamError,
    *,
    verdict: Verdict,
    tries: int,
    now: datetime,
    policy: RetryPolicy,
    jitter: float,
) -> datetime:
    """The latest of: the back-off, what Retry-After asks, and the end of the limit."""
    wait_s = back_off_s(policy, tries=tries, slow=verdict.back_off == "slow", jitter=jitter)
    # Retry-After and the end of a limit are the same moment for all that wait: a spread is added.
    spread_s = min(wait_s, policy.cap_s)
    at = now + timedelta(seconds=max(wait_s, _retry_after_s(error) + spread_s))
    ends = _limit_end(error, verdict=verdict, now=now)
    if ends is not None:
        at = max(at, ends + timedelta(seconds=jitter * policy.cap_s))
    return at.astimezone(UTC)


def back_off_s(policy: RetryPolicy, *, tries: int, slow: bool, jitter: float) -> float:
    """Seconds to wait after the `tries`-th try: exponential, capped, with full jitter over a floor.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. Its full jitter may wait
    nothing at all; here at least a tenth of the ceiling is waited.
    """
    base_s, cap_s = (policy.slow_base_s, policy.slow_cap_s) if slow else (policy.base_s, policy.cap_s)
    exponent = min(max(tries - 1, 0), _LARGEST_EXPONENT)
    ceiling_s = min(cap_s, base_s * policy.factor**exponent)
    return ceiling_s * (_JITTER_FLOOR + (1 - _JITTER_FLOOR) * jitter)


def _retry_after_s(error: UpstreamError) -> float:
    """What the upstream asks to wait, 0 to a day: a header is not trusted to park a task for longer."""
    asked_s = error.retry_after_s
    if asked_s is None or not asked_s > 0:  # also a NaN
        return 0.0
    return min(asked_s, _LONGEST_RETRY_AFTER_S)


def _limit_end(error: UpstreamError, *, verdict: Verdict, now: datetime) -> datetime | None:
    if verdict.not_before is NotBefore.NEXT_DAY:
        midnight = now.astimezone(CHINA).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight + timedelta(days=1)
    if verdict.not_before is NotBefore.NAMED_TIME:
        named = _named_time(str(error))
        known = named is not None and named <= now + _LONGEST_LIMIT
        return named if known else now + _UNNAMED_LIMIT
    return None


def _named_time(message: str) -> datetime | None:
    """The first "YYYY-MM-DD HH:MM:SS" in `message`, in China's time; None without one that exists."""
    found = _NAMED_TIME.search(message)
    if found is None:
        return None
    try:
        return datetime.fromisoformat(f"{found[1]} {found[2]}").replace(tzinfo=CHINA)
    except ValueError:
        return None
