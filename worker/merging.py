"""Beat's third loop: merges the shards of hours and days that are over, a little at a time.

Usage is right without it, and slower to read.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from tollgate.store import shards
from tollgate.store.database import Database
from tollgate.store.roll_up import ROLL_UPS

log = logging.getLogger("tollgate.merging")


async def merge(database: Database) -> int:
    """All that is over, in transactions of `shards.AT_ONCE` rows. Returns how many rows were moved."""
    moved = 0
    for roll_up in ROLL_UPS:
        while True:
            async with database.write() as connection:
                count = await shards.merge(connection, roll_up, now=datetime.now(UTC))
            if count == 0:
                break
            moved += count
    if moved:
        log.info("shards merged", extra={"rows": moved})
    return moved
