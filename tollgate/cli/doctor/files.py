"""models.toml and prices.toml."""

from __future__ import annotations

from tollgate import configuration
from tollgate.cli import models
from tollgate.cli.doctor.report import Check, fail, ok, warn
from tollgate.cli.output import count, listed
from tollgate.domain.errors import SettingsError
from tollgate.domain.routing import Catalog
from tollgate.settings import Settings


def check(settings: Settings) -> tuple[Catalog | None, list[Check]]:
    """The catalog, if it can be read, and a check for each file."""
    checks: list[Check] = []
    catalog = None
    try:
        catalog = configuration.load_catalog(settings)
        source = settings.models_file or "built-in"
        found = f"{source}: {count(len(catalog.models), 'model')}, {count(len(catalog.upstreams), 'upstream')}"
        checks.append(ok("models file", found))
    except SettingsError as error:
        checks.append(fail("models file", str(error), fix="correct it; `tollgate models check FILE` reads it again"))
    try:
        checks.append(_prices(settings, catalog))
    except SettingsError as error:
        checks.append(fail("prices file", str(error), fix="correct it; `tollgate prices check FILE` reads it again"))
    return catalog, checks


def _prices(settings: Settings, catalog: Catalog | None) -> Check:
    prices = configuration.load_prices(settings)
    found = f"{settings.prices_file or 'built-in'}: {count(len(prices), 'price')} in {settings.currency}"
    without = models.unpriced(catalog, prices) if catalog else []
    if without:
        fix = "add their prices to prices.toml: without one their cost counts as nothing"
        return warn("prices file", f"{found}; unpriced: {listed(without)}", fix=fix)
    return ok("prices file", found)
