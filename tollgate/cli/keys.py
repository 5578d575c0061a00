"""`tollgate keys`: API keys, on the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import installation, key_limits, moments, options, output

if TYPE_CHECKING:
    from tollgate.settings import Settings
    from tollgate.store.keys import StoredKey

NAME_MAX = 64

Project = Annotated[str, typer.Option(help="Whose key it is; made if it is not there.")]
Name = Annotated[str, typer.Option(help="To tell it from the project's other keys.")]
RoleName = Annotated[str, typer.Option("--role", metavar="user|admin", help="admin: also keys, projects, all usage.")]
Models = Annotated[str | None, typer.Option(metavar="A,B", help="The only models it may use. Default: all.")]
Expires = Annotated[str | None, typer.Option(metavar="30d|DATE", help="Refused from then on. Default: never.")]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="API keys. These commands work on the database: TOLLGATE_DATABASE_URL, else the data folder's SQLite file.",
)

app.command("limit")(key_limits.limit)


def register(root: typer.Typer) -> None:
    """Add the family to `root`."""
    root.add_typer(app, name="keys", rich_help_panel="Administration")


@app.command()
def create(
    project: Project,
    name: Name = "key",
    role: RoleName = "user",
    models: Models = None,
    expires: Expires = None,
    requests_per_minute: key_limits.Requests = None,
    tokens_per_minute: key_limits.Tokens = None,
    max_in_flight: key_limits.InFlight = None,
    as_json: options.AsJson = False,
    data: options.Data = None,
) -> None:
    """Make an API key and print it, once: no secret is stored.

    Examples:
      tollgate keys create --project search
      tollgate keys create --project ops --role admin --name alice --expires 90d
      tollgate keys create --project search --requests-per-minute 600 --max-in-flight 50
    """
    if role not in ("user", "admin"):
        raise typer.BadParameter(f"{role!r}: write user or admin", param_hint="--role")
    for option, text in (("--project", project), ("--name", name)):
        if not 1 <= len(text) <= NAME_MAX or not text.isprintable():
            raise typer.BadParameter(f"1 to {NAME_MAX} characters, no control characters", param_hint=option)
    settings = options.settings(data)
    limits = key_limits.given(requests_per_minute, tokens_per_minute, max_in_flight)
    expires_at, allowed = _expiry(expires), _models(settings, models)
    stored, text = options.run(
        _create(settings, project=project, name=name, role=role, models=allowed, expires_at=expires_at, limits=limits)
    )
    if as_json:
        output.json_line({**as_object(stored), "key": text})
        return
    output.note(f"key {stored.key.id} of project {project}, role {role}. It is shown this once:")
    print(text)


@app.command("list")
def list_keys(
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    as_json: options.AsJson = False,
    data: options.Data = None,
) -> None:
    """List the keys, without their secrets.

    Examples:
      tollgate keys list --project search
    """
    found = options.run(_list(options.settings(data), project))
    if as_json:
        output.json_line([as_object(one) for one in found])
        return
    table = output.table("id", "project", "name", "role", "models", "limits", "created", "expires", "state")
    table.columns[0].no_wrap = True  # to be copied into `keys limit` and `keys revoke`
    now = datetime.now(UTC)
    for one in found:
        key = one.key
        models = "all" if key.models is None else ", ".join(sorted(key.models))
        times = (output.moment(one.created_at), output.moment(key.expires_at))
        limits = key_limits.told(key.limits)
        table.add_row(key.id, key.project, key.name, key.role, models, limits, *times, state_of(one, now=now))
    output.console().print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The part of the key before the dot.")],
    data: options.Data = None,
) -> None:
    """Revoke a key for good; every gateway refuses it within 5 s.

    Examples:
      tollgate keys revoke 0199c2f06a4e7c31a0b752ab3e1f4d10
    """
    # Whoever has only the whole key at hand may paste it: the secret is not needed, and not printed again.
    key_id = key_id.partition(".")[0]
    options.run(_revoke(options.settings(data), key_id))
    print(f"key {key_id} is revoked")


def as_object(stored: StoredKey) -> dict[str, Any]:
    """As GET /keys shows it."""
    key = stored.key
    return {
        "id": key.id,
        "project": key.project,
        "name": key.name,
        "role": key.role,
        "models": None if key.models is None else sorted(key.models),
        "may_interactive": key.may_interactive,
        **asdict(key.limits),
        "created_at": _iso(stored.created_at),
        "expires_at": _iso(key.expires_at),
        "revoked_at": _iso(key.revoked_at),
    }


def state_of(stored: StoredKey, *, now: datetime) -> str:
    """ "active", "expired" or "revoked"."""
    if stored.key.revoked_at is not None:
        return "revoked"
    return "expired" if stored.key.expires_at is not None and stored.key.expires_at <= now else "active"


async def _create(
    settings: Settings,
    *,
    project: str,
    name: str,
    role: str,
    models: frozenset[str] | None,
    expires_at: datetime | None,
    limits: Mapping[str, int | None],
) -> tuple[StoredKey, str]:
    from tollgate.domain.ids import new_id
    from tollgate.domain.keys import derive_secret
    from tollgate.domain.rates import KeyLimits
    from tollgate.domain.states import Role
    from tollgate.domain.tasks import Key
    from tollgate.store import keys

    now = datetime.now(UTC)
    async with installation.store(settings) as database, database.write() as connection:
        masters = installation.masters(settings, create=True)
        await keys.check_masters(connection, [master.fingerprint for master in masters])
        home = await keys.add_project(connection, project, now=now)
        made = Key(
            id=new_id().hex,
            project_id=home.id,
            project=home.name,
            name=name,
            role=Role(role),
            models=models,
            expires_at=expires_at,
            limits=KeyLimits(**limits),
        )
        await keys.add(connection, made, master=masters[0].fingerprint, now=now)
    stored = keys.StoredKey(key=made, master=masters[0].fingerprint, version=1, created_at=now)
    return stored, f"{made.id}.{derive_secret(masters[0], key_id=made.id, version=1)}"


async def _list(settings: Settings, project: str | None) -> list[StoredKey]:
    from tollgate.store import keys

    async with installation.store(settings) as database, database.read() as connection:
        project_id = None if project is None else (await keys.project_named(connection, project)).id
        return await keys.list_all(connection, project_id=project_id)


async def _revoke(settings: Settings, key_id: str) -> None:
    from tollgate.store import keys

    async with installation.store(settings) as database, database.write() as connection:
        await keys.revoke(connection, key_id, now=datetime.now(UTC))


def _models(settings: Settings, text: str | None) -> frozenset[str] | None:
    """Known names only: a misspelt one would lock its key out without a word."""
    from tollgate import configuration

    if text is None:
        return None
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise typer.BadParameter("no model is named; leave it out for all", param_hint="--models")
    catalog = configuration.load_catalog(settings)
    for name in sorted(names):
        catalog.find(name)
    return names


def _expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return moments.parse_expiry(text, now=datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from None


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
