"""prices.toml: from its text to `Price` values. What is wrong in it is a SettingsError that says where.

The format is explained to its users at the head of `tollgate/data/prices.toml`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

from tollgate.domain.engine_rates import ALONE, EngineRate
from tollgate.domain.money import NANO, to_nano
from tollgate.domain.prices import DEFAULT_BATCH_FACTOR, Price, Tier
from tollgate.domain.routing import MODEL_NAME, UPSTREAM_NAME
from tollgate.domain.toml_table import Table, parse_toml

_FILE_KEYS = frozenset({"currency", "price"})
_RATE_KEYS = frozenset({"input", "output", "cached"})
_BOUND_KEYS = frozenset({"min_prompt_tokens", "max_prompt_tokens", "min_completion_tokens", "max_completion_tokens"})
_TIER_KEYS = _RATE_KEYS | _BOUND_KEYS | {"name"}
_ENGINE_KEYS = frozenset({"engine_second", "tokens_per_second", "alone_tokens_per_second"})
_BY_TOKENS = _RATE_KEYS | {"tiers", "batch_factor"}
_ENTRY_KEYS = _BY_TOKENS | _ENGINE_KEYS | {"upstream", "model", "models", "valid_from", "currency"}
_HIGHEST_PRICE = 1_000_000
"""Units of the currency per million tokens: above it, a slip of the unit is likelier than a price."""
_DEAREST_SECOND = 1_000
"""The same, of an engine's second."""


def parse_prices(text: str, *, source: str, currency: str = "CNY") -> list[Price]:
    """The prices in the text of a prices.toml, in its order; an entry of n models gives n prices.

    `currency` is the installation's: a price in another one is refused, since sums would be wrong.
    Raises SettingsError, naming `source`, the entry, and what to write.
    """
    root = parse_toml(text, source=source)
    root.allow(_FILE_KEYS)
    file_currency = root.optional_text("currency") or currency
    prices: list[Price] = []
    seen: dict[tuple[str, str, datetime], str] = {}
    for entry in root.tables("price"):
        for price in _entry(entry, file_currency=file_currency, installation_currency=currency):
            key = (price.upstream, price.model, price.valid_from)
            if key in seen:
                entry.fail(
                    f"{price.upstream}/{price.model} already has a price from {price.valid_from}"
                    f" in {seen[key]}; remove one, or give it a later valid_from"
                )
            seen[key] = entry.where
            prices.append(price)
    return prices


def _entry(entry: Table, *, file_currency: str, installation_currency: str) -> list[Price]:
    models = _models(entry)
    entry = entry.at(f"{entry.where} ({', '.join(models)})")
    entry.allow(_ENTRY_KEYS)
    currency = entry.optional_text("currency") or file_currency
    if currency != installation_currency:
        entry.fail(
            f"the price is in {currency}, but this installation counts in {installation_currency};"
            f" write it in {installation_currency}"
        )
    upstream, valid_from = _upstream(entry), _valid_from(entry)
    engine = _engine(entry)
    tiers, batch_factor = ((), Fraction(1)) if engine else (_tiers(entry), _batch_factor(entry))
    return [
        Price(
            upstream=upstream,
            model=model,
            valid_from=valid_from,
            currency=currency,
            tiers=tiers,
            engine=engine,
            batch_factor=batch_factor,
        )
        for model in models
    ]


def _models(entry: Table) -> tuple[str, ...]:
    if entry.has("model") and entry.has("models"):
        entry.fail("has both model and models; write one of them")
    models = entry.texts("models") if entry.has("models") else (entry.text("model"),)
    for model in models:
        if not MODEL_NAME.fullmatch(model):
            entry.fail(f"the model {model!r} must be 1 to 128 letters, digits, '.', '_', ':', '/' or '-'")
    return models or entry.fail('models is empty; write models = ["..."]')


def _upstream(entry: Table) -> str:
    upstream = entry.text("upstream")
    if not UPSTREAM_NAME.fullmatch(upstream):
        entry.fail(f"upstream {upstream!r} must be 1 to 64 letters, digits, '.', '_' or '-'")
    return upstream


def _valid_from(entry: Table) -> datetime:
    """A date means its midnight in UTC; a time with an offset is turned to UTC."""
    value = entry.values.get("valid_from")
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    problem = "is missing" if value is None else f"is {value!r}"
    return entry.fail(f"valid_from {problem}; write a date without quotes: valid_from = 2024-01-01")


def _batch_factor(entry: Table) -> Fraction:
    if not entry.has("batch_factor"):
        return DEFAULT_BATCH_FACTOR
    factor = entry.decimal("batch_factor")
    if factor > 1 or factor.adjusted() < -9:
        entry.fail(f'batch_factor is {factor}; write a number from 0 to 1, such as "0.5"')
    return Fraction(factor)


