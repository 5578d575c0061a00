"""Lists as tables: the one place where PostgreSQL and SQLite take many rows in one statement.

PostgreSQL gets one array a column (`unnest`), SQLite one JSON text (`json_each`). Either way the
statement's text does not depend on the number of rows, so that it is compiled and prepared once.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from tollgate.store.database import ReadConnection, dialect_of

Kinds = Mapping[str, sa.types.TypeEngine[Any]]


def table_of(
    connection: ReadConnection, kinds: Kinds, rows: Sequence[Sequence[Any]], *, name: str = "given"
) -> sa.Subquery:
    """A subquery `name` with the columns of `kinds` and one row for each of `rows` (same order of columns)."""
    if dialect_of(connection) == "sqlite":
        return _json_table(kinds, rows, name)
    return _unnest(kinds, rows, name)


def insert(connection: ReadConnection, table: sa.Table, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """INSERT INTO table (columns) SELECT ... of all `rows`, to be extended (`on_conflict`, `returning`)."""
    given = table_of(connection, {name: table.c[name].type for name in columns}, rows)
    # SQLite's parser needs a WHERE between SELECT and ON CONFLICT (https://sqlite.org/lang_upsert.html, 2.2).
    source = sa.select(*(given.c[name] for name in columns)).where(sa.true())
    if dialect_of(connection) == "sqlite":
        return sqlite.insert(table).from_select(list(columns), source)
    return postgresql.insert(table).from_select(list(columns), source)


def _unnest(kinds: Kinds, rows: Sequence[Sequence[Any]], name: str) -> sa.Subquery:
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in kinds]
    arrays = [_array(values, kind) for values, kind in zip(columns, kinds.values(), strict=True)]
    table = sa.func.unnest(*arrays).table_valued(*(sa.column(c, kind) for c, kind in kinds.items()), name="v")
    return sa.select(*table.render_derived().c).subquery(name)


def _array(values: Sequence[Any], kind: sa.types.TypeEngine[Any]) -> sa.Cast[Any]:
    # A cast to varchar(n) cuts silently what is too long. As text it is refused where it is stored.
    array = postgresql.ARRAY(sa.Text() if isinstance(kind, sa.String) else kind)
    return sa.cast(sa.literal(list(values), array), array)


def _json_table(kinds: Kinds, rows: Sequence[Sequence[Any]], name: str) -> sa.Subquery:
    text = orjson.dumps([[_plain(value) for value in row] for row in rows]).decode()
    each = sa.func.json_each(sa.literal(text)).table_valued("value", name="v")
    return sa.select(
        *(
            sa.type_coerce(sa.func.json_extract(each.c.value, f"$[{i}]"), kind).label(column)
            for i, (column, kind) in enumerate(kinds.items())
        )
    ).subquery(name)


def _plain(value: Any) -> Any:
    """As SQLAlchemy stores it on SQLite, so that comparisons with stored values hold."""
    if isinstance(value, uuid.UUID):
        return value.hex
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    if isinstance(value, date):
        return value.isoformat()
    return value
