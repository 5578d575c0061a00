"""What servers read at their start: the two files that say what runs where and what it costs (the user's, or the ones
that come with Tollgate), and the master keys."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

from tollgate.domain.errors import SettingsError
from tollgate.domain.keys import MasterKey, parse_master_keys
from tollgate.domain.model_file import parse_catalog
from tollgate.domain.price_file import parse_prices
from tollgate.domain.prices import Price
from tollgate.domain.routing import Catalog
from tollgate.settings import Settings


def load_catalog(settings: Settings) -> Catalog:
    """models.toml. Raises SettingsError with the file, the entry and the fix."""
    text, source = _read(settings.models_file, "models.toml", variable="TOLLGATE_MODELS_FILE")
    catalog = parse_catalog(text, source=source)
    return _with_tokenizers(catalog, settings.models_file)


def load_prices(settings: Settings) -> list[Price]:
    """prices.toml. Raises SettingsError with the file, the entry and the fix."""
    text, source = _read(settings.prices_file, "prices.toml", variable="TOLLGATE_PRICES_FILE")
    return parse_prices(text, source=source, currency=settings.currency)


def master_keys(settings: Settings) -> tuple[MasterKey, ...]:
    """Of the settings. Raises SettingsError where there is none: every key would be refused, nothing signed."""
    if settings.master_key is None:
        raise SettingsError(
            "TOLLGATE_MASTER_KEY is not set; make one, and keep it: every API key, and what signs webhooks, is derived "
            "from it:\n  python -c 'import secrets; print(secrets.token_urlsafe(48))'\n"
            "Gateways and beats need the same one"
        )
    return parse_master_keys(settings.master_key.get_secret_value())


def _with_tokenizers(catalog: Catalog, path: Path | None) -> Catalog:
    """Their files are named from where models.toml is."""
    if path is None:
        return catalog
    models = {
        name: replace(model, tokenizer=str(path.parent / model.tokenizer)) if model.tokenizer else model
        for name, model in catalog.models.items()
    }
    return replace(catalog, models=models)


def _read(path: Path | None, builtin: str, *, variable: str) -> tuple[str, str]:
    if path is None:
        return (resources.files("tollgate") / "data" / builtin).read_text(encoding="utf-8"), f"built-in {builtin}"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: cannot read {path}: {error}") from error
