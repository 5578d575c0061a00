"""Lists as tables: one statement, built once for each database, with other rows at each execution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.ids import new_id
from tollgate.store import rows
from tollgate.store.database import Database
from tollgate.store.schema import projects, tasks

GIVEN = rows.Given(
    {
        "id": tasks.c.id.type,
        "label": tasks.c.label.type,
        "fence": tasks.c.fence.type,
        "at": tasks.c.created_at.type,
        "text": sa.Text(),
    }
)
IDS = rows.Given.of(projects, "id", "name", "created_at")
built: list[str] = []


def _echoing(dialect: str) -> rows.Statement:
    built.append(dialect)
    given = GIVEN.table(dialect)
    return sa.select(given, sa.bindparam("beside", type_=sa.Integer()).label("beside"))


def _inserting(dialect: str) -> rows.Statement:
    return IDS.insert(dialect, projects).on_conflict_do_nothing().returning(projects.c.id)


async def echo(database: Database, values: Sequence[Sequence[Any]], *, beside: int = 0) -> list[tuple[Any, ...]]:
    """By SQLAlchemy, and by the driver alone where that is another way."""
    async with database.read() as connection:
        found = await rows.execute(connection, _echoing, GIVEN, values, beside=beside)
        told = [tuple(row) for row in found.all()]
    async with database.read_once() as single:
        assert [tuple(row) for row in await rows.fetch(single, _echoing, GIVEN, values, beside=beside)] == told
    return told


@pytest.mark.parametrize("count", [0, 1, 2, 500])
async def test_rows_come_out_as_they_went_in(database: Database, count: int) -> None:
    values = [(new_id(), f"标签 {n}\n'\"", n, seeds.later(n), None if n % 2 else "{}") for n in range(count)]
    assert sorted(await echo(database, values, beside=7)) == sorted((*value, 7) for value in values)


async def test_a_statement_is_built_once_for_a_database_and_holds_no_rows_of_before(database: Database) -> None:
    one, two = (new_id(), "a", 1, seeds.NOW, "x"), (new_id(), "b", 2, seeds.NOW, "y")
    await echo(database, [one])
    before = len(built)
    assert await echo(database, [two]) == [(*two, 0)]
    assert await echo(database, []) == []
    assert len(built) == before


async def test_rows_that_conflict_are_left_out_and_the_others_inserted(database: Database) -> None:
    first, second = (new_id(), "one", seeds.NOW), (new_id(), "two", seeds.NOW)
    async with database.write() as connection:
        assert set((await rows.execute(connection, _inserting, IDS, [first])).scalars()) == {first[0]}
        again = await rows.execute(connection, _inserting, IDS, [first, second])
        assert set(again.scalars()) == {second[0]}


async def test_a_text_that_is_too_long_is_refused_and_never_cut(postgres: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="too long"):
        async with postgres.write() as connection:
            await rows.execute(connection, _inserting, IDS, [(new_id(), "n" * 1_000, seeds.NOW)])


_made = sa.MetaData()
_first, _second, _third = (
    sa.Table(name, _made, sa.Column("n", sa.Integer), sa.Column("turn", sa.BigInteger)) for name in ("a", "b", "c")
)
_givens = {table: rows.Given.of(table, "n", name=table.name) for table in (_first, _second, _third)}


def _into_first(dialect: str) -> rows.Statement:
    return _givens[_first].insert(dialect, _first)


def _into_second(dialect: str) -> rows.Statement:
    return _givens[_second].insert(dialect, _second)


def _into_third(dialect: str) -> rows.Statement:
    return _givens[_third].insert(dialect, _third)


async def test_statements_that_go_together_are_executed_in_their_order(postgres: Database) -> None:
    """Rows are locked in an order: PostgreSQL promises none for WITH clauses, and keeps the one that is relied on."""
    async with postgres.write() as connection:
        await connection.exec_driver_sql("CREATE SEQUENCE turns")
        for name in ("a", "b", "c"):
            await connection.exec_driver_sql(f"CREATE TABLE {name} (n int, turn bigint DEFAULT nextval('turns'))")
        first, second, third = (
            rows.Step(build, _givens[table], [(1,), (2,)])
            for build, table in ((_into_first, _first), (_into_second, _second), (_into_third, _third))
        )
        await rows.execute_together(connection, third, first, second)
        order = sa.union_all(*(sa.select(sa.literal(t.name), t.c.turn) for t in _givens)).order_by(sa.text("2"))
        assert [name for name, _ in (await connection.execute(order)).all()] == ["c", "c", "a", "a", "b", "b"]


async def test_a_step_without_rows_is_left_out(database: Database) -> None:
    one = (new_id(), "alone", seeds.NOW)
    async with database.write() as connection:
        await rows.execute_together(connection, rows.Step(_inserting, IDS, [one]), rows.Step(_echoing, GIVEN, []))
        await rows.execute_together(connection)
        found = await connection.execute(sa.select(projects.c.name).where(projects.c.id == one[0]))
    assert found.scalars().all() == ["alone"]
