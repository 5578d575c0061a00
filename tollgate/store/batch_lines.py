"""The rows of a step's lines, inserted in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningInsert

from tollgate.domain.tasks import NewTask
from tollgate.store import rows
from tollgate.store.database import WriteConnection, dialect_of
from tollgate.store.forms import Form
from tollgate.store.new_tasks import BODIES, inserting_bodies, keeping_bodies
from tollgate.store.schema import LINE_STANDS, tasks

OWN = ("id", "line", "custom_id", "prompt_tokens_estimate")
COMMON = (
    "project_id", "key_id", "batch_id", "feed", "digest", "deadline", "retry_until", "created_at", "streamed",
)  # fmt: skip
"""Columns in which the lines of a step are alike."""
TERMS = (
    "label", "endpoint", "model", "route", "lane", "mode", "not_before", "on_uncertain", "max_tokens",
    "assumed_max_tokens",
)  # fmt: skip
"""Columns in which they mostly are."""


class Lines(Form):
    def lines(self, dialect: str) -> ReturningInsert[*tuple[Any, ...]]:
        return (
            self.insert(dialect)
            .on_conflict_do_nothing(index_elements=["batch_id", "custom_id"], index_where=LINE_STANDS)
            .returning(tasks.c.id, tasks.c.line)
        )

    def lines_and_bodies(self, dialect: str) -> rows.Statement:
        inserted = self.lines(dialect).cte("inserted")
        return sa.select(inserted.c.line).add_cte(keeping_bodies(dialect, inserted).cte("kept"))


ALIKE = Lines(own=OWN, common=(*COMMON, *TERMS))
DIFFERING = Lines(own=(*OWN, *TERMS), common=COMMON)
"""Takes PostgreSQL and its driver a third longer."""


async def insert(connection: WriteConnection, new: Sequence[NewTask]) -> set[int]:
    """Lines of one step, with their bodies. Returns those (`NewTask.line`) whose custom_ids are new in their batch."""
    if not new:
        return set()
    dialect = dialect_of(connection)
    form = ALIKE if ALIKE.fits(new) else DIFFERING
    values = [form.values(line) for line in new]
    bodies = [(line.id, line.body, line.metadata) for line in new]
    common = form.common(new)
    if dialect == "sqlite":
        found = await rows.execute(connection, form.lines, form.given, values, **common)
        inserted = dict(map(tuple, found.all()))
        await rows.execute(connection, inserting_bodies, BODIES, [body for body in bodies if body[0] in inserted])
        return set(inserted.values())
    bound = common | BODIES.bind(dialect, bodies)
    return set((await rows.execute(connection, form.lines_and_bodies, form.given, values, **bound)).scalars())
