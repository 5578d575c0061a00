"""Whether someone serves each lane that tasks can go by. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tollgate.cli.doctor.report import Check, fail, ok, warn
from tollgate.domain.lanes import LANES
from tollgate.domain.routing import Catalog
from tollgate.store.leases import WorkerRow

STALE_S = 30.0
"""Six heartbeats. Its time is of the worker's clock, so it only warns; --slow is certain."""


def check(
    alive: Sequence[WorkerRow],
    catalog: Catalog | None,
    *,
    now: datetime,
    advanced: frozenset[object] | None,
    start: str,
) -> list[Check]:
    """A check for each lane. `advanced`: the workers whose heartbeat was seen to move; None: nobody watched."""
    needed = needed_lanes(catalog)
    return [_lane(lane, alive, now=now, advanced=advanced, start=start) for lane in LANES if lane in needed]


def needed_lanes(catalog: Catalog | None) -> frozenset[str]:
    """The lanes of the places where some model runs."""
    if catalog is None:
        return frozenset(LANES)
    places = {catalog.place(route) for model in catalog.models.values() for route in model.routes}
    return frozenset(lane for lane in LANES if lane.partition(".")[0] in places)


def _lane(
    lane: str, alive: Sequence[WorkerRow], *, now: datetime, advanced: frozenset[object] | None, start: str
) -> Check:
    name = f"worker {lane}"
    serving = [worker for worker in alive if lane in worker.lanes]
    command = f"{start} {lane.partition('.')[0]}" if start.endswith("--lanes") else start
    if not serving:
        return fail(name, "nobody serves this lane; its tasks wait", fix=command)
    if advanced is not None:
        moving = [worker for worker in serving if worker.id in advanced]
        if not moving:
            return fail(name, f"{_names(serving)}: no heartbeat in 6 s", fix=f"it hangs or is gone: {command}")
        return ok(name, f"{_names(moving)}; heartbeat moves")
    ages = {worker.id: (now - worker.seen_at).total_seconds() for worker in serving}
    fresh = [worker for worker in serving if ages[worker.id] < STALE_S]
    if not fresh:
        youngest = min(ages.values())
        return warn(
            name,
            f"{_names(serving)}: last heartbeat {youngest:,.0f} s ago",
            fix=f"`tollgate doctor --slow` tells a dead worker from a wrong clock; then: {command}",
        )
    return ok(name, f"{_names(fresh)}, seen {min(ages[worker.id] for worker in fresh):.0f} s ago")


def _names(workers: Sequence[WorkerRow]) -> str:
    shown = ", ".join(worker.name for worker in workers[:3])
    return shown if len(workers) <= 3 else f"{shown} and {len(workers) - 3} more"
