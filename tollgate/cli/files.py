"""`tollgate files`: what is uploaded, to be looked at and removed. `tollgate batch run` uploads by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import in_turn, listing, options, output
from tollgate.cli.connection import segment

if TYPE_CHECKING:
    from rich.table import Table


Json = dict[str, Any]
PAGE_MAX = 1_000

Purpose = Annotated[str | None, typer.Option(metavar="batch|batch_output", help="Only inputs, or outputs, of batches.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE_MAX, help="So many, the newest first.")]
After = Annotated[str | None, typer.Option(metavar="ID", help="Older than this one: the next page.")]
All = Annotated[bool, typer.Option("--all", help="Every page.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, one file a line, and nothing else.")]

app = typer.Typer(no_args_is_help=True, help="List uploaded files, and delete them.", rich_markup_mode="rich")


def register(root: typer.Typer) -> None:
    """Add the family to `root`."""
    root.add_typer(app, name="files", rich_help_panel="Tasks")


@app.command("list")
def list_files(
    *,
    purpose: Purpose = None,
    limit: Limit = 50,
    after: After = None,
    every: All = False,
    as_json: AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """List the project's files, the newest first.

    Examples:
      tollgate files list --purpose batch
    """
    given = {"purpose": purpose, "after": after, "limit": str(PAGE_MAX if every else limit)}
    filters = {name: value for name, value in given.items() if value is not None}
    with options.gateway(url=url, key=key, data=data) as gateway:
        listing.show(gateway, "/files", filters, every=every, as_json=as_json, table=_table, kind="file")


@app.command()
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As `tollgate files list` shows them.")],
    as_json: AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Remove files. One that a batch is still being read from stays.

    Examples:
      tollgate files delete 01a20464-51f8-709a-b8cb-cc506b33e5ae
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        removed = in_turn.each(
            ids,
            lambda file_id: gateway.ask("DELETE", f"/files/{segment(file_id)}"),
            told=lambda _: "removed",
            as_json=as_json,
        )
    raise typer.Exit(removed)


def _table(files: list[Json]) -> Table:
    table = output.table("id", "name", "purpose", ("lines", "right"), ("bytes", "right"), "created", "expires")
    table.columns[0].no_wrap = True  # to be copied
    for one in files:
        table.add_row(
            one["id"],
            output.shortened(one["filename"] or "", width=80),
            one["purpose"],
            "-" if one["lines"] is None else f"{one['lines']:,}",
            "-" if one["lines"] is None else f"{one['bytes']:,}",
            output.moment(one["created_at"]),
            output.moment(one["expires_at"]),
        )
    return table
