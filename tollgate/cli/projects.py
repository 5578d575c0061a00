"""`tollgate projects`: who has keys here, and for how long the texts of its tasks are kept."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import installation, options, output

if TYPE_CHECKING:
    from tollgate.domain.retention import Texts
    from tollgate.settings import Settings
    from tollgate.store.keys import Project

FOR_EVER = "forever"
Keep = Annotated[str | None, typer.Option(metavar="30d|12h|forever", help="So long after a task's end.")]

app = typer.Typer(invoke_without_command=True, help="List projects, and say what they keep.", rich_markup_mode="rich")


def register(root: typer.Typer) -> None:
    """Add the family to `root`."""
    root.add_typer(app, name="projects", rich_help_panel="Administration")


@app.callback()
def projects(context: typer.Context, as_json: options.AsJson = False, data: options.Data = None) -> None:
    """List the projects: how many keys each has, and what it keeps. Works on the database.

    `keys create` makes projects.

    Examples:
      tollgate projects --json
      tollgate projects set search --keep-prompts 30d
    """
    if context.invoked_subcommand is not None:
        return
    found = options.run(_list(options.settings(data)))
    if as_json:
        output.json_line(found)
        return
    table = output.table("name", "id", ("active keys", "right"), "keeps prompts", "keeps results", "created")
    for one in found:
        kept = [one[name] or FOR_EVER for name in ("keep_prompts", "keep_results")]
        keys = output.count(one["active_keys"])
        table.add_row(one["name"], one["id"], keys, *kept, output.moment(one["created_at"]))
    output.console().print(table)


@app.command("set")
def set_retention(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the project.")],
    keep_prompts: Keep = None,
    keep_results: Keep = None,
    as_json: options.AsJson = False,
    data: options.Data = None,
) -> None:
    """Say how long a project keeps prompts, and results. What is over is erased by the beat, within ten minutes.

    Tokens and costs stay for ever. What was erased does not come back. Works on the database.

    Examples:
      tollgate projects set search --keep-prompts 30d --keep-results 90d
      tollgate projects set search --keep-results forever
    """
    from tollgate.domain.retention import Texts

    given = {Texts.PROMPTS: keep_prompts, Texts.RESULTS: keep_results}
    kept = {texts: _seconds(text, f"--keep-{texts}") for texts, text in given.items() if text is not None}
    if not kept:
        raise typer.BadParameter("give --keep-prompts or --keep-results, or both")
    changed = _shown(options.run(_set(options.settings(data), name, kept)))
    if as_json:
        output.json_line(changed)
        return
    prompts, results = (_for(changed[one]) for one in ("keep_prompts", "keep_results"))
    print(f"project {output.printable(name)} keeps prompts {prompts} and results {results}")


def _seconds(text: str, option: str) -> int | None:
    from tollgate.domain.retention import parse_keep

    if text == FOR_EVER:
        return None
    try:
        return parse_keep(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}, or {FOR_EVER}", param_hint=option) from None


def _for(kept: str | None) -> str:
    return f"for {kept}" if kept else "for ever"


async def _set(settings: Settings, name: str, kept: dict[Texts, int | None]) -> Project:
    from tollgate.store import keys, retention

    async with installation.store(settings) as database, database.write() as connection:
        project = await keys.project_named(connection, name)
        await retention.change(connection, project.id, kept)
        return await keys.project_named(connection, name)


async def _list(settings: Settings) -> list[dict[str, Any]]:
    from datetime import UTC, datetime

    from tollgate.cli.keys import state_of
    from tollgate.store import keys

    async with installation.store(settings) as database, database.read() as connection:
        found = await keys.list_projects(connection)
        stored = await keys.list_all(connection)
    now = datetime.now(UTC)
    active = Counter(one.key.project_id for one in stored if state_of(one, now=now) == "active")
    return [{**_shown(one), "active_keys": active[one.id]} for one in found]


def _shown(one: Project) -> dict[str, Any]:
    """As GET /projects shows it."""
    from tollgate.domain.retention import shown_keep
    from tollgate.domain.shown import moment

    return {
        "id": str(one.id),
        "name": one.name,
        "keep_prompts": shown_keep(one.keep_prompts_s),
        "keep_results": shown_keep(one.keep_results_s),
        "created_at": moment(one.created_at),
    }
