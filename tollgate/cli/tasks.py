"""`tollgate tasks`: the list, cancelling, deleting."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import answers, in_turn, listing, options, output

if TYPE_CHECKING:
    from rich.table import Table

Json = dict[str, Any]
PAGE_MAX = 1_000

State = Annotated[
    str | None,
    typer.Option(help="queued, running, succeeded, failed, cancelled, expired; or PROCESSING, SUCCESS, FAIL."),
]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Asked for this model.")]
Label = Annotated[str | None, typer.Option(help="With this label.")]
Batch = Annotated[str | None, typer.Option(metavar="ID", help="Of this batch.")]
CustomId = Annotated[str | None, typer.Option(help="With this custom_id.")]
RequestId = Annotated[str | None, typer.Option(help="With this request_id.")]
Since = Annotated[str | None, typer.Option("--from", metavar="TIME", help="Created from then on: a date, or ISO 8601.")]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Created before then.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE_MAX, help="So many, the newest first.")]
After = Annotated[str | None, typer.Option(metavar="ID", help="Older than this one: the next page.")]
All = Annotated[bool, typer.Option("--all", help="Every page.")]

app = typer.Typer(no_args_is_help=True, help="List tasks, cancel and delete them.", rich_markup_mode="rich")


def register(root: typer.Typer) -> None:
    """Add the family to `root`."""
    root.add_typer(app, name="tasks", rich_help_panel="Tasks")


@app.command("list")
def list_tasks(
    *,
    state: State = None,
    model: Model = None,
    label: Label = None,
    batch: Batch = None,
    custom_id: CustomId = None,
    request_id: RequestId = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    after: After = None,
    every: All = False,
    as_json: options.AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """List the project's tasks, the newest first. Costs and answers: `tollgate get ID`, or --json.

    Examples:
      tollgate tasks list --state FAIL --label nightly
      tollgate tasks list --from 2026-01-01 --all --json > january.jsonl
    """
    given = {
        "state": state,
        "model": model,
        "label": label,
        "batch_id": batch,
        "custom_id": custom_id,
        "request_id": request_id,
        "created_from": _time(since, "--from"),
        "created_to": _time(until, "--to"),
        "after": after,
        "limit": str(PAGE_MAX if every else limit),
        "include": "result" if as_json else None,
    }
    filters = {name: value for name, value in given.items() if value is not None}
    with options.gateway(url=url, key=key, data=data) as gateway:
        listing.show(gateway, "/tasks", filters, every=every, as_json=as_json, table=_table, kind="task")


@app.command()
def cancel(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids as submit and list print them.")],
    as_json: options.AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Cancel tasks. What has ended stays as it is.

    A queued one ends at once; a running one when its worker has stopped the
    call, which the upstream may bill all the same.

    Examples:
      tollgate tasks cancel 0199c2f0-6a4e-7c31-a0b7-52ab3e1f4d10
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        raise typer.Exit(in_turn.each(ids, gateway.cancel, told=_stands, as_json=as_json, passed_over=(404,)))


@app.command()
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids as submit and list print them.")],
    as_json: options.AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Delete the texts of tasks that have ended: prompt, metadata, answer, error messages.

    What they cost stays in the accounts. One that waits or runs is to be
    cancelled first.

    Examples:
      tollgate tasks delete 0199c2f0-6a4e-7c31-a0b7-52ab3e1f4d10
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        raise typer.Exit(in_turn.each(ids, gateway.delete, told=lambda _: "erased", as_json=as_json))


def _table(tasks: list[Json]) -> Table:
    table = output.table(
        "id", "state", "model", "upstream", "name", "label", "created", ("tries", "right"), "error, or why it waits"
    )
    for task in tasks:
        table.add_row(
            task["id"],
            output.state(task["state"]),
            task["model"],
            task.get("upstream") or "",
            output.shortened(answers.name_of(task), width=24),
            output.shortened(task.get("label") or "", width=16),
            output.moment(task["created_at"]),
            str(task["tries"]),
            output.shortened(answers.error_of(task) or task.get("waiting_reason") or "", width=40),
        )
    return table


def _stands(task: Json) -> str:
    asked = task["state"] == "running" and task.get("cancel_requested_at")
    return "running, asked to stop" if asked else str(task["state"])


def _time(text: str | None, option: str) -> str | None:
    """With a zone: a date is its first moment in UTC."""
    from tollgate.cli import moments

    if text is None:
        return None
    try:
        parsed: datetime = moments.parse_time(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    return parsed.isoformat()
