"""`tollgate batch status` and `list`: where batches stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import exits, listing, options, output
from tollgate.cli.batches import shown
from tollgate.cli.batches.acting import AsJsonLines
from tollgate.cli.connection import segment

if TYPE_CHECKING:
    from rich.table import Table


Json = dict[str, Any]
PAGE_MAX = 100

BatchId = Annotated[str, typer.Argument(metavar="ID", help="As run and list print it.")]
State = Annotated[
    str | None,
    typer.Option(help="validating, in_progress, cancelling, completed, failed, expired or cancelled."),
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE_MAX, help="So many, the newest first.")]
After = Annotated[str | None, typer.Option(metavar="ID", help="Older than this one: the next page.")]
All = Annotated[bool, typer.Option("--all", help="Every page.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the family."""
    app.command(epilog=exits.HELP)(status)
    app.command("list", epilog=exits.HELP)(list_batches)


def status(
    batch_id: BatchId,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Show where a batch stands: lines, tokens, cost, speed, time left, and what its lines fail of.

    The exit code is 0 for one that runs and one whose lines all succeeded, else
    1; 2 if it failed as a whole. `tollgate batch attach ID` watches it.

    Examples:
      tollgate batch status 01a20464-51f8-709a-b8cb-cc506b33e5ae
      tollgate batch status ID --json | jq .counts
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        batch = gateway.ask("GET", f"/batches/{segment(batch_id)}")
    if as_json:
        output.json_line(batch)
    else:
        show(batch)
    raise typer.Exit(code_of(batch) if shown.has_ended(batch) else exits.OK)


def list_batches(
    *,
    state: State = None,
    limit: Limit = 20,
    after: After = None,
    every: All = False,
    as_json: AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """List the project's batches, the newest first.

    Examples:
      tollgate batch list --state in_progress
      tollgate batch list --all --json > batches.jsonl
    """
    given = {"state": state, "after": after, "limit": str(PAGE_MAX if every else limit)}
    filters = {name: value for name, value in given.items() if value is not None}
    with options.gateway(url=url, key=key, data=data) as gateway:
        listing.show(gateway, "/batches", filters, every=every, as_json=as_json, table=_table, kind="batch")


def show(batch: Json) -> None:
    """One batch, whole."""
    console = output.console()
    for name, value in shown.facts(batch):
        console.print(f"{name:<10} {output.printable(value)}")
    if batch["errors"]:
        console.print(shown.errors_table(batch["errors"]))


def code_of(batch: Json) -> int:
    """The exit code that an ended batch ends its command with."""
    if batch["state"] == "failed":
        return exits.USAGE
    return exits.OK if shown.all_good(batch) else exits.FAILED


def _table(batches: list[Json]) -> Table:
    table = output.table(
        "id", "name", "state", ("lines", "right"), ("done", "right"), ("failed", "right"), ("cost", "right"), "created"
    )
    table.columns[0].no_wrap = True  # to be copied
    for batch in batches:
        counts = batch["counts"]
        table.add_row(
            batch["id"],
            output.shortened(batch["name"] or "", width=24),
            shown.styled_state(batch),
            f"{counts['total']:,}",
            f"{shown.done(batch):,}",
            f"{counts['failed'] + counts['invalid']:,}",
            output.money(batch["cost"]),
            output.moment(batch["created_at"]),
        )
    return table
