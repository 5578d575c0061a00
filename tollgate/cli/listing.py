"""Lists of the gateway, page by page: tables for people, JSON lines for scripts; and where the next page begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tollgate.cli import output

if TYPE_CHECKING:
    from rich.table import Table

    from tollgate.cli.client import Gateway

Json = dict[str, Any]


def show(
    gateway: Gateway,
    path: str,
    filters: Mapping[str, str],
    *,
    every: bool,
    as_json: bool,
    table: Callable[[list[Json]], Table],
    kind: str,
) -> None:
    """Print the first page, or each in turn. `kind`: what is listed, in the singular."""
    page: Json = {}
    last = ""
    for page in _pages(gateway, path, filters, every=every):
        if as_json:
            for one in page["data"]:
                output.json_line(one)
        elif page["data"]:
            output.console().print(table(page["data"]))
        last = page["data"][-1]["id"] if page["data"] else last
    if not last and not as_json:
        output.note(f"no {kind} fits")
    if page["has_more"]:
        output.note(f"there are more: --after {last}, or --all")


def _pages(gateway: Gateway, path: str, filters: Mapping[str, str], *, every: bool) -> Iterator[Json]:
    page = gateway.ask("GET", path, params=filters)
    yield page
    while every and page["has_more"]:
        page = gateway.ask("GET", path, params={**filters, "after": page["data"][-1]["id"]})
        yield page
