"""Which routes nobody can call now, and why, by what the live workers say with each heartbeat. Pure.

A model on one's own device is in few workers: its route needs one that says it can call it. Any worker of a cloud lane
may call a cloud route: it is stuck if all who have met it say that they cannot, or if nobody serves its lane.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from tollgate.domain import fallbacks
from tollgate.domain.routing import Catalog, Place, upstream_of
from tollgate.domain.states import Priority

NO_LANE = "no worker serves"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    """Routes as they stand for tasks of one priority."""

    absent: Collection[str] = ()
    stuck: Collection[str] = ()


ALL_SERVED = Unserved()


class Load(Protocol):
    """What a worker says of a route."""

    @property
    def blocked(self) -> bool: ...


class Worker(Protocol):
    """One that is alive."""

    @property
    def lanes(self) -> Collection[str]: ...
    @property
    def load(self) -> Mapping[str, Load]:
        """Of the routes that it has met."""


def stuck(workers: Collection[Worker], catalog: Catalog, priority: Priority) -> dict[str, str]:
    """Route -> why no task of `priority` can be run there; of the routes that are in `catalog` or were met."""
    known = {route.id for model in catalog.models.values() for route in model.routes}
    met = {route for worker in workers for route in worker.load}
    found = {route: _why_stuck(route, workers, catalog, priority) for route in sorted(known | met)}
    return {route: why for route, why in found.items() if why is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A route that nobody can call, as people are told."""

    route: str
    why: str
    fates: Mapping[str, str | None]
    """Of the tasks of each model that has the route: the route they go to; None: they wait."""


def told(workers: Collection[Worker], catalog: Catalog) -> list[Stuck]:
    """What is stuck for tasks of any priority. Not where only a worker of a cloud lane is missing, and its tasks wait:
    that is said of the lane, not of each of its routes."""
    found: dict[str, Stuck] = {}
    for priority in Priority:
        reasons = stuck(workers, catalog, priority)
        for route, why in reasons.items():
            fates = _fates(route, catalog, stuck=reasons)
            if any(fates.values()) or not why.startswith(NO_LANE):
                before = found[route].fates if route in found else {}
                goes = {name: to or before.get(name) for name, to in fates.items()}
                found[route] = Stuck(route=route, why=why, fates=goes)
    return [found[route] for route in sorted(found)]


def _fates(route: str, catalog: Catalog, *, stuck: Collection[str]) -> dict[str, str | None]:
    fates = {}
    for model in catalog.models.values():
        if route in [one.id for one in model.routes]:
            step = fallbacks.after_pause(model, route, stuck=stuck)
            fates[model.name] = step.route.id if step else None
    return fates


def absent(workers: Collection[Worker], catalog: Catalog, priority: Priority) -> dict[str, str]:
    """Of those that are stuck the routes that no worker is there for: not such as are paused or down, of which one call
    may tell any moment that they are back."""
    lanes = {place: f"{place}.{priority}" for place in ("cloud", "local")}
    met = {route for worker in workers for route in worker.load if lanes[place_of(route, catalog)] in worker.lanes}
    return {route: why for route, why in stuck(workers, catalog, priority).items() if route not in met}


def place_of(route: str, catalog: Catalog) -> Place:
    """Of any route, also one that no model has any more."""
    spec = catalog.upstreams.get(upstream_of(route))
    return "local" if spec is not None and spec.kind == "local" else "cloud"


def _why_stuck(route: str, workers: Collection[Worker], catalog: Catalog, priority: Priority) -> str | None:
    place = place_of(route, catalog)
    lane, upstream = f"{place}.{priority}", upstream_of(route)
    serving = [worker for worker in workers if lane in worker.lanes]
    said = [worker.load[route].blocked for worker in serving if route in worker.load]
    if not all(said):
        return None
    if said:
        return f"upstream {upstream} is paused, without a key, or down"
    if place == "local":
        return f"no worker has upstream {upstream}"
    return None if serving else f"{NO_LANE} {lane}"
