"""Lists of files and batches: `limit` and `after`, the id of the last item that the client has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from tollgate.simulator import checks

DEFAULT, LARGEST = 20, 100


class Listed(Protocol):
    """What stands in a list."""

    @property
    def identifier(self) -> str: ...


Item = TypeVar("Item", bound=Listed)


def page(items: Sequence[Item], query: Mapping[str, str]) -> tuple[list[Item], bool]:
    """The page asked for, and whether more follow. After an id that is not there: none, as after the last.

    Raises RefusalError 1214 for a limit outside 1 to 100.
    """
    limit = query.get("limit", str(DEFAULT))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit) <= LARGEST:
        raise checks.invalid("limit")
    after = query.get("after")
    start = 0
    if after:
        start = next((place + 1 for place, item in enumerate(items) if item.identifier == after), len(items))
    end = start + int(limit)
    return list(items[start:end]), end < len(items)


def as_json(data: list[dict[str, object]], *, more: bool) -> dict[str, object]:
    """The list object of the wire."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}
