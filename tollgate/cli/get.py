"""`tollgate get`: tasks with their answers, and what each attempt cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import answers, exits, options, output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from tollgate.cli.client import Gateway

Json = dict[str, Any]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids as submit and list print them.")]
Wait = Annotated[float, typer.Option("--wait", "-w", metavar="SECONDS", min=0, help="Wait so long for them to end.")]

Stream = Annotated[bool, typer.Option("--stream", help="Show the answer as it is written, from its start. One id.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Tasks", epilog=exits.HELP)(get)


def get(
    ids: Ids,
    wait: Wait = 0,
    stream: Stream = False,
    as_json: options.AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Show a task: its answer, attempts, cost, and what to do where it failed. Several ids: a table.

    Examples:
      tollgate get 0199c2f0-6a4e-7c31-a0b7-52ab3e1f4d10
      tollgate get ID ID ID --wait 60 --json
      tollgate get ID --stream
    """
    if stream:
        if len(ids) != 1:
            raise typer.BadParameter(f"one answer at a time, these are {len(ids)} ids", param_hint="--stream")
        from tollgate.cli import streaming

        with options.gateway(url=url, key=key, data=data) as gateway:
            raise typer.Exit(streaming.follow(gateway, ids[0], as_json=as_json))
    with options.gateway(url=url, key=key, data=data) as gateway:
        found, missing = read(gateway, list(dict.fromkeys(ids)), wait_s=wait)
    if as_json:
        for task in found:
            output.json_line(task)
    elif len(ids) == 1 and found:
        show(output.console(), found[0])
    elif found:
        output.console().print(several(found))
    for task_id in missing:
        output.note(f"no task {task_id!r} in this key's project")
    raise typer.Exit(exits.FAILED if missing or any(task["status"] == "FAIL" for task in found) else exits.OK)


def read(gateway: Gateway, ids: list[str], *, wait_s: float) -> tuple[list[Json], list[str]]:
    """The tasks in the order of `ids`, after `wait_s` at most, and the ids that name none."""
    from tollgate.cli import waiting

    ended: dict[str, Json] = {}
    if wait_s:
        deadline = time.monotonic() + wait_s
        ended = {task["id"]: task for task in waiting.until_ended(gateway, ids, deadline=deadline)}
    missing: list[str] = []
    rest = [task_id for task_id in ids if task_id not in ended]
    for start in range(0, len(rest), waiting.ASKED_AT_ONCE):
        found, absent = gateway.tasks(rest[start : start + waiting.ASKED_AT_ONCE])
        ended |= {task["id"]: task for task in found}
        missing += absent
    return [ended[task_id] for task_id in ids if task_id in ended], missing


def show(console: Console, task: Json) -> None:
    """One task, whole."""
    for name, value in facts(task):
        console.print(f"{name:<10} {output.printable(value)}")
    if task.get("attempts"):
        console.print(attempts_table(task))
    answer, error, advice = answers.answer_of(task), answers.error_of(task), answers.advice_of(task)
    if error:
        console.print(f"\nerror      {output.printable(error)}", style="red")
    if advice:
        console.print(f"what to do {advice}")
    if answer:
        console.print()
        console.print(output.printable(answer), soft_wrap=True)


def facts(task: Json) -> list[tuple[str, str]]:
    """Name and value of what there is to say about a task, apart from its answer."""
    usage, currency = task.get("usage") or {}, task.get("currency") or ""
    cost = f"{output.money(task['cost'])} {currency}" if task.get("cost") is not None else None
    if task.get("unpriced"):
        cost = f"{cost or 'unknown'} (a model without a price: see `tollgate models check`)"
    possible = task.get("possible_cost")
    tokens = (
        f"{usage['prompt_tokens']:,} prompt ({usage['cached_tokens']:,} cached) + {usage['completion_tokens']:,} "
        f"completion = {usage['total_tokens']:,}"
        if usage
        else None
    )
    named = [
        ("task", task["id"]),
        ("status", f"{task['status']} ({task['state']})"),
        ("waits", task.get("waiting_reason")),
        ("model", task.get("model")),
        ("answered", f"by {task['upstream']}/{task['upstream_model']}" if task.get("upstream") else None),
        *((name, task.get(name)) for name in ("custom_id", "request_id", "label", "batch_id")),
        ("created", output.moment(task.get("created_at"))),
        ("ended", output.moment(task["ended_at"]) if task.get("ended_at") else None),
        ("cancelling", "asked for" if task.get("cancel_requested_at") and not task.get("ended_at") else None),
        ("erased", "its answer, or error message, is kept no longer" if task.get("erased") else None),
        ("tokens", tokens),
        ("engine", answers.engine_of(task) or None),
        ("cost", cost),
        (
            "possible",
            f"up to {output.money(possible)} {currency} more, if uncertain attempts were billed" if possible else None,
        ),
    ]
    return [(name, str(value)) for name, value in named if value is not None]


def attempts_table(task: Json) -> Table:
    """What was bought, and how it went."""
    table = output.table(
        ("#", "right"), "upstream", "outcome", ("tries", "right"), "error", ("tokens", "right"), ("cost", "right")
    )
    for one in task["attempts"]:
        cost = output.money(one["cost"]) if one["cost"] is not None else "-"
        if one.get("possible_cost"):
            cost = f"0 to {output.money(one['possible_cost'])}"
        tokens = "-" if one["prompt_tokens"] is None else f"{one['prompt_tokens']}+{one['completion_tokens']}"
        table.add_row(
            str(one["number"]),
            f"{one['upstream']}/{one['upstream_model']}",
            one["outcome"],
            str(one["tries"]),
            output.shortened(answers.error_of(one) or "-"),
            tokens,
            cost + (" (estimated)" if one.get("cost_estimated") else ""),
        )
    return table


def several(tasks: list[Json]) -> Table:
    """A row a task."""
    table = output.table("id", "name", "state", "model", "answer", ("tokens", "right"), ("cost", "right"))
    for task in tasks:
        table.add_row(
            task["id"],
            output.shortened(answers.name_of(task), width=24),
            output.state(task["state"]),
            task["model"],
            output.shortened(answers.answer_of(task) or answers.error_of(task), width=40),
            answers.tokens_of(task),
            output.money(task.get("cost")),
        )
    return table
