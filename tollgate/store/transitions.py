"""The statements that move tasks from one state to the next: guarded by state and fence, many rows at once."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.store import rows
from tollgate.store.rows import Step
from tollgate.store.schema import tasks

TRANSITION = {
    name: tasks.c[name].type for name in ("id", "fence", "state", "attempt", "ended_at", "not_before", "announced_at")
} | {"held": tasks.c.state.type, "failed_tries": tasks.c.tries.type}
MOVED = rows.Given(TRANSITION | {"on_route": tasks.c.route_tries.type}, name="moved")
REROUTE = ("route", "lane", "mode", "on_uncertain", "reserved_nano", "reserved_tokens")
REROUTED = rows.Given(
    TRANSITION | {name: tasks.c[name].type for name in REROUTE} | {"refused": tasks.c.refused_attempts.type},
    name="rerouted",
)
UNBATCHED = rows.Given(TRANSITION | {"released": tasks.c.refused_attempts.type}, name="unbatched")
_of_reroute = operator.attrgetter(*REROUTE)


def moving(moved: Sequence[Settlement], now: datetime) -> Step:
    """The guarded transition: by state and fence, or a task still queued that a late answer ends."""
    values = [(*_transition(s, now), int(s.counts_on_route and s.state is TaskState.QUEUED)) for s in moved]
    return Step(_moving, MOVED, values)


def _transition(s: Settlement, now: datetime) -> tuple[Any, ...]:
    """The columns of TRANSITION."""
    return (
        s.task_id, s.fence, s.state,
        s.attempt if s.outcome is AttemptOutcome.OPEN else s.attempt + 1,
        now if s.state.ended else None, s.not_before, (s.not_before or now) if s.hinted else None,
        s.held, int(s.counts_as_try and s.state is TaskState.QUEUED),
    )  # fmt: skip


def rerouting(moved: Sequence[Settlement], now: datetime) -> Step:
    """The same, of those that go on elsewhere."""
    values = [(*_transition(s, now), *_of_reroute(s.reroute), int(s.refused)) for s in moved]
    return Step(_rerouting, REROUTED, values)


def unbatching(moved: Sequence[Settlement], now: datetime) -> Step:
    """The same, of lines that their upstream batch did not answer."""
    values = [(*_transition(s, now), int(s.releases)) for s in moved]
    return Step(_unbatching, UNBATCHED, values)


def _moving(dialect: str) -> rows.Statement:
    given = MOVED.table(dialect)
    return _changing(given, route_tries=tasks.c.route_tries + given.c.on_route)


def _rerouting(dialect: str) -> rows.Statement:
    given = REROUTED.table(dialect)
    counted = tasks.c.charged_to.is_not(None)
    return _changing(
        given,
        route=given.c.route,
        lane=given.c.lane,
        mode=given.c.mode,
        on_uncertain=given.c.on_uncertain,
        route_tries=0,
        refused_attempts=tasks.c.refused_attempts + given.c.refused,
        # Each purchase reserves anew: at the price of the place where it is made.
        reserved_nano=sa.case((counted, sa.func.coalesce(given.c.reserved_nano, 0))),
        reserved_tokens=sa.case((counted, given.c.reserved_tokens)),
    )


def _unbatching(dialect: str) -> rows.Statement:
    given = UNBATCHED.table(dialect)

    def kept(column: sa.Column[Any]) -> sa.Case[Any]:
        return sa.case((given.c.released == 0, column))

    return _changing(
        given,
        upstream_batch_id=None,
        # What was billed counts where it was charged: the line is begun, and keeps its place in its budgets.
        started_at=sa.case((given.c.released == 0, sa.func.coalesce(tasks.c.started_at, given.c.not_before))),
        refused_attempts=tasks.c.refused_attempts + given.c.released,
        **{name: kept(tasks.c[name]) for name in ("reserved_nano", "reserved_tokens", "charged_to")},
    )


def _changing(given: sa.Subquery, **further: Any) -> rows.Statement:
    held = sa.and_(tasks.c.state == given.c.held, tasks.c.fence == given.c.fence)
    ended_late = sa.and_(tasks.c.state == TaskState.QUEUED, given.c.state == TaskState.SUCCEEDED)
    return (
        sa.update(tasks)
        .where(tasks.c.id == given.c.id, sa.or_(held, ended_late))
        .values(
            {
                "state": given.c.state,
                "attempt": sa.case((given.c.ended_at.is_(None), given.c.attempt), else_=tasks.c.attempt),
                "ended_at": given.c.ended_at,
                # Given back, it keeps its place in its feed.
                "not_before": sa.func.coalesce(given.c.not_before, tasks.c.not_before),
                "tries": tasks.c.tries + given.c.failed_tries,
                "worker_id": None,
                "announced_at": given.c.announced_at,
                # What is reserved stays so while the task is open: its next purchase takes its place.
                "reserved_nano": sa.case((given.c.ended_at.is_(None), tasks.c.reserved_nano)),
                "reserved_tokens": sa.case((given.c.ended_at.is_(None), tasks.c.reserved_tokens)),
            }
            | further
        )
    )
