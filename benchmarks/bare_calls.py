"""The limit that a worker is measured against: aiohttp calls that are neither claimed nor kept.

python -m benchmarks.bare_calls URL IN_FLIGHT COUNT        prints finished/s
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import orjson
import uvloop

from benchmarks.submits import BODY


async def _finished_per_s(url: str, in_flight: int, count: int) -> float:
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": "Bearer bench.key", "Content-Type": "application/json"}
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            async with session.post(url, data=orjson.dumps(BODY), headers=headers) as response:
                orjson.loads(await response.read())["choices"]

    async with aiohttp.ClientSession(connector=connector) as session:
        started = time.monotonic()
        await asyncio.gather(*(caller() for _ in range(in_flight)))
        return count / (time.monotonic() - started)


if __name__ == "__main__":
    print(uvloop.run(_finished_per_s(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
