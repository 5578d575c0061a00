"""GET /v1/models."""

from __future__ import annotations

from typing import Any

import fastapi

from gateway.dialects.openai.errors import RESPONSES, answer
from gateway.dialects.route import KeyDep, json_response, route_class
from gateway.services import ServicesDep
from tollgate.domain.errors import UnknownModelError
from tollgate.domain.routing import Model

CREATED = 1_700_000_000
"""Unix seconds: clients want one, and models have none here."""

router = fastapi.APIRouter(prefix="/v1", tags=["OpenAI"], route_class=route_class(answer), responses=RESPONSES)


@router.get("/models")
async def list_models(services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """The models this key may use."""
    allowed = [m for m in services.catalog.models.values() if key.may_use(m.name, *m.aliases)]
    return json_response({"object": "list", "data": [_model(model, name=model.name) for model in allowed]})


@router.get("/models/{model}")
async def retrieve_model(model: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """One of them, by its name or an alias."""
    found = services.catalog.find(model)
    if not key.may_use(found.name, *found.aliases):
        raise UnknownModelError(model, known=())
    return json_response(_model(found, name=model))


def _model(model: Model, *, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": model.routes[0].upstream}
