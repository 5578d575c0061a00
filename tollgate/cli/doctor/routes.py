"""Routes that no worker can call now, and what becomes of their tasks, model by model."""

from __future__ import annotations

from collections.abc import Collection

from tollgate.cli.doctor.report import Check, ok, warn
from tollgate.domain import fallbacks
from tollgate.domain.routing import Catalog


def check(stuck: Collection[str], catalog: Catalog | None) -> Check:
    """`stuck`: by pauses, keys that are not set, or an outage, as the workers' heartbeats say."""
    if not stuck:
        return ok("routes", "none that a worker has met is stuck")
    told = [f"nobody can call {route}{_fate(route, stuck, catalog)}" for route in sorted(stuck)]
    return warn(
        "routes",
        "; ".join(told),
        fix="see the pauses, the keys that the workers have, and `route is down` in their logs",
    )


def _fate(route: str, stuck: Collection[str], catalog: Catalog | None) -> str:
    """ ": tasks of m go to b/m, those of n wait"; "" where no model that is known has the route."""
    by_target: dict[str, list[str]] = {}
    for model in catalog.models.values() if catalog else ():
        if route in [one.id for one in model.routes]:
            step = fallbacks.after_pause(model, route, stuck=stuck)
            by_target.setdefault(f"go to {step.route.id}" if step else "wait", []).append(model.name)
    fates = [f"tasks of {', '.join(names)} {fate}" for fate, names in by_target.items()]
    return f": {', '.join(fates)}" if fates else ""
