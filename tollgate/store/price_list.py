"""The price versions: append-only, so that what was billed keeps the price it was billed at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from tollgate.domain.prices import Price, PriceTable, price_from_json, price_to_json
from tollgate.store import rows
from tollgate.store.database import Database, ReadConnection, WriteConnection
from tollgate.store.schema import prices


async def publish(connection: WriteConnection, given: Sequence[Price], *, now: datetime) -> int:
    """Add the versions not there yet; returns how many changed. A corrected price is a new version of its valid-from.

    One that was corrected and is given again counts as published now: the last word holds."""
    columns = ("id", "upstream", "model", "valid_from", "content", "published_at")
    values = [(p.id, p.upstream, p.model, p.valid_from, price_to_json(p), now) for p in given]
    insert = rows.insert(connection, prices, columns, values).on_conflict_do_nothing()
    added = len((await connection.execute(insert.returning(prices.c.id))).all())
    return added + await _republish(connection, [p.id for p in given], now=now)


async def _republish(connection: WriteConnection, ids: Sequence[str], *, now: datetime) -> int:
    later = prices.alias("later")
    overruled = sa.exists().where(
        later.c.upstream == prices.c.upstream,
        later.c.model == prices.c.model,
        later.c.valid_from == prices.c.valid_from,
        later.c.id.not_in(ids),
        later.c.published_at >= prices.c.published_at,
    )
    statement = (
        sa.update(prices)
        .where(prices.c.id.in_(ids), prices.c.published_at < now, overruled)
        .values(published_at=now)
        .returning(prices.c.id)
    )
    return len((await connection.execute(statement)).all())


async def load(connection: ReadConnection) -> PriceTable:
    """Every version; of two with one valid-from the later published counts."""
    statement = sa.select(prices.c.content).order_by(prices.c.valid_from, prices.c.published_at, prices.c.id)
    return PriceTable([price_from_json(text) for text in (await connection.execute(statement)).scalars()])


async def publish_all(database: Database, given: Sequence[Price]) -> int:
    """`publish` in a transaction of its own, now."""
    async with database.write() as connection:
        return await publish(connection, given, now=datetime.now(UTC))
