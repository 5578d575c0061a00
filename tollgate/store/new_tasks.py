"""The statements that insert tasks, each with its body: in a transaction that may be undone, with what they reserve as
it was foreseen, or plain, each row by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.dml import ReturningInsert

from tollgate.domain.states import TaskState
from tollgate.domain.tasks import NewTask
from tollgate.store import periods, rows
from tollgate.store.database import WriteConnection, dialect_of
from tollgate.store.direct import Direct
from tollgate.store.foresight import IN_MONEY, Reserving, UnforeseenError
from tollgate.store.forms import Form
from tollgate.store.schema import budgets, task_requests, tasks

ROWS_AT_ONCE = 1_000
"""In one statement: to encode them takes 20 ms of the event loop, which others need too."""
COLUMNS = tuple(field.name for field in fields(NewTask) if field.name in tasks.c)
VALUES = attrgetter(*COLUMNS)
OWN = ("id", "custom_id", "request_id", "digest", "prompt_tokens_estimate", "announced_at")
"""Columns in which the tasks of a list mostly differ."""
OF_LINES = ("batch_id", "line")
"""Columns that only lines of batches have."""
NEW_TASKS = rows.Given.of(tasks, *COLUMNS, "state")
RESERVING_TASKS = rows.Given.of(tasks, *COLUMNS, "state", "reserved_nano", "reserved_tokens", "charged_to")
BODIES = rows.Given.of(task_requests, "task_id", "body", "metadata", name="bodies")


class Listed(Form):
    """Inserted where their request_ids are free, and told whether they are under a budget."""

    def tasks(self, dialect: str) -> ReturningInsert[*tuple[Any, ...]]:
        budgeted = sa.exists().where(*_covering(rows.returned(tasks.c.project_id), rows.returned(tasks.c.key_id)))
        return _if_free(self.insert(dialect)).returning(tasks.c.id, budgeted.label("budgeted"))

    def tasks_and_bodies(self, dialect: str) -> rows.Statement:
        """In one statement: a second is a fifth of what a commit of a few tasks takes."""
        inserted = self.tasks(dialect).cte("inserted")
        return sa.select(inserted.c.id, inserted.c.budgeted).add_cte(keeping_bodies(dialect, inserted).cte("kept"))


ALIKE = Listed(own=OWN, common=[name for name in COLUMNS if name not in OWN])
DIFFERING = Listed(own=[name for name in COLUMNS if name not in OF_LINES], common=OF_LINES)


async def insert(connection: WriteConnection, new: Sequence[NewTask]) -> tuple[set[UUID], bool]:
    """The ids of those whose request_ids were free, now there with their bodies; whether any is under a budget."""
    dialect = dialect_of(connection)
    ordered = _in_order(new)
    inserted: dict[UUID, bool] = {}
    for start in range(0, len(ordered), ROWS_AT_ONCE):
        some = ordered[start : start + ROWS_AT_ONCE]
        form = ALIKE if ALIKE.fits(some) else DIFFERING
        values, common = [form.values(task) for task in some], form.common(some)
        if dialect == "sqlite":
            found = await rows.execute(connection, form.tasks, form.given, values, **common)
            inserted |= dict(map(tuple, found.all()))
            bodies = _bodies([task for task in some if task.id in inserted])
            await rows.execute(connection, inserting_bodies, BODIES, bodies)
        else:
            bound = common | BODIES.bind(dialect, _bodies(some))
            found = await rows.execute(connection, form.tasks_and_bodies, form.given, values, **bound)
            inserted |= dict(map(tuple, found.all()))
    return set(inserted), any(inserted.values())


async def insert_as_foreseen(connection: WriteConnection, new: Sequence[NewTask], reserving: Reserving) -> None:
    """All of `new`, with their bodies and what they reserve. Raises UnforeseenError: nothing may be committed then."""
    dialect = dialect_of(connection)
    values = [(*VALUES(task), TaskState.QUEUED, *reserving.columns_of(task.id)) for task in _in_order(new)]
    changes = periods.values_of(reserving.changes)
    bound = BODIES.bind(dialect, _bodies(new)) | periods.CHANGES.bind(dialect, changes)
    found = await rows.execute(connection, _inserting_foreseen, RESERVING_TASKS, values, all_new=len(new), **bound)
    told = found.all()
    added = told[0].added if told else 0
    if added < len(changes) or not reserving.is_as_told(new, {row.id: row.covering for row in told}):
        raise UnforeseenError


async def insert_plain(connection: WriteConnection | Direct, new: Sequence[NewTask]) -> set[UUID]:
    """The ids of those that no budget counts and whose request_ids were free, now there with their bodies. Of the
    others nothing is left. PostgreSQL's: one statement, so that it can be committed by itself."""
    values = [(*VALUES(task), TaskState.QUEUED) for task in _in_order(new)]
    bound = BODIES.bind(dialect_of(connection), _bodies(new))
    return {task_id for (task_id,) in await rows.fetch(connection, _inserting_plain, NEW_TASKS, values, **bound)}


