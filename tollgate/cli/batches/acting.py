"""`tollgate batch pause`, `resume`, `retry`, `cancel` and `delete`: several at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import exits, in_turn, options
from tollgate.cli.batches import shown
from tollgate.cli.connection import segment

if TYPE_CHECKING:
    from tollgate.cli.client import Gateway

Json = dict[str, Any]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids as run and list print them.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, one batch a line, and nothing else.")]
MaxCost = Annotated[
    str | None, typer.Option(metavar="AMOUNT", help="Another limit from now on, of all it costs: 12.50.")
]


def register(app: typer.Typer) -> None:
    """Add these commands to the family."""
    for command in (pause, resume, retry, cancel, delete):
        app.command(epilog=exits.HELP)(command)


def pause(
    ids: Ids,
    as_json: AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Begin no more lines of a batch. Those that run end as they do.

    Examples:
      tollgate batch pause 01a20464-51f8-709a-b8cb-cc506b33e5ae
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        raise typer.Exit(_each(gateway, ids, "pause", as_json=as_json))


def resume(
    ids: Ids,
    max_cost: MaxCost = None,
    as_json: AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Go on with a paused batch, with another limit of what it may cost where one is given.

    Examples:
      tollgate batch resume 01a20464-51f8-709a-b8cb-cc506b33e5ae --max-cost 50
    """
    body = None if max_cost is None else {"max_cost": max_cost}
    with options.gateway(url=url, key=key, data=data) as gateway:
        raise typer.Exit(_each(gateway, ids, "resume", body=body, as_json=as_json))


def retry(
    ids: Ids,
    as_json: AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Run the lines of an ended batch again that failed, were cancelled or expired.

    What succeeded stays, and is not paid again. Lines that were refused as
    invalid stay so: correct them, and run them as a batch of their own.

    Examples:
      tollgate batch retry 01a20464-51f8-709a-b8cb-cc506b33e5ae
      tollgate batch attach 01a20464-51f8-709a-b8cb-cc506b33e5ae --out results.jsonl --force
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        raise typer.Exit(_each(gateway, ids, "retry", as_json=as_json))


def cancel(
    ids: Ids,
    as_json: AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Cancel batches. What is done stays, with its results.

    Lines that wait end at once; those that run when their calls have stopped,
    which the upstream may bill all the same.

    Examples:
      tollgate batch cancel 01a20464-51f8-709a-b8cb-cc506b33e5ae
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        raise typer.Exit(_each(gateway, ids, "cancel", as_json=as_json))


def delete(
    ids: Ids,
    as_json: AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Delete batches that have ended: input file, prompts, results.

    What they cost stays in the accounts. One that waits or runs is to be
    cancelled first.

    Examples:
      tollgate batch delete 01a20464-51f8-709a-b8cb-cc506b33e5ae
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        deleted = in_turn.each(
            ids,
            lambda batch_id: gateway.ask("DELETE", f"/batches/{segment(batch_id)}"),
            told=lambda _: "deleted",
            as_json=as_json,
        )
    raise typer.Exit(deleted)


def _each(gateway: Gateway, ids: Sequence[str], action: str, *, as_json: bool, body: Json | None = None) -> int:
    """The exit code. A 400 is one where there is nothing to do."""
    return in_turn.each(
        ids,
        lambda batch_id: gateway.ask("POST", f"/batches/{segment(batch_id)}/{action}", body=body),
        told=_stands,
        as_json=as_json,
        passed_over=(400, 404, 409),
    )


def _stands(batch: Json) -> str:
    return f"{shown.state(batch)}: {shown.counted(batch)}"
