from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from tests.store import seeds
from tollgate.domain.prices import Price, PriceTable
from tollgate.store import price_list
from tollgate.store.database import Database
from tollgate.store.schema import prices


def priced(input_nano: int) -> Price:
    """PRICE, with another input price in its one tier."""
    return replace(seeds.PRICE, tiers=(replace(seeds.PRICE.tiers[0], input_nano=input_nano),))


async def publish(database: Database, *given: Price, at_s: float = 0) -> int:
    async with database.write() as connection:
        return await price_list.publish(connection, given, now=seeds.later(at_s))


async def load(database: Database) -> PriceTable:
    async with database.read() as connection:
        return await price_list.load(connection)


async def test_a_price_comes_back_as_it_was_published(database: Database) -> None:
    price = replace(seeds.PRICE, batch_factor=Fraction(1, 3))
    assert await publish(database, price) == 1
    assert (await load(database)).find("zhipu", "glm-4.7", at=seeds.NOW) == price


async def test_what_is_there_already_is_not_published_again(database: Database) -> None:
    assert await publish(database, seeds.PRICE) == 1
    assert await publish(database, seeds.PRICE, priced(3), at_s=1) == 1
    assert {row.published_at for row in await seeds.rows_of(database, prices)} == {seeds.NOW, seeds.later(1)}


async def test_an_empty_list_publishes_nothing(database: Database) -> None:
    assert await publish(database) == 0


async def test_a_correction_counts_and_the_old_version_stays(database: Database) -> None:
    # The ids' hashes sort in no useful order: the time of publishing decides, whichever comes first.
    for at_s, input_nano in enumerate((5, 1, 4, 2, 3)):
        await publish(database, priced(input_nano), at_s=at_s)
        found = (await load(database)).find("zhipu", "glm-4.7", at=seeds.NOW)
        assert found == priced(input_nano)
    assert await seeds.size(database, prices) == 5


async def test_a_correction_that_is_taken_back_counts_again(database: Database) -> None:
    for at_s, (input_nano, changed) in enumerate(((5, 1), (7, 1), (5, 1), (5, 0))):
        assert await publish(database, priced(input_nano), at_s=at_s) == changed
        assert (await load(database)).find("zhipu", "glm-4.7", at=seeds.NOW) == priced(input_nano)
    assert await seeds.size(database, prices) == 2
