"""What /openapi.json adds to what FastAPI reads off the routes: bodies that the dialects parse themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import fastapi
import pydantic
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

import tollgate

DESCRIPTION = (
    "An async job gateway for large language models: a prompt in, a task id out, its result and its cost back.\n\n"
    "Authorization: `Bearer id.secret`, or ZhipuAI's JWT signed with the secret."
)
SCHEME = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "id.secret, or a JWT",
        "description": "`id.secret`, as it was made",
    }
}
NEEDS_KEY: dict[str, Any] = {"security": [{"key": []}]}
"""Of a route's `openapi_extra`. `authentication` reads the header itself: a JWT may come without `Bearer`."""
REF = "#/components/schemas/{model}"
Schema = type[pydantic.BaseModel]


def body_of(schema: Schema, *, or_list: bool = False) -> dict[str, Any]:
    """A route's `openapi_extra`: it takes a `schema` as JSON, or a list of them.

    The schema itself is one of the `bodies` of `document`."""
    one = {"$ref": REF.format(model=schema.__name__)}
    taken = {"anyOf": [one, {"type": "array", "items": one}]} if or_list else one
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": taken}}}}


def upload_of(*required: str, raw: bool = False) -> dict[str, Any]:
    """A route's `openapi_extra`: it takes a form with a file; with `raw` the file as it is, too."""
    fields = {
        "purpose": {"type": "string", "enum": ["batch"]},
        "file": {"type": "string", "format": "binary", "description": "JSONL, not compressed"},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer"},
    }
    form = {"type": "object", "properties": fields, "required": ["file", *required]}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if raw:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


def error_answers(error: Schema) -> dict[int | str, dict[str, Any]]:
    """A router's `responses`: every error of its routes. FastAPI would promise a 422 that never comes."""
    return {"default": {"model": error, "description": "what is wrong"}}


def document(app: fastapi.FastAPI, *, bodies: Iterable[Schema]) -> dict[str, Any]:
    """The OpenAPI document of `app`, whose routes take these bodies."""
    made = get_openapi(
        title="Tollgate",
        version=tollgate.__version__,
        description=DESCRIPTION,
        routes=app.routes,
    )
    _, schemas = models_json_schema([(schema, "validation") for schema in bodies], ref_template=REF)
    made["components"]["schemas"] |= schemas["$defs"]
    made["components"]["securitySchemes"] = SCHEME
    return made