def _engine(entry: Table) -> EngineRate | None:
    """A price by the second; None: the entry has one by tokens."""
    rate = next((key for key in sorted(_ENGINE_KEYS - {"engine_second"}) if entry.has(key)), None)
    if not entry.has("engine_second"):
        if rate is not None:
            entry.fail(f'{rate} goes with a price by the second; write engine_second = "0.0025" too')
        return None
    for key in sorted(_BY_TOKENS):
        if entry.has(key):
            entry.fail(f"has engine_second and {key}; a price is by the second or by tokens, so write one of them")
    busy = entry.optional_count("tokens_per_second", least=1)
    if busy is None:
        entry.fail("tokens_per_second is missing; write what the whole engine makes: tokens_per_second = 1500")
    alone = entry.count("alone_tokens_per_second", default=max(1, busy // ALONE), least=1, most=busy)
    return EngineRate(second_nano=_second(entry), tokens_per_second=busy, alone_tokens_per_second=alone)


def _second(entry: Table) -> int:
    amount = entry.decimal("engine_second")
    if amount > _DEAREST_SECOND:
        entry.fail(f"engine_second is {amount}; it is the price of one second, and at most {_DEAREST_SECOND}")
    return _nano(entry, "engine_second", amount)


def _tiers(entry: Table) -> tuple[Tier, ...]:
    if not entry.has("tiers"):
        return (_tier(entry, name="flat"),)
    if any(entry.has(key) for key in _RATE_KEYS):
        entry.fail("has tiers and a price of its own; write input, output and cached inside the tiers")
    tables = entry.tables("tiers")
    if not tables:
        entry.fail('tiers is empty; write tiers = [ { input = "1", output = "2" } ]')
    for table in tables:
        table.allow(_TIER_KEYS)
    tiers = tuple(_tier(table, name=_name(table)) for table in tables)
    _refuse_disorder(entry, tiers)
    return tiers


def _tier(table: Table, *, name: str) -> Tier:
    tier = Tier(
        name=name,
        min_prompt_tokens=table.count("min_prompt_tokens", default=0),
        max_prompt_tokens=table.optional_count("max_prompt_tokens", least=1),
        min_completion_tokens=table.count("min_completion_tokens", default=0),
        max_completion_tokens=table.optional_count("max_completion_tokens", least=1),
        input_nano=_rate(table, "input"),
        output_nano=_rate(table, "output"),
        cached_nano=_rate(table, "cached") if table.has("cached") else None,
    )
    for kind, least, end in (
        ("prompt", tier.min_prompt_tokens, tier.max_prompt_tokens),
        ("completion", tier.min_completion_tokens, tier.max_completion_tokens),
    ):
        if end is not None and end <= least:
            table.fail(f"max_{kind}_tokens {end} must be above min_{kind}_tokens {least}")
    return tier


def _rate(table: Table, key: str) -> int:
    amount = table.decimal(key)
    if amount > _HIGHEST_PRICE:
        table.fail(f"{key} is {amount}; prices are per million tokens, and at most {_HIGHEST_PRICE}")
    return _nano(table, key, amount)


def _nano(table: Table, key: str, amount: Decimal) -> int:
    nano = to_nano(amount)
    if Fraction(nano, NANO) != amount:
        table.fail(f"{key} is {amount}; write at most nine digits after the point")
    return nano


def _name(table: Table) -> str:
    """The tier's name, or its bounds in words: "prompt 0-31999, completion 200+"."""
    parts = []
    for kind in ("prompt", "completion"):
        least = table.count(f"min_{kind}_tokens", default=0)
        end = table.optional_count(f"max_{kind}_tokens", least=1)
        if least or end is not None:
            parts.append(f"{kind} {least}+" if end is None else f"{kind} {least}-{end - 1}")
    return table.optional_text("name") or ", ".join(parts) or "flat"


def _refuse_disorder(entry: Table, tiers: tuple[Tier, ...]) -> None:
    """Tiers must rise and not overlap, so that the last one, which also bills what none fits, is the longest."""
    lows = [(tier.min_prompt_tokens, tier.min_completion_tokens) for tier in tiers]
    if lows != sorted(lows):
        entry.fail("the tiers are not in order; write the shortest prompts first, the longest last")
    for number, tier in enumerate(tiers):
        for other in tiers[:number]:
            if _overlap(tier, other):
                entry.fail(
                    f"tiers {other.name!r} and {tier.name!r} overlap; set their min_ and max_ bounds"
                    " so that no length fits both"
                )


def _overlap(one: Tier, other: Tier) -> bool:
    return _meet(
        one.min_prompt_tokens, one.max_prompt_tokens, other.min_prompt_tokens, other.max_prompt_tokens
    ) and _meet(
        one.min_completion_tokens,
        one.max_completion_tokens,
        other.min_completion_tokens,
        other.max_completion_tokens,
    )


def _meet(least: int, end: int | None, other_least: int, other_end: int | None) -> bool:
    return (end is None or other_least < end) and (other_end is None or least < other_end)
