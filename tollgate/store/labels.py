"""The labels that projects use: a dimension of the hourly accounts, so their number is bounded."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from tollgate.domain.errors import InvalidRequestError
from tollgate.store import rows
from tollgate.store.database import WriteConnection
from tollgate.store.schema import labels

MAX_LABELS = 1_000
"""A project with more of them means metadata. A bound, not a quota: two transactions at once may go over it by what
they bring."""
LABELS = rows.Given.of(labels, "project_id", "label")
Label = tuple[UUID, str]
"""A project, and a label of its."""


async def note(connection: WriteConnection, used: Sequence[Label]) -> tuple[set[Label], set[Label]]:
    """Note those of `used` that were not seen before. Returns them, and the last ones, which are too many."""
    returned = (await rows.execute(connection, _adding, LABELS, sorted(used))).all()
    added = {(row.project_id, row.label) for row in returned}
    return added, await _surplus(connection, [pair for pair in used if pair in added])


def _adding(dialect: str) -> rows.Statement:
    insert = LABELS.insert(dialect, labels).on_conflict_do_nothing()
    return insert.returning(labels.c.project_id, labels.c.label)


async def _surplus(connection: WriteConnection, added: Sequence[Label]) -> set[Label]:
    """The last of `added`, as many as their project now has over its bound."""
    over: set[Label] = set()
    for project_id in {project_id for project_id, _ in added}:
        count = sa.select(sa.func.count()).where(labels.c.project_id == project_id)
        excess = (await connection.execute(count)).scalar_one() - MAX_LABELS
        if excess > 0:
            over.update([pair for pair in added if pair[0] == project_id][-excess:])
    return over


async def forget(connection: WriteConnection, unused: set[Label]) -> None:
    """Those that nothing uses after all."""
    if unused:
        kinds = {name: labels.c[name].type for name in ("project_id", "label")}
        given = rows.table_of(connection, kinds, sorted(unused))
        named = sa.and_(labels.c.project_id == given.c.project_id, labels.c.label == given.c.label)
        await connection.execute(sa.delete(labels).where(sa.exists().where(named)))


def too_many() -> InvalidRequestError:
    """For who brings one of the surplus."""
    return InvalidRequestError(
        f"this project already uses {MAX_LABELS} labels; use one of them, or put this into metadata",
        field="label",
        allowed=f"at most {MAX_LABELS} different labels a project",
    )
