"""How tasks that failed are told on ZhipuAI's wire: by a status and a business code. Pure."""

from __future__ import annotations

from tollgate.domain import errors, verdicts

ENDS = {
    "bad_request": (400, "1210"),
    "model_unavailable": (400, "1211"),
    "not_permitted": (403, "1220"),
    "prompt_too_long": (400, "1261"),
    "blocked": (400, "1301"),
    "rate_limited": (429, "1302"),
    "overloaded": (429, "1305"),
    "daily_limit": (429, "1304"),
    "plan_limit": (429, "1308"),
    "plan": (429, "1309"),
    "no_balance": (429, "1113"),
    "budget_exceeded": (429, "1113"),
    "cancelled": (400, "1200"),
    "expired": (503, "1230"),
}
"""Why a task failed (a verdict's slug) -> HTTP status of the call that waited for it, and the code where the
upstream gave none of ZhipuAI's. Anything else is a 500: also an upstream's refusal of *our* key, which says
nothing about the client's."""
BROKE = (500, "1234")


def end_of(code: str | None) -> tuple[int, str]:
    """HTTP status and ZhipuAI's code for the error code of a failed task: an upstream's, or a verdict's slug."""
    given = code or ""
    reason = given if given in ENDS else verdicts.judge(errors.UpstreamError("", code=given)).reason
    status, own = ENDS.get(reason, BROKE)
    return status, given if given.isascii() and given.isdigit() and len(given) == 4 else own
