"""A client that leaves while it is waited for its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import fastapi
from starlette.requests import ClientDisconnect

T = TypeVar("T")


async def unless_left(request: fastapi.Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to. Raises ClientDisconnect, and cancels it, when the client has closed the connection.

    Only after the body was read: from then on the server tells nothing but the end of the connection."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: fastapi.Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
