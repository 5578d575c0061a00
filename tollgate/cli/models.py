"""`tollgate models`: what may be asked for, and whether the two files agree."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tollgate.cli import convert, exits, options, output

if TYPE_CHECKING:
    from tollgate.domain.prices import Price
    from tollgate.domain.routing import Catalog, Model, Route
    from tollgate.settings import Settings

Json = dict[str, Any]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Quantized = Literal["none", "int8", "nf4"]
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="List, check and convert the models.")


def register(root: typer.Typer) -> None:
    """Add the family to `root`."""
    convert.register(app)
    root.add_typer(app, name="models", rich_help_panel="Administration")


@app.command("list")
def list_models(
    offline: Annotated[
        bool, typer.Option("--offline", help="From models.toml and prices.toml here, no gateway.")
    ] = False,
    as_json: options.AsJson = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """List the models that the key may use, where each runs, and its price now.

    Examples:
      tollgate models list
      tollgate models list --offline --json
    """
    if offline:
        found = from_files(options.settings(data))
    else:
        with options.gateway(url=url, key=key, data=data) as gateway:
            found = gateway.models()
    if as_json:
        output.json_line(found)
        return
    table = output.table("model", "endpoint", "routes", ("input", "right"), ("output", "right"), "remarks")
    for model in found:
        table.add_row(model["id"], model["endpoint"], ", ".join(model["routes"]), *prices_of(model), remarks_of(model))
    output.console().print(table)


@app.command()
def check(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|MODEL",
            help="A models.toml (default: TOLLGATE_MODELS_FILE, else the built-in one), or a model for a device of "
            "one's own: its folder, or its name on the Hugging Face hub.",
        ),
    ] = None,
    prices: Annotated[Path | None, typer.Option(metavar="FILE", help="A price file to check with models.toml.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Default: TOLLGATE_LOCAL_DTYPE.")] = None,
    quantization: Annotated[Quantized | None, typer.Option(help="Default: TOLLGATE_LOCAL_QUANTIZATION.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Answers at once. Default: what fits.")] = None,
    context_tokens: Annotated[
        int | None, typer.Option(min=1, help="Prompt and answer of one slot. Default: what fits.")
    ] = None,
    device_memory: Annotated[
        str | None, typer.Option(metavar="24GB", help="Of another machine's GPU. Default: what is free here.")
    ] = None,
    as_json: options.AsJson = False,
    data: options.Data = None,
) -> None:
    """Read models.toml and prices.toml together, or a model's checkpoint before it is loaded.

    Of the two files: which models have no price, which upstreams no key. Exit code 0 if both are good.

    Of a checkpoint: what it is, whether the local engine runs it, what it needs of a device's memory, and what to do
    if it does not fit. Exit code 1 if it cannot be served, or does not fit.

    Examples:
      tollgate models check models.toml --prices prices.toml
      tollgate models check zai-org/glm-4-9b-chat-hf --device-memory 24GB
      tollgate models check /models/glm-4-9b-chat-hf --quantization nf4 --json
    """
    settings = options.settings(data)
    of_checkpoint = {
        "--dtype": dtype,
        "--quantization": quantization,
        "--slots": slots,
        "--context-tokens": context_tokens,
        "--device-memory": device_memory,
        "--json": as_json or None,
    }
    if what is None or what.endswith(".toml") or Path(what).is_file():
        _refuse(of_checkpoint, why="asks about a checkpoint: name its folder, or its name on the hub")
        check_files(settings, file=_models_file(what), prices=prices)
        return
    _refuse({"--prices": prices}, why="is checked with a models.toml, not with a checkpoint")
    from tollgate.cli import checkpoints

    chosen = {
        "local_dtype": dtype,
        "local_quantization": quantization,
        "local_slots": slots,
        "local_context_tokens": context_tokens,
    }
    settings = settings.model_copy(update={name: value for name, value in chosen.items() if value is not None})
    told = checkpoints.report(what, settings, device_memory=device_memory)
    if as_json:
        output.json_line(told)
    else:
        checkpoints.show(told)
    raise typer.Exit(exits.FAILED if not told["servable"] or told["fits"] is False else exits.OK)


def _refuse(given: Mapping[str, object], *, why: str) -> None:
    """Raises SettingsError: an option that would be passed over."""
    from tollgate.domain.errors import SettingsError

    for option, value in given.items():
        if value is not None:
            raise SettingsError(f"{option} {why}")


def _models_file(what: str | None) -> Path | None:
    """Raises SettingsError: it is one of a checkpoint's files."""
    from tollgate.domain.errors import SettingsError

    if what is None:
        return None
    file = Path(what)
    if file.suffix != ".toml" and (file.parent / "config.json").is_file():
        raise SettingsError(f"{file} is one file of a checkpoint: name the folder, {file.parent}")
    return file


def check_files(settings: Settings, *, file: Path | None, prices: Path | None) -> None:
    """Print what there is in models.toml and prices.toml, and what is worth knowing about them."""
    from tollgate import configuration

    chosen = {"models_file": file, "prices_file": prices}
    settings = settings.model_copy(update={name: path for name, path in chosen.items() if path is not None})
    catalog, listed = configuration.load_catalog(settings), configuration.load_prices(settings)
    counts = (
        output.count(len(catalog.models), "model"),
        output.count(len(catalog.upstreams), "upstream"),
        output.count(len(listed), "price"),
    )
    print(f"{', '.join(counts)}: good")
    for line in findings(catalog, listed, settings.environment):
        print(line)


