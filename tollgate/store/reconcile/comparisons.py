"""A provider's bill beside the attempts: how each request_id stands there and here.

A bill is of some upstreams and of some time. Only for these is what it does not list known not to be billed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from tollgate.domain.bill_file import TOKENS
from tollgate.domain.states import AttemptOutcome
from tollgate.store.database import ReadConnection
from tollgate.store.reconcile import groups
from tollgate.store.reconcile.bills import Loaded, billed, compared
from tollgate.store.reconcile.groups import Group
from tollgate.store.schema import attempts


class Kind(StrEnum):
    """How a request_id stands in the bill and here."""

    EQUAL = "equal"
    """The same cost there and here."""
    OTHER_COST = "other_cost"
    """Billed with another cost than is booked here."""
    SETTLES = "settles"
    """Billed, and uncertain here: the bill settles it."""
    WITHOUT_COST = "without_cost"
    """Billed, and here an attempt that cost nothing."""
    UNKNOWN = "unknown"
    """Billed, and no such attempt here."""
    OPEN = "open"
    """Billed, and the attempt is open here: its answer will be booked."""
    NOT_BILLED = "not_billed"
    """A cost is booked here, and the bill does not list it."""
    UNBILLED = "unbilled"
    """Uncertain here, and not in a bill that is complete for its time: it was not billed."""
    UNSETTLED = "unsettled"
    """Uncertain here, and the bill does not say: it is not complete for its time."""

    @property
    def differs(self) -> bool:
        """Whether something is to be done about it."""
        return self not in (Kind.EQUAL, Kind.OPEN, Kind.UNSETTLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the bill should list: attempts that started in [since, until) at `upstream`; None: wherever it has charges.

    With both times it is complete for what is between them. A time that is missing is that of its own charges."""

    since: datetime | None = None
    until: datetime | None = None
    upstream: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of a bill. `groups` has every kind."""

    upstreams: Sequence[str]
    """Whose attempts were looked for in the bill; empty: everybody's, since it lists none of them."""
    groups: Mapping[Kind, Group]
    repeated: Group
    """Billed more than once, of whatever kind."""

    @property
    def differs(self) -> bool:
        return any(kind.differs and group.count for kind, group in self.groups.items())


IS_HERE = sa.and_(
    attempts.c.task_id == billed.c.task_id,
    attempts.c.number == billed.c.number,
    attempts.c.request_id == billed.c.request_id,
)
"""By the attempt's key: there is no index of request_ids."""
UNCERTAIN = attempts.c.outcome == AttemptOutcome.UNCERTAIN


async def compare(connection: ReadConnection, loaded: Loaded, *, expected: Expected, limit: int) -> Comparison:
    """Fill `compared` from `billed` and the attempts, best inside `snapshots.snapshot`, and sum it up."""
    upstreams = [expected.upstream] if expected.upstream else await _upstreams(connection)
    complete = _complete(loaded, expected) if upstreams else sa.false()
    await _keep(connection, _billed(), kind=_kind_of_billed())
    await _keep(connection, _missing(upstreams, expected), kind=_kind_of_missing(complete))
    found: dict[Kind, Group] = {kind: await groups.of_kind(connection, kind, limit=limit) for kind in Kind}
    return Comparison(
        upstreams=upstreams,
        groups={**found, Kind.EQUAL: await groups.equal(connection)},
        repeated=await groups.repeated(connection, _billed(), limit=limit),
    )


async def _keep(connection: ReadConnection, source: sa.Select[Any], *, kind: sa.Case[Any]) -> None:
    """What is equal is left out: nearly all, in a bill that is right."""
    found = source.add_columns(kind.label("kind")).subquery("found")
    different = sa.select(found).where(found.c.kind != Kind.EQUAL)
    await connection.execute(sa.insert(compared).from_select([column.name for column in found.c], different))


async def _upstreams(connection: ReadConnection) -> list[str]:
    statement = sa.select(attempts.c.upstream).distinct().join(billed, IS_HERE).order_by(attempts.c.upstream)
    return list((await connection.execute(statement)).scalars())


def _complete(loaded: Loaded, expected: Expected) -> sa.ColumnElement[bool]:
    """Where the bill lists all there is. A line that could not be read may be any attempt's.

    Without --to the attempt must have ended before the last charge: one that was still under way may be on the next
    bill."""
    since = expected.since or loaded.first_created
    if loaded.bad or since is None:
        return sa.false()
    if expected.until is not None:
        return sa.and_(attempts.c.started_at >= since, attempts.c.started_at < expected.until)
    if loaded.last_created is None:
        return sa.false()
    return sa.and_(attempts.c.started_at >= since, attempts.c.ended_at <= loaded.last_created)


def _kind_of_billed() -> sa.Case[Any]:
    return sa.case(
        (attempts.c.task_id.is_(None), str(Kind.UNKNOWN)),
        (attempts.c.outcome == AttemptOutcome.OPEN, str(Kind.OPEN)),
        (UNCERTAIN, str(Kind.SETTLES)),
        (sa.func.coalesce(attempts.c.cost_nano, 0) == billed.c.cost_nano, str(Kind.EQUAL)),
        (attempts.c.cost_nano.is_(None), str(Kind.WITHOUT_COST)),
        else_=str(Kind.OTHER_COST),
    )


def _kind_of_missing(complete: sa.ColumnElement[bool]) -> sa.Case[Any]:
    unsettled = sa.case((complete, str(Kind.UNBILLED)), else_=str(Kind.UNSETTLED))
    return sa.case((UNCERTAIN, unsettled), else_=str(Kind.NOT_BILLED))


def _billed() -> sa.Select[Any]:
    return sa.select(
        billed.c.request_id,
        attempts.c.task_id,
        attempts.c.number,
        attempts.c.started_at,
        billed.c.times,
        billed.c.cost_nano.label("billed_nano"),
        attempts.c.cost_nano.label("booked_nano"),
        attempts.c.possible_cost_nano.label("possible_nano"),
        *(billed.c[name] for name in TOKENS),
    ).join_from(billed, attempts, IS_HERE, isouter=True)


def _missing(upstreams: Sequence[str], expected: Expected) -> sa.Select[Any]:
    """Attempts that the bill should list and does not."""
    conditions = [billed.c.request_id.is_(None), sa.or_(UNCERTAIN, attempts.c.cost_nano != 0)]
    if upstreams:
        conditions.append(attempts.c.upstream.in_(upstreams))
    if expected.since is not None:
        conditions.append(attempts.c.started_at >= expected.since)
    if expected.until is not None:
        conditions.append(attempts.c.started_at < expected.until)
    return (
        sa.select(
            attempts.c.request_id,
            attempts.c.task_id,
            attempts.c.number,
            attempts.c.started_at,
            attempts.c.cost_nano.label("booked_nano"),
            attempts.c.possible_cost_nano.label("possible_nano"),
        )
        .join_from(attempts, billed, billed.c.request_id == attempts.c.request_id, isouter=True)
        .where(*conditions)
    )
