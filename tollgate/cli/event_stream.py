"""Server-sent events of the gateway, followed to the one that is called `end`, however often the stream is cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from tollgate.cli.client import Gateway, lines_of
from tollgate.cli.connection import segment
from tollgate.cli.exits import GatewayUnreachableError, RefusedError

Json = dict[str, Any]
AGAIN_S = 1.0
"""From a stream that was cut to the next try."""
TRIES = 5
END = "end"


def of_task(gateway: Gateway, task_id: str) -> Iterator[tuple[str, Json]]:
    """Name and data of each event of a task. A stream that is cut is taken up where it was."""
    return follow(gateway, f"/tasks/{segment(task_id)}/events", what=f"task {task_id}")


def follow(
    gateway: Gateway,
    path: str,
    *,
    what: str,
    tries: int = TRIES,
    on_cut: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, Json]]:
    """Name and data of each event. `tries` are those in a row that bring none; `on_cut` is called after each.

    Raises GatewayUnreachableError, and RefusedError for what will not pass."""
    place, left = "", tries
    while left:
        left -= 1
        try:
            for name, told, data in _read(gateway, path, after=place):
                place, left = told or place, tries
                yield name, data
                if name == END:
                    return
        except GatewayUnreachableError:
            pass
        except RefusedError as error:
            if error.status < 500 and error.status != 429:
                raise
        on_cut()
        gateway.sleep(AGAIN_S)
    raise GatewayUnreachableError(f"{gateway.target.url} does not tell {what} to its end", sent=True)


def _read(gateway: Gateway, path: str, *, after: str) -> Iterator[tuple[str, str, Json]]:
    """Name, place and data of each event of one stream, to wherever it ends."""
    with gateway.stream(path, headers={"Last-Event-ID": after} if after else {}) as response:
        yield from _parsed(response)


def _parsed(response: httpx2.Response) -> Iterator[tuple[str, str, Json]]:
    name = place = ""
    for line in lines_of(response):
        field, _, value = line.partition(b": ")
        if field == b"event":
            name, place = value.decode(), ""
        elif field == b"id":
            place = value.decode()
        elif field == b"data":
            yield name, place, json.loads(value)
