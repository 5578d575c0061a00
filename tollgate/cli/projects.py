"""`tollgate projects`: who has keys here."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

from tollgate.cli import installation, options, output

if TYPE_CHECKING:
    from tollgate.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Administration")(projects)


def projects(as_json: options.AsJson = False, data: options.Data = None) -> None:
    """List the projects and how many keys each has. Works on the database; `keys create` makes projects.

    Examples:
      tollgate projects --json
    """
    found = options.run(_list(options.settings(data)))
    if as_json:
        output.json_line(found)
        return
    table = output.table("name", "id", ("active keys", "right"), "created")
    for one in found:
        table.add_row(one["name"], one["id"], output.count(one["active_keys"]), output.moment(one["created_at"]))
    output.console().print(table)


async def _list(settings: Settings) -> list[dict[str, Any]]:
    from datetime import UTC, datetime

    from tollgate.cli.keys import state_of
    from tollgate.store import keys

    async with installation.store(settings) as database, database.read() as connection:
        found = await keys.list_projects(connection)
        stored = await keys.list_all(connection)
    now = datetime.now(UTC)
    active = Counter(one.key.project_id for one in stored if state_of(one, now=now) == "active")
    return [
        {
            "id": str(one.id),
            "name": one.name,
            "active_keys": active[one.id],
            "created_at": one.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }
        for one in found
    ]
