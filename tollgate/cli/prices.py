"""`tollgate prices`: what models cost, and the price file's way into the database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import installation, options, output

if TYPE_CHECKING:
    from tollgate.domain.prices import Price, PriceTable, Tier
    from tollgate.settings import Settings

ABOUT = """List the prices in force; check and publish a price file.

Examples:
  tollgate prices
  tollgate prices --offline --json
"""

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode="rich",
    help=ABOUT,
)
File = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="Default: TOLLGATE_PRICES_FILE, else the built-in prices.toml.")
]
Offline = Annotated[bool, typer.Option("--offline", help="From the price file, not from the database.")]


def register(root: typer.Typer) -> None:
    """Add the family to `root`."""
    root.add_typer(app, name="prices", rich_help_panel="Administration")


@app.callback()
def show(
    context: typer.Context, offline: Offline = False, as_json: options.AsJson = False, data: options.Data = None
) -> None:
    if context.invoked_subcommand is not None:
        return
    settings = options.settings(data)
    in_force = _in_force(settings, offline=offline)
    if as_json:
        output.json_line([as_object(price) for price in in_force])
        return
    console = output.console()
    console.print(table(in_force, settings.currency))


@app.command()
def check(file: File = None, data: options.Data = None) -> None:
    """Read a price file and say what is in it, or what is wrong with it.

    Examples:
      tollgate prices check prices.toml
    """
    settings, prices = load(options.settings(data), file)
    models = {(price.upstream, price.model) for price in prices}
    future = sum(price.valid_from > datetime.now(UTC) for price in prices)
    counted = f"{output.count(len(prices), 'price')} for {output.count(len(models), 'model')} in {settings.currency}"
    print(f"{counted}, {future} not in force yet: good")


@app.command()
def publish(file: File = None, data: options.Data = None) -> None:
    """Write a price file's versions to the database. A running worker bills by them within a minute.

    Versions that are there stay: what was billed keeps the price it was billed at.

    Examples:
      tollgate prices publish prices.toml
    """
    settings, prices = load(options.settings(data), file)
    added = options.run(_publish(settings, prices))
    print(f"{output.count(added, 'new price version')} published, {len(prices) - added} known before")


def load(settings: Settings, file: Path | None) -> tuple[Settings, list[Price]]:
    """The settings with `file` as their price file, and its prices. Raises SettingsError."""
    from tollgate import configuration

    if file is not None:
        settings = settings.model_copy(update={"prices_file": file})
    return settings, configuration.load_prices(settings)


def table(in_force: list[Price], currency: str) -> Any:
    """A row a tier; a model's name stands in its first row."""
    from tollgate.domain.money import format_nano

    made = output.table(
        "upstream/model",
        "tier",
        ("input", "right"),
        ("output", "right"),
        ("cached", "right"),
        ("batch", "right"),
        "valid from",
        title=f"{currency} per million tokens, in force now",
    )
    for price in in_force:
        if price.engine is not None:
            second = f"{output.money(format_nano(price.engine.second_nano))} a second of the engine"
            since = f"{price.valid_from:%Y-%m-%d}"
            made.add_row(f"{price.upstream}/{price.model}", second, "-", "-", "-", "-", since)
        for number, tier in enumerate(price.tiers):
            name = "" if number else f"{price.upstream}/{price.model}"
            made.add_row(name, *_tier(tier), f"x {float(price.batch_factor):g}", f"{price.valid_from:%Y-%m-%d}")
    return made


def as_object(price: Price) -> dict[str, Any]:
    """For scripts: amounts as decimal strings, per million tokens or by the engine's second."""
    from tollgate.domain import shown
    from tollgate.domain.money import format_nano

    return {
        "id": price.id,
        "upstream": price.upstream,
        "model": price.model,
        "valid_from": price.valid_from.isoformat().replace("+00:00", "Z"),
        "currency": price.currency,
        "batch_factor": str(float(price.batch_factor)),
        "tiers": [
            {
                "name": tier.name,
                "input": format_nano(tier.input_nano),
                "output": format_nano(tier.output_nano),
                "cached": format_nano(tier.cached_rate_nano),
            }
            for tier in price.tiers
        ],
        "engine": shown.engine(price.engine),
    }


def _tier(tier: Tier) -> tuple[str, str, str, str]:
    from tollgate.domain.money import format_nano

    if not (tier.input_nano or tier.output_nano or tier.cached_rate_nano):
        return (tier.name, "free", "free", "free")
    rates = (output.money(format_nano(nano)) for nano in (tier.input_nano, tier.output_nano, tier.cached_rate_nano))
    return (tier.name, *rates)  # type: ignore[return-value]


def _in_force(settings: Settings, *, offline: bool) -> list[Price]:
    """The price of each route of the catalog, and of each model of the price file, now."""
    from tollgate import configuration
    from tollgate.domain.prices import PriceTable

    _, from_file = load(settings, None)
    known = PriceTable(from_file) if offline else options.run(_published(settings))
    catalog = configuration.load_catalog(settings)
    routes = [(route.upstream, route.model) for model in catalog.models.values() for route in model.routes]
    pairs = dict.fromkeys([*routes, *((price.upstream, price.model) for price in from_file)])
    now = datetime.now(UTC)
    return [price for pair in pairs if (price := known.find(*pair, at=now)) is not None]


async def _published(settings: Settings) -> PriceTable:
    from tollgate.store import price_list

    async with installation.store(settings) as database, database.read() as connection:
        return await price_list.load(connection)


async def _publish(settings: Settings, prices: list[Price]) -> int:
    from tollgate.store import price_list

    async with installation.store(settings) as database:
        return await price_list.publish_all(database, prices)
