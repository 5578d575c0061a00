"""How rows of tasks are given to an INSERT: as narrow as what they have in common allows.

Each value of a list costs the driver 0.2 to 0.5 us, and PostgreSQL about as much. What all rows are alike in is sent
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from tollgate.domain.tasks import NewTask
from tollgate.store import rows
from tollgate.store.schema import QUEUED, tasks


class Form:
    """Rows with `own` columns each, and `common` ones in which all are alike. Subclasses add what builds statements."""

    def __init__(self, *, own: Sequence[str], common: Sequence[str]) -> None:
        self.given = rows.Given.of(tasks, *own)
        self.values = attrgetter(*own)
        """Of a task, in the order of `given`."""
        self._common = common
        self._common_of = attrgetter(*common)

    def fits(self, new: Sequence[NewTask]) -> bool:
        """Whether they are alike in all that is common here."""
        common = self._common_of(new[0])
        return all(self._common_of(task) == common for task in new)

    def common(self, new: Sequence[NewTask]) -> dict[str, Any]:
        """The parameters for what each has as the first has it."""
        return {f"common_{name}": value for name, value in zip(self._common, self._common_of(new[0]), strict=True)}

    def insert(self, dialect: str) -> postgresql.Insert:
        """Of all rows as queued tasks, to be extended."""
        given = self.given.table(dialect)
        common = [sa.bindparam(f"common_{name}", type_=tasks.c[name].type) for name in self._common]
        # SQLite's parser needs a WHERE between SELECT and ON CONFLICT (https://sqlite.org/lang_upsert.html, 2.2).
        source = sa.select(*given.c, *common, QUEUED).where(sa.true())
        return rows.insert_into(dialect, tasks).from_select([*given.c.keys(), *self._common, "state"], source)
