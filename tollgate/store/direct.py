"""PostgreSQL's driver without SQLAlchemy in between, for the few statements that every task takes.

They are built and compiled by SQLAlchemy once (`rows`) and executed by asyncpg. What SQLAlchemy does around each
execution, a greenlet, a cursor, a transaction's bookkeeping, a result, takes three quarters of the CPU that a small
statement costs at our end, and half of its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg as sqlalchemy_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler

DIALECT: sa.Dialect = sqlalchemy_asyncpg.dialect()  # type: ignore[no-untyped-call]


class Written(NamedTuple):
    """A statement as the server reads it."""

    text: str
    """With $1, $2, ... for its parameters."""
    names: Sequence[str]
    """Of the parameters, in that order."""
    constants: Mapping[str, Any]
    """The values of those that are not given with each execution."""

    @classmethod
    def of(cls, statement: sa.Executable) -> Written:
        """Raises ValueError for one whose text depends on the values: an IN with a list, a literal_execute."""
        compiled = cast("SQLCompiler", cast("sa.ClauseElement", statement).compile(dialect=DIALECT))
        if compiled.literal_execute_params or compiled.post_compile_params:
            raise ValueError(f"not one text for all values: {compiled}")
        constants = {name: bound.effective_value for name, bound in compiled.binds.items() if not bound.required}
        return cls(text=compiled.string, names=tuple(compiled.positiontup or ()), constants=constants)


class Direct:
    """A connection on which each statement is a transaction by itself.

    Values are passed as they are, in and out. Of all kinds of our columns that is what SQLAlchemy does too."""

    dialect = DIALECT

    def __init__(self, driver: asyncpg.Connection[asyncpg.Record]) -> None:
        self._driver = driver

    async def fetch(self, statement: Written, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """All rows. Raises the driver's errors, which `Database` makes ours."""
        of = {**statement.constants, **values}
        found = await self._driver.fetch(statement.text, *[of[name] for name in statement.names])
        return cast("Sequence[Sequence[Any]]", found)
