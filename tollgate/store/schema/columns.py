"""What the tables are made of: the kinds of columns, CHECKs and partial indexes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class Instant(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime: timestamptz on PostgreSQL, sortable text on SQLite, which has no zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.replace(tzinfo=UTC)


def one_of(column: str, values: Iterable[StrEnum | str]) -> sa.CheckConstraint:
    """CHECK (column IN (...)); its name is the column's."""
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


def required(name: str, kind: Any, *args: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, *args, nullable=False, **options)


def count(name: str) -> sa.Column[Any]:
    """A number that starts at zero and is never negative by the schema's CHECKs where it matters."""
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def partial(name: str, *columns: str, where: str | sa.TextClause, unique: bool = False) -> sa.Index:
    """An index of the rows for which `where` holds."""
    condition = sa.text(where) if isinstance(where, str) else where
    return sa.Index(name, *columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def sharded(name: str, column: str) -> sa.Index:
    """Of a roll-up: its rows in other shards than 0, which are few once beat has merged the past."""
    return partial(name, column, where="shard > 0")


OF_BATCH = sa.text("batch_id IS NOT NULL")
