"""/models and /prices: what may be asked for, and what it costs now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import fastapi

from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.route import KeyDep, json_response, route_class
from gateway.services import Services, ServicesDep
from tollgate.domain import shown
from tollgate.domain.prices import Price, PriceTable, Tier
from tollgate.domain.routing import Model
from tollgate.store import price_list

router = fastapi.APIRouter(tags=["models"], route_class=route_class(answer), responses=RESPONSES)


@router.get("/models")
async def list_models(services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """The models this key may use, each with where it runs and its price now, per million tokens or by the second."""
    prices = await _prices(services)
    models = services.catalog.models.values()
    allowed = [m for m in models if key.may_use(m.name, *m.aliases)]
    return json_response({"object": "list", "data": [_model(services, prices, model) for model in allowed]})


@router.get("/prices")
async def list_prices(services: ServicesDep, _key: KeyDep) -> fastapi.Response:
    """The price versions in force now, per million tokens or by the second of an engine's time."""
    prices, now = await _prices(services), datetime.now(UTC)
    routes = sorted({(r.upstream, r.model) for m in services.catalog.models.values() for r in m.routes})
    in_force = [price for route in routes if (price := prices.find(*route, at=now))]
    data = [
        {
            "id": price.id,
            "upstream": price.upstream,
            "model": price.model,
            "valid_from": render.time(price.valid_from),
            "tiers": [_tier(tier) for tier in price.tiers],
            "engine": shown.engine(price.engine),
        }
        for price in in_force
    ]
    return json_response({"object": "list", "currency": services.settings.currency, "data": data})


async def _prices(services: Services) -> PriceTable:
    async with services.database.read() as connection:
        return await price_list.load(connection)


def _model(services: Services, prices: PriceTable, model: Model) -> dict[str, Any]:
    route = model.routes[0]
    price = prices.find(route.upstream, route.model, at=datetime.now(UTC))
    return {
        "id": model.name,
        "object": "model",
        "endpoint": ",".join(sorted(model.endpoints)),
        "routes": [one.id for one in model.routes],
        "fallback_on": sorted(model.fallback_on) if len(model.routes) > 1 else [],
        "fallback_after": model.fallback_after,
        "place": services.catalog.place(route),
        "max_output_tokens": model.max_output_tokens,
        "context_tokens": model.context_tokens,
        "deprecated": model.deprecated,
        "aliases": list(model.aliases),
        "price": _price(price) if price else None,
    }


def _price(price: Price) -> dict[str, Any]:
    tiers = [_tier(tier) for tier in price.tiers]
    return {"currency": price.currency, "tiers": tiers, "engine": shown.engine(price.engine)}


def _tier(tier: Tier) -> dict[str, Any]:
    return {
        "name": tier.name,
        "input": render.money(tier.input_nano),
        "output": render.money(tier.output_nano),
        "cached": render.money(tier.cached_rate_nano),
        "min_prompt_tokens": tier.min_prompt_tokens,
        "max_prompt_tokens": tier.max_prompt_tokens,
        "min_completion_tokens": tier.min_completion_tokens,
        "max_completion_tokens": tier.max_completion_tokens,
    }
