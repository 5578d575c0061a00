"""`tollgate webhooks`: endpoints and their secrets; `cli.deliveries` has what was delivered to them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tollgate.cli import deliveries, options, output

Json = dict[str, Any]

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="As `tollgate webhooks list` shows it.")]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Webhooks: how the project's tasks end is told to its endpoints, or to the callback_url of a task "
    "(`tollgate submit --callback-url`). Signed as Standard Webhooks (www.standardwebhooks.com) says, and tried again "
    "for a day. Prompts and answers are not in them: fetch the task.",
)


def register(root: typer.Typer) -> None:
    """Add the family to `root`."""
    deliveries.register(app)
    root.add_typer(app, name="webhooks", rich_help_panel="Tasks")


@app.command()
def create(
    target: Annotated[str, typer.Argument(metavar="ENDPOINT", help="The https URL that is told.")],
    events: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these, for example task.failed,task.expired. Default: all.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Make an endpoint, and print its secret, which the receiver needs.

    Examples:
      tollgate webhooks create https://example.com/hooks/tollgate
      tollgate webhooks create https://example.com/alarm --events task.failed,task.expired
    """
    body: Json = {"url": target, "description": description}
    if events is not None:
        body["events"] = [name.strip() for name in events.split(",") if name.strip()]
    with options.gateway(url=url, key=key, data=data) as gateway:
        made = gateway.ask("POST", "/webhooks", body=body)
    if as_json:
        output.json_line(made)
        return
    again = f"tollgate webhooks secret {made['id']}"
    output.note(f"webhook {made['id']} is told of {_events(made)}. Its secret, which `{again}` prints again:")
    print(made["secret"])


@app.command("list")
def list_webhooks(
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """List the project's endpoints.

    Examples:
      tollgate webhooks list
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        found = gateway.ask("GET", "/webhooks")["data"]
    if as_json:
        output.json_line(found)
        return
    table = output.table("id", "endpoint", "events", "description", "created (UTC)", "state")
    table.columns[0].no_wrap = True  # to be copied
    for one in found:
        state = f"disabled: {one['disabled_why']}" if one["disabled_at"] else "active"
        shown = (output.printable(one["url"]), _events(one), output.printable(one["description"] or ""))
        table.add_row(one["id"], *shown, output.moment(one["created_at"]), state)
    output.console().print(table)


@app.command()
def delete(webhook_id: WebhookId, url: options.Url = None, key: options.Key = None, data: options.Data = None) -> None:
    """Delete an endpoint. What is still to be delivered to it fails.

    Examples:
      tollgate webhooks delete 01a20464-51f8-709a-b8cb-cc506b33e5ae
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        found = gateway.ask("DELETE", _path(webhook_id))
    print(f"webhook {found['id']} is deleted: {output.printable(found['url'])} is told of nothing any more")


@app.command()
def enable(webhook_id: WebhookId, url: options.Url = None, key: options.Key = None, data: options.Data = None) -> None:
    """Enable an endpoint that its receiver disabled with a 410.

    Examples:
      tollgate webhooks enable 01a20464-51f8-709a-b8cb-cc506b33e5ae
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        found = gateway.ask("POST", _path(webhook_id, "enable"))
    print(f"webhook {found['id']} is active")


@app.command()
def secret(
    webhook_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Of this endpoint. Default: of the project's callback_urls.")
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Make another for the callback_urls; the one before signs nothing any more.")
    ] = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Print what deliveries are signed with: a receiver checks them with it.

    Examples:
      tollgate webhooks secret 01a20464-51f8-709a-b8cb-cc506b33e5ae
      tollgate webhooks secret
    """
    if new and webhook_id is not None:
        raise typer.BadParameter("an endpoint's secret is its own for good: delete it, and create another")
    with options.gateway(url=url, key=key, data=data) as gateway:
        path = "/webhooks/secret" if webhook_id is None else _path(webhook_id, "secret")
        found = gateway.ask("POST" if new else "GET", path)
    if as_json:
        output.json_line(found)
    else:
        print(found["secret"])


@app.command("test")
def send_test(
    webhook_id: WebhookId,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Send an endpoint a webhook.test. Prints the delivery's id.

    Examples:
      tollgate webhooks test 01a20464-51f8-709a-b8cb-cc506b33e5ae
      tollgate webhooks deliveries --limit 1
    """
    with options.gateway(url=url, key=key, data=data) as gateway:
        made = gateway.ask("POST", _path(webhook_id, "test"))
    deliveries.tell_queued(made, as_json=as_json)


def _events(one: Json) -> str:
    return ", ".join(one["events"] or ["all events"])


def _path(webhook_id: str, *action: str) -> str:
    return "/".join(("/webhooks", deliveries.an_id(webhook_id, kind="webhook"), *action))
