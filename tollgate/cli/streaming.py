"""An answer as it is written: what `--stream` shows."""

from __future__ import annotations

import sys
from typing import Any

from tollgate.cli import answers, event_stream, exits, output
from tollgate.cli.client import Gateway
from tollgate.cli.prompts import Line

Json = dict[str, Any]


def submit(gateway: Gateway, line: Line, *, as_json: bool) -> int:
    """Submit one prompt and follow it; the exit code. Raises RefusedError, GatewayUnreachableError."""
    if line.task is None:
        output.note(f"{line.place}: {line.problem}")
        return exits.FAILED
    [accepted] = gateway.submit([line.task])
    try:
        return follow(gateway, accepted["id"], as_json=as_json)
    except KeyboardInterrupt:
        output.note(f"\nthe task goes on: tollgate get {accepted['id']} --stream")
        raise


def follow(gateway: Gateway, task_id: str, *, as_json: bool) -> int:
    """Show the answer on stdout as it comes, and then on stderr what it cost; the exit code.

    With `as_json` each event is a line: `event`, and its `data`."""
    task: Json = {}
    shown = False
    for name, data in event_stream.of_task(gateway, task_id):
        if as_json:
            output.json_line({"event": name, "data": data})
        elif name == "delta" and data.get("content"):
            sys.stdout.write(output.printable(data["content"]))
            shown = True
        elif name == "restart":
            sys.stdout.write("\n" if shown else "")
            output.note("the upstream broke off; the answer begins anew")
            shown = False
        sys.stdout.flush()
        if name == "end":
            task = data
    if not as_json:
        sys.stdout.write("\n" if shown else "")
        _sum_up(task, shown=shown)
    return exits.OK if task["status"] == "SUCCESS" else exits.FAILED


def _sum_up(task: Json, *, shown: bool) -> None:
    if not shown and (answer := answers.answer_of(task)):  # tool calls, which no text told of
        print(output.printable(answer))
    if error := answers.error_of(task):
        output.note(f"error: {error}")
    if advice := answers.advice_of(task):
        output.note(f"what to do: {advice}")
    cost = f"{output.money(task.get('cost'))} {task.get('currency') or ''}".rstrip()
    output.note(f"{task['state']}; {answers.tokens_of(task)} tokens, cost {cost}; task {task['id']}")