def findings(catalog: Catalog, prices: list[Price], environment: dict[str, str] | Any) -> list[str]:
    """What is worth knowing about two good files, a line each."""
    from worker.upstreams import registry

    found = [f"unpriced: {name} (counts as costing nothing)" for name in unpriced(catalog, prices)]
    found += [
        f"unpriced fallback: {name} (no task with a budget in money goes there)" for name in unbuyable(catalog, prices)
    ]
    for spec in catalog.upstreams.values():
        if spec.credentials and not registry.secrets_of(spec, environment):
            names = " or ".join(name for credential in spec.credentials for name in credential.variables)
            found.append(f"no key: upstream {spec.name} (set {names}); its tasks wait")
    found += [
        f"by the second, but not local: {name} (it tells no time of its engine; costs are estimates by tokens)"
        for name in timeless(catalog, prices)
    ]
    found += [fallbacks_of(model) for model in catalog.models.values() if len(model.routes) > 1]
    routed = {(route.upstream, route.model) for model in catalog.models.values() for route in model.routes}
    strays = sorted({f"{p.upstream}/{p.model}" for p in prices if (p.upstream, p.model) not in routed})
    return found + [f"priced, but no model's route: {name}" for name in strays]


def fallbacks_of(model: Model) -> str:
    """Where its tasks go, and when."""
    first, *others = (route.id for route in model.routes)
    if not model.fallback_on:
        return f"no fallback: model {model.name} stays on {first} (fallback_on is empty)"
    tries = f"{model.fallback_after} tries" if model.fallback_after > 1 else "1 try"
    causes = ", ".join(sorted(model.fallback_on))
    return f"fallback: model {model.name} goes from {first} to {', '.join(others)} on {causes} (after {tries})"


def unpriced(catalog: Catalog, prices: list[Price]) -> list[str]:
    """Models with a route that has no price in force."""
    return [model.name for model in catalog.models.values() if without_price(model.routes, prices)]


def unbuyable(catalog: Catalog, prices: list[Price]) -> list[str]:
    """Routes after a model's first that have no price in force."""
    return sorted({route.id for m in catalog.models.values() for route in without_price(m.routes[1:], prices)})


def timeless(catalog: Catalog, prices: list[Price]) -> list[str]:
    """Routes with a price by the second, whose upstreams are not engines of this installation."""
    routes = {(route.upstream, route.model): route for model in catalog.models.values() for route in model.routes}
    by_the_second = {(price.upstream, price.model) for price in prices if price.engine is not None}
    return sorted(routes[one].id for one in by_the_second & routes.keys() if catalog.place(routes[one]) != "local")


def without_price(routes: tuple[Route, ...], prices: list[Price]) -> list[Route]:
    from tollgate.domain.prices import PriceTable

    table, now = PriceTable(prices), datetime.now(UTC)
    return [route for route in routes if table.find(route.upstream, route.model, at=now) is None]


def from_files(settings: Settings) -> list[Json]:
    """As GET /models answers, from the files here."""
    from tollgate import configuration
    from tollgate.cli import prices
    from tollgate.domain.prices import PriceTable

    catalog, now = configuration.load_catalog(settings), datetime.now(UTC)
    table = PriceTable(configuration.load_prices(settings))
    found = []
    for model in catalog.models.values():
        price = table.find(model.routes[0].upstream, model.routes[0].model, at=now)
        found.append(
            {
                "id": model.name,
                "endpoint": ",".join(sorted(model.endpoints)),
                "routes": [route.id for route in model.routes],
                "fallback_on": sorted(model.fallback_on) if len(model.routes) > 1 else [],
                "fallback_after": model.fallback_after,
                "place": catalog.place(model.routes[0]),
                "max_output_tokens": model.max_output_tokens,
                "context_tokens": model.context_tokens,
                "deprecated": model.deprecated,
                "aliases": list(model.aliases),
                "price": _price(prices.as_object(price)) if price else None,
            }
        )
    return found


def _price(told: Json) -> Json:
    return {name: told[name] for name in ("currency", "tiers", "engine")}


def prices_of(model: Json) -> tuple[str, str]:
    """Input and output, of the first tier where there are several; or a second of the engine."""
    price = model["price"]
    if not price:
        return ("unpriced", "unpriced")
    if price["engine"]:
        return (f"{output.money(price['engine']['second'])}/s", "-")
    first, more = price["tiers"][0], "+" if len(price["tiers"]) > 1 else ""
    if first["input"] == first["output"] == "0":
        return ("free", "free")
    return (output.money(first["input"]) + more, output.money(first["output"]) + more)


def remarks_of(model: Json) -> str:
    parts = ["on a local device"] if model.get("place") == "local" else []
    parts += [f"also {', '.join(model['aliases'])}"] if model.get("aliases") else []
    if len(model["routes"]) > 1:
        on = model.get("fallback_on")
        parts.append(f"falls back on {', '.join(on)} after {model['fallback_after']}" if on else "never falls back")
    if model.get("deprecated"):
        parts.append(f"deprecated: {model['deprecated']}")
    return "; ".join(parts)