def _in_order(new: Sequence[NewTask]) -> list[NewTask]:
    return sorted(new, key=lambda t: (t.project_id, t.request_id or "", t.id))


def _bodies(new: Sequence[NewTask]) -> list[tuple[UUID, str, str | None]]:
    return [(task.id, task.body, task.metadata) for task in new]


def _if_free(insert: postgresql.Insert) -> postgresql.Insert:
    return insert.on_conflict_do_nothing(
        index_elements=["project_id", "request_id"], index_where=sa.text("request_id IS NOT NULL")
    )


def _covering(project_id: sa.ColumnElement[UUID], key_id: sa.ColumnElement[str]) -> tuple[sa.ColumnElement[bool], ...]:
    """Of a budget: it counts a task of this project and key."""
    of_key = sa.or_(budgets.c.key_id.is_(None), budgets.c.key_id == key_id)
    return budgets.c.project_id == project_id, budgets.c.batch_id.is_(None), of_key


def inserting_bodies(dialect: str) -> rows.Statement:
    return BODIES.insert(dialect, task_requests)


def _inserting_plain(dialect: str) -> rows.Statement:
    given = NEW_TASKS.table(dialect)
    theirs = sa.select(sa.func.count()).select_from(budgets).where(*_covering(given.c.project_id, given.c.key_id))
    # Not NOT EXISTS, of which a join may be made: rows are to be inserted in the order in which they are given.
    plain = sa.select(given).where(theirs.scalar_subquery() == 0)
    inserting = rows.insert_into(dialect, tasks).from_select(list(given.c.keys()), plain)
    inserted = _if_free(inserting).returning(tasks.c.id).cte("inserted")
    return sa.select(inserted.c.id).add_cte(keeping_bodies(dialect, inserted).cte("kept"))


def keeping_bodies(dialect: str, inserted: sa.CTE) -> ReturningInsert[UUID]:
    given = BODIES.table(dialect)
    theirs = sa.select(given).join(inserted, inserted.c.id == given.c.task_id)
    return sa.insert(task_requests).from_select(list(given.c.keys()), theirs).returning(task_requests.c.task_id)


def _inserting_foreseen(dialect: str) -> rows.Statement:
    """PostgreSQL's. As everywhere periods are locked after the tasks, and here after their bodies too: the lock's
    condition counts these, so all are written, or their conflicts waited for, before it can hold."""
    mark = sa.case((budgets.c.limit_nano.is_(None), ""), else_=IN_MONEY)
    in_text = sa.func.string_agg(sa.cast(budgets.c.id, sa.Text) + mark, sa.literal_column("','"))
    theirs = _covering(rows.returned(tasks.c.project_id), rows.returned(tasks.c.key_id))
    covering = sa.select(in_text.aggregate_order_by(budgets.c.id)).where(*theirs).scalar_subquery()
    inserting = _if_free(RESERVING_TASKS.insert(dialect, tasks))
    inserted = inserting.returning(tasks.c.id, covering.label("covering")).cte("inserted")
    kept = keeping_bodies(dialect, inserted).cte("kept")
    all_kept = _count(kept) == sa.bindparam("all_new", type_=sa.BigInteger())
    added = periods.adding_with_room(dialect, all_kept).cte("added")
    return sa.select(inserted.c.id, inserted.c.covering, _count(added).label("added"))


def _count(of: sa.CTE) -> sa.ScalarSelect[int]:
    return sa.select(sa.func.count()).select_from(of).scalar_subquery()
