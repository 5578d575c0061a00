"""Lists as tables: the one place where PostgreSQL and SQLite take many rows in one statement.

PostgreSQL gets one array a column (`unnest`), SQLite one JSON text (`json_each`). Either way the
statement's text does not depend on the number of rows: it is built once for each dialect, and each
execution only binds. To build it anew took SQLAlchemy 3 ms for a table of twenty columns, where
executing it takes 0.3.
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, date, datetime
from typing import Any, NamedTuple, cast

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tollgate.store.database import ReadConnection, dialect_of
from tollgate.store.direct import Direct, Written

Kinds = Mapping[str, sa.types.TypeEngine[Any]]
Statement = sa.Executable
Result = sa.CursorResult[*tuple[Any, ...]]
"""Rows of any columns."""
Row = Sequence[Any]
Build = Callable[[str], Statement]
"""From a dialect's name to a statement."""


class Given:
    """Rows that a statement is given with each execution, as a table with the columns of `kinds`."""

    def __init__(self, kinds: Kinds, *, name: str = "given") -> None:
        self._kinds = dict(kinds)
        self._name = name
        self._values: Mapping[str, Any] = {}

    @classmethod
    def of(cls, table: sa.Table, *columns: str, name: str = "given") -> Given:
        """With columns of `table`. `name` tells it from others in one statement."""
        return cls({column: table.c[column].type for column in columns}, name=name)

    def table(self, dialect: str) -> sa.Subquery:
        """The subquery that stands for the rows."""
        return self._json_table() if dialect == "sqlite" else self._unnest()

    def insert(self, dialect: str, into: sa.Table) -> postgresql.Insert:
        """INSERT INTO ... (columns) SELECT ... of all rows, to be extended (`on_conflict`, `returning`)."""
        given = self.table(dialect)
        # SQLite's parser needs a WHERE between SELECT and ON CONFLICT (https://sqlite.org/lang_upsert.html, 2.2).
        source = sa.select(*(given.c[name] for name in self._kinds)).where(sa.true())
        return insert_into(dialect, into).from_select(list(self._kinds), source)

    def bind(self, dialect: str, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """The parameters for `rows`, whose values stand in the order of the columns."""
        if dialect == "sqlite":
            return {self._name: orjson.dumps([[_plain(value) for value in row] for row in rows]).decode()}
        columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [() for _ in self._kinds]
        return {self._parameter(name): list(values) for name, values in zip(self._kinds, columns, strict=True)}

    def filled(self, dialect: str, rows: Sequence[Sequence[Any]]) -> Given:
        """The same, with `rows` already in it."""
        filled = Given(self._kinds, name=self._name)
        filled._values = self.bind(dialect, rows)
        return filled

    def _parameter(self, column: str) -> str:
        """Never a column's own name: SQLAlchemy would take it for a value to set."""
        return f"{self._name}_{column}"

    def _unnest(self) -> sa.Subquery:
        arrays = [self._array(name, kind) for name, kind in self._kinds.items()]
        columns = (sa.column(name, kind) for name, kind in self._kinds.items())
        table = sa.func.unnest(*arrays).table_valued(*columns, name="v")
        condition = _CONDITION.get()
        return sa.select(*table.render_derived().c).where(*condition).subquery(self._name)

    def _array(self, column: str, kind: sa.types.TypeEngine[Any]) -> sa.Cast[Any]:
        # A cast to varchar(n) cuts silently what is too long. As text it is refused where it is stored.
        plain = kind.impl_instance if isinstance(kind, sa.TypeDecorator) else kind  # which change nothing here
        array = postgresql.ARRAY(sa.Text() if isinstance(plain, sa.String) else plain, dimensions=1)
        return sa.cast(self._bound(self._parameter(column), array), array)

    def _bound(self, parameter: str, kind: sa.types.TypeEngine[Any]) -> sa.BindParameter[Any]:
        return sa.bindparam(parameter, self._values.get(parameter), type_=kind, required=not self._values)

    def _json_table(self) -> sa.Subquery:
        each = sa.func.json_each(self._bound(self._name, sa.Text())).table_valued("value", name="v")
        return sa.select(
            *(
                sa.type_coerce(sa.func.json_extract(each.c.value, f"$[{i}]"), kind).label(column)
                for i, (column, kind) in enumerate(self._kinds.items())
            )
        ).subquery(self._name)


async def execute(
    connection: ReadConnection, build: Build, given: Given, rows: Sequence[Sequence[Any]], **bound: Any
) -> Result:
    """Execute what `build` makes, once for each dialect, with `rows` for its `given` and `bound` for the rest.

    `build` is a function at module level: it is remembered for good."""
    dialect = dialect_of(connection)
    return await connection.execute(_built(build, dialect), given.bind(dialect, rows) | bound)


def insert_into(dialect: str, table: sa.Table) -> postgresql.Insert:
    """INSERT INTO ..., to be extended; either dialect's has the same methods."""
    return cast("postgresql.Insert", sqlite.insert(table)) if dialect == "sqlite" else postgresql.insert(table)


def returned(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """The changed row's, for a subquery within RETURNING: SQLAlchemy would take its table for one of the subquery's."""
    return sa.literal_column(f"{column.table.name}.{column.name}", column.type)


class Step(NamedTuple):
    """One of several statements that are executed together."""

    build: Build
    given: Given
    """Of another name than the other steps'."""
    rows: Sequence[Sequence[Any]]
    """Without any, the step is left out."""


async def fetch(
    connection: ReadConnection | Direct, build: Build, given: Given, rows: Sequence[Sequence[Any]], **bound: Any
) -> Sequence[Row]:
    """All rows of what `execute` executes, on either kind of connection."""
    dialect = dialect_of(connection)
    values = given.bind(dialect, rows) | bound
    if isinstance(connection, Direct):
        return await connection.fetch(_written(build), values)
    return (await connection.execute(_built(build, dialect), values)).all()


async def execute_together(connection: ReadConnection, *steps: Step) -> None:
    """Execute statements of which none reads or changes what another does, in their order.

    PostgreSQL is given them as one, each a WITH clause of its own: for a few rows the way there and back, and the
    driver's work at this end of it, take longer than the statement."""
    needed = [step for step in steps if step.rows]
    dialect = dialect_of(connection)
    if dialect == "sqlite" or len(needed) < 2:
        for step in needed:
            await execute(connection, step.build, step.given, step.rows)
        return
    bound: dict[str, Any] = {}
    for step in needed:
        bound |= step.given.bind(dialect, step.rows)
    await connection.execute(_built_together(tuple(step.build for step in needed), dialect), bound)


async def execute_if_found(
    connection: ReadConnection | Direct, question: Step, *steps: Step, count: int, **bound: Any
) -> bool:
    """`execute_together`, in one statement with the query `question`, and only if that finds `count` rows; else nothing
    is done. What `question` locks is locked before any step begins. PostgreSQL's.

    Each step must draw its rows from its `given`, which may be the question's: that is what is empty where the count is
    another. `bound` is for the rest of all of them."""
    dialect = dialect_of(connection)
    needed = [step for step in steps if step.rows]
    bound["expected_count"] = count
    for given, values in {step.given: step.rows for step in (question, *needed)}.items():
        bound |= given.bind(dialect, values)
    builds = (question.build, *(step.build for step in needed))
    if isinstance(connection, Direct):
        ((as_expected,),) = await connection.fetch(_written_if_found(builds), bound)
    else:
        as_expected = (await connection.execute(_built_if_found(builds, dialect), bound)).scalar_one()
    return bool(as_expected)


@functools.cache
def _built(build: Build, dialect: str) -> Statement:
    return build(dialect)


@functools.cache
def _built_together(builds: tuple[Build, ...], dialect: str) -> Statement:
    return sa.select(sa.literal_column("1")).add_cte(*_parts(builds, dialect))


@functools.cache
def _built_if_found(builds: tuple[Build, ...], dialect: str) -> Statement:
    question, *steps = builds
    found = cast("sa.Select[Any]", question(dialect)).cte("found")
    counted = sa.select(sa.func.count()).select_from(found).scalar_subquery()
    as_expected = counted == sa.bindparam("expected_count", type_=sa.BigInteger())
    with _rows_only_if(as_expected):
        parts = _parts(steps, dialect)
    return sa.select(as_expected).add_cte(*parts)


@functools.cache
def _written(build: Build) -> Written:
    return Written.of(_built(build, Direct.dialect.name))


@functools.cache
def _written_if_found(builds: tuple[Build, ...]) -> Written:
    return Written.of(_built_if_found(builds, Direct.dialect.name))


def _parts(builds: Sequence[Build], dialect: str) -> list[sa.CTE]:
    # PostgreSQL runs WITH clauses that nobody selects from at the end, the last one first (ExecPostprocessPlan takes
    # es_auxmodifytables, to which ExecInitModifyTable adds at the front). Rows are locked in an order: it is kept.
    return [cast("sa.Insert", build(dialect)).cte(f"step_{i}") for i, build in enumerate(builds)][::-1]


_CONDITION: ContextVar[tuple[sa.ColumnElement[bool], ...]] = ContextVar("condition", default=())


@contextlib.contextmanager
def _rows_only_if(condition: sa.ColumnElement[bool]) -> Iterator[None]:
    """Tables of given rows that are built meanwhile are empty unless it holds."""
    token = _CONDITION.set((condition,))
    try:
        yield
    finally:
        _CONDITION.reset(token)


def _plain(value: Any) -> Any:
    """As SQLAlchemy stores it on SQLite, so that comparisons with stored values hold."""
    if isinstance(value, uuid.UUID):
        return value.hex
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    if isinstance(value, date):
        return value.isoformat()
    return value


def table_of(
    connection: ReadConnection, kinds: Kinds, rows: Sequence[Sequence[Any]], *, name: str = "given"
) -> sa.Subquery:
    """A table that holds `rows`, for a statement that is built for them: what is asked seldom."""
    dialect = dialect_of(connection)
    return Given(kinds, name=name).filled(dialect, rows).table(dialect)


def insert(connection: ReadConnection, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """The same as INSERT INTO table (columns) SELECT ... of all `rows`."""
    dialect = dialect_of(connection)
    return Given.of(table, *columns).filled(dialect, rows).insert(dialect, table)
