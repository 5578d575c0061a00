"""Where a task goes that its route failed: the rule of a model's fallbacks. Pure.

A task leaves its route for the next one in the order of models.toml, and after the last for the first, when the route
failed it `fallback_after` times for a cause that the model names in `fallback_on`; at once where asking again cannot
help: every key is paused, or the limit is the day's or the plan's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tollgate.domain.routing import Catalog, Cause, Mode, Model, Route
from tollgate.domain.states import OnUncertain
from tollgate.domain.verdicts import Action, Verdict

CAUSES: Mapping[str, Cause] = {
    "overloaded": Cause.OVERLOAD,
    **dict.fromkeys(("unreachable", "server_error", "no_answer"), Cause.OUTAGE),
    **dict.fromkeys(("bad_key", "no_balance", "account", "plan"), Cause.PAUSE),
    **dict.fromkeys(("daily_limit", "plan_limit"), Cause.PAUSE),
    "rate_limited": Cause.RATE_LIMIT,
}
"""By a verdict's reason. What is the task's own fault is not here: it would be refused everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The route that is tried next. `at_once`: it is another server, so no back-off. Not so at the round's end: then
    every route of the model has failed the task."""

    route: Route
    at_once: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reroute:
    """What becomes of a task's row as it changes its route: its next attempt is bought there."""

    route: str
    lane: str
    mode: Mode
    on_uncertain: OnUncertain
    reserved_nano: int | None
    """The most that one purchase there can come to; None: without a price nobody can say."""
    reserved_tokens: int


def cause_of(verdict: Verdict) -> Cause | None:
    """Why a task may leave its route after a try that was judged so; None: it may not."""
    cause = CAUSES.get(verdict.reason)
    if cause is not None and verdict.action is Action.RETRY_UNCERTAIN:
        return Cause.OUTAGE  # it was taken in and failed there: whatever its error is called, no refusal of the next
    return cause


def counts(model: Model, verdict: Verdict) -> bool:
    """Whether a try that was judged so is one of the `fallback_after`."""
    cause = cause_of(verdict)
    return len(model.routes) > 1 and cause is not Cause.PAUSE and cause in model.fallback_on


def next_route(
    model: Model, *, tried: str, cause: Cause | None, failures: int, avoid: Collection[str] = ()
) -> Step | None:
    """Where the next try goes after one on the route `tried`; None: it stays.

    `failures` counts the tries there that failed the task for one of its causes, this one included. `avoid`: routes
    that nobody can call now."""
    if cause not in model.fallback_on or (cause is not Cause.PAUSE and failures < model.fallback_after):
        return None
    ids = [route.id for route in model.routes]
    if tried not in ids:
        return None  # models.toml was changed meanwhile: nothing says what comes after this one
    place = ids.index(tried)
    for route in (*model.routes[place + 1 :], *model.routes[:place]):
        if route.id not in avoid:
            return Step(route=route, at_once=ids.index(route.id) > place)
    return None


def after_pause(model: Model, route: str, *, stuck: Collection[str]) -> Step | None:
    """Where a task goes that waits for a route that nobody can call."""
    return next_route(model, tried=route, cause=Cause.PAUSE, failures=1, avoid=stuck)


def targets(catalog: Catalog, route: str, *, stuck: Collection[str]) -> frozenset[str]:
    """Where tasks of `route` go while nobody can call the routes of `stuck`: nowhere if it is none of them, or no model
    has anywhere else."""
    if route not in stuck:
        return frozenset()
    models = (model for model in catalog.models.values() if len(model.routes) > 1)
    steps = (after_pause(model, route, stuck=stuck) for model in models)
    return frozenset(step.route.id for step in steps if step is not None)


def only_route(catalog: Catalog, route: str) -> bool:
    """Whether a model runs there and nowhere else: its tasks could not leave it."""
    return any([one.id for one in model.routes] == [route] for model in catalog.models.values())


def mode_on(route: Route, *, catalog: Catalog, endpoint: str, streamed: bool) -> Mode:
    """How a task is asked on a fallback: as the route says, where the task can be asked so."""
    polled = route.mode == "async" and catalog.upstreams[route.upstream].kind == "zhipu"
    return "async" if polled and endpoint == "chat" and not streamed else "direct"


def stricter(one: OnUncertain, other: OnUncertain) -> OnUncertain:
    """A fallback never allows a second purchase that the task, or a route it was on, forbade."""
    return OnUncertain.FAIL if OnUncertain.FAIL in (one, other) else OnUncertain.RETRY
