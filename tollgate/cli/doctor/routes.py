"""Routes that no worker can call now, and what becomes of their tasks, model by model."""

from __future__ import annotations

from collections.abc import Sequence

from tollgate.cli.doctor.report import Check, ok, warn
from tollgate.domain.reach import Stuck


def check(stuck: Sequence[Stuck]) -> Check:
    """By pauses, keys that are not set, an outage, or because nobody has the model, as the workers' heartbeats say."""
    if not stuck:
        return ok("routes", "none that a worker has met is stuck")
    return warn(
        "routes",
        "; ".join(f"nobody can call {one.route} ({one.why}){_fate(one)}" for one in stuck),
        fix="see the pauses, the keys that the workers have, and `route is down` in their logs; what no worker has: "
        "start one with it (`tollgate worker --lanes local --model PATH`)",
    )


def _fate(one: Stuck) -> str:
    """ ": tasks of m go to b/m, those of n wait"; "" where no model that is known has the route."""
    by_target: dict[str, list[str]] = {}
    for name, target in one.fates.items():
        by_target.setdefault(f"go to {target}" if target else "wait", []).append(name)
    fates = [f"tasks of {', '.join(names)} {fate}" for fate, names in by_target.items()]
    return f": {', '.join(fates)}" if fates else ""
