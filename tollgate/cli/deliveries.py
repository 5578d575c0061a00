"""`tollgate webhooks deliveries` and `redeliver`: what was sent to whom, what came of it, and once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import listing, options, output

if TYPE_CHECKING:
    from rich.table import Table


Json = dict[str, Any]
PAGE_MAX = 1_000
STYLES = {"delivered": "green", "failed": "red", "pending": "cyan"}

DeliveryId = Annotated[str, typer.Argument(metavar="ID", help="As `tollgate webhooks deliveries` shows it.")]
State = Annotated[str | None, typer.Option(metavar="pending|delivered|failed", help="Only those in this state.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the family."""
    for command in (deliveries, redeliver):
        app.command()(command)


def an_id(text: str, *, kind: str) -> str:
    """`text`, which can name one. Raises NotFoundError for what is no id at all."""
    from tollgate.domain.errors import NotFoundError
    from tollgate.domain.ids import parse_id

    if parse_id(text) is None:
        raise NotFoundError(kind, text)
    return text


def tell_queued(made: Json, *, as_json: bool) -> None:
    """Of a delivery that was asked for."""
    if as_json:
        output.json_line(made)
        return
    output.note(f"{made['event']} to {made['url']} leaves within seconds; see `tollgate webhooks deliveries`")
    print(made["id"])


def redeliver(
    delivery_id: DeliveryId,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Send a message again, under the same id, whatever became of it.

    Examples:
      tollgate webhooks redeliver 01a20464-51f8-709a-b8cb-cc506b33e5ae
    """
    path = f"/webhooks/deliveries/{an_id(delivery_id, kind='delivery')}/redeliver"
    with options.gateway(url=url, key=key, data=data) as gateway:
        made = gateway.ask("POST", path)
    tell_queued(made, as_json=as_json)


def deliveries(
    *,
    webhook: Annotated[str | None, typer.Option(metavar="ID", help="Only those to this endpoint.")] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="Only those that tell of this task.")] = None,
    state: State = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE_MAX, help="So many, the newest first.")] = 50,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Older than this one: the next page.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every page.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines on stdout, one delivery a line, and nothing else.")
    ] = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """List what was sent, or is to be, and what came of it.

    Examples:
      tollgate webhooks deliveries --state failed
      tollgate webhooks deliveries --task 01a20464-51f8-709a-b8cb-cc506b33e5ae --json
    """
    ids = {"webhook": (webhook, "webhook"), "task": (task, "task"), "after": (after, "delivery")}
    filters = {name: an_id(text, kind=kind) for name, (text, kind) in ids.items() if text is not None}
    filters |= {"state": state} if state is not None else {}
    filters["limit"] = str(PAGE_MAX if every else limit)
    with options.gateway(url=url, key=key, data=data) as gateway:
        listing.show(
            gateway, "/webhooks/deliveries", filters, every=every, as_json=as_json, table=_table, kind="delivery"
        )


def _table(found: list[Json]) -> Table:
    from rich.text import Text

    table = output.table("id", "event", "task", "to", "state", ("tries", "right"), "next try (UTC)", "answer")
    table.columns[0].no_wrap = True  # to be copied
    for one in found:
        told = one["error"] or (f"{one['http_status']}" if one["http_status"] else "")
        table.add_row(
            one["id"],
            one["event"],
            one["task_id"] or "-",
            output.shortened(one["url"], width=40),
            Text(one["state"], style=STYLES[one["state"]]),
            str(one["tries"]),
            output.moment(one["next_try_at"]),
            output.shortened(told, width=60),
        )
    return table
