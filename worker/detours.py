"""Where else a claimed task may go, and what its row becomes there. Pure; the rule is `tollgate.domain.fallbacks`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from tollgate.domain import fallbacks, lanes
from tollgate.domain.errors import UnknownModelError
from tollgate.domain.fallbacks import Reroute, Step
from tollgate.domain.prices import worst_case_nano
from tollgate.domain.routing import Catalog, Cause, Model
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, OnUncertain, TaskState
from tollgate.domain.verdicts import Action, Verdict
from worker.billing import Rules


class Routed(Protocol):
    """What a change of route needs to know of a task: a worker's claim, or one that waits."""

    @property
    def model(self) -> str: ...
    @property
    def route(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def streamed(self) -> bool: ...
    @property
    def on_uncertain(self) -> OnUncertain: ...
    @property
    def route_tries(self) -> int: ...
    @property
    def prompt_tokens_estimate(self) -> int: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def assumed_max_tokens(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """The routes of one task's model, and what is known of them now."""

    task: Routed
    model: Model
    catalog: Catalog
    avoid: frozenset[str] = frozenset()
    """Routes that nobody can call."""
    last_key: bool = True
    """No other key of its upstream works: once this one is paused, the route is."""
    down: bool = False
    """Its route is known to be down: one failed try is enough."""
    bought: bool = False
    """Its upstream has its attempt, or may have it: it is not left while it can be fetched."""

    @property
    def elsewhere(self) -> bool:
        """Whether another route can be called now."""
        return any(route.id != self.task.route and route.id not in self.avoid for route in self.model.routes)

    def counts(self, verdict: Verdict) -> bool:
        """Whether the failed try is one of those that make the task leave its route."""
        return fallbacks.counts(self.model, verdict)

    def outage(self, verdict: Verdict) -> bool:
        """Whether the try met an outage that its task can go away from, as can all others of that route."""
        outage = self.counts(verdict) and fallbacks.cause_of(verdict) is Cause.OUTAGE
        return outage and self.elsewhere and not fallbacks.only_route(self.catalog, self.task.route)

    def after(self, verdict: Verdict) -> Step | None:
        """Where the next try goes after one that was judged so; None: it stays."""
        if verdict.action is Action.PAUSE and not self.last_key:
            return None
        return fallbacks.next_route(
            self.model,
            tried=self.task.route,
            cause=fallbacks.cause_of(verdict),
            failures=max(self.task.route_tries + 1, self.model.fallback_after if self.down else 0),
            avoid=self.avoid | self._paused_with_it(verdict),
        )

    def _paused_with_it(self, verdict: Verdict) -> frozenset[str]:
        """All routes of its upstream, once no key works there."""
        if verdict.action is not Action.PAUSE:
            return frozenset()
        here, _, _ = self.task.route.partition("/")
        return frozenset(route.id for route in self.model.routes if route.upstream == here)

    def same_place(self, way: Step) -> bool:
        """Whether the lanes it is served by are those that serve the task now."""
        return self._lane(way) == self.task.lane

    def reroute(self, way: Step, *, rules: Rules, now: datetime) -> Reroute:
        """What the task's row becomes there."""
        task, route = self.task, way.route
        completion = task.assumed_max_tokens if task.max_tokens is None else task.max_tokens
        price, prompt = rules.price_of(route.id, at=now), task.prompt_tokens_estimate
        most = worst_case_nano(price, prompt_tokens=prompt, completion_tokens=completion) if price else None
        return Reroute(
            route=route.id,
            lane=self._lane(way),
            mode=fallbacks.mode_on(route, catalog=self.catalog, endpoint=task.endpoint, streamed=task.streamed),
            on_uncertain=fallbacks.stricter(task.on_uncertain, route.on_uncertain),
            reserved_nano=most,
            reserved_tokens=prompt + completion,
        )

    def _lane(self, way: Step) -> str:
        return lanes.at_place(self.task.lane, self.catalog.place(way.route))


def ways_of(task: Routed, catalog: Catalog, *, blocked: Callable[[str], bool]) -> Ways | None:
    """None: its model runs in one place only, or is in models.toml no more."""
    try:
        model = catalog.find(task.model)
    except UnknownModelError:
        return None
    if len(model.routes) < 2:
        return None
    avoid = frozenset(route.id for route in model.routes if blocked(route.id))
    return Ways(task=task, model=model, catalog=catalog, avoid=avoid)


def settled(
    stays: Settlement,
    verdict: Verdict,
    *,
    ways: Ways,
    rules: Rules,
    now: datetime,
    tried: Callable[[bool], Settlement],
) -> Settlement:
    """On the model's next route, if its rule says so and the upstream does not have the call, nor may have it.

    `stays` is what the try comes to on its own route; `tried` says it of a next try that is at once, or is not."""
    stays = replace(stays, counts_on_route=ways.counts(verdict))
    if (way := ways.after(verdict)) is None:
        return stays
    goes = tried(way.at_once)
    refused = goes.outcome is AttemptOutcome.OPEN
    if goes.state is not TaskState.QUEUED or (refused and (goes.unanswered or ways.bought)):
        return stays
    return replace(
        goes,
        outcome=AttemptOutcome.FAILED if refused else goes.outcome,
        not_before=goes.not_before or now,
        hinted=goes.hinted and ways.same_place(way),
        reroute=ways.reroute(way, rules=rules, now=now),
        otherwise=stays,
    )
