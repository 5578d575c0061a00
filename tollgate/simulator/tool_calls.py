"""A deterministic tool call: the arguments are made from the function's JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

_DEPTH_MAX = 8
_PLAIN: Mapping[str, object] = {"string": "text", "boolean": True, "null": None}


def call(function: Mapping[str, object], *, digest: str) -> dict[str, object]:
    """A tool call of `function` in ZhipuAI's form; every property of its parameters is filled."""
    arguments = example(function.get("parameters"))
    return {
        "id": f"call_{digest}",
        "index": 0,
        "type": "function",
        "function": {
            "name": function.get("name"),
            "arguments": orjson.dumps(arguments if isinstance(arguments, dict) else {}).decode(),
        },
    }


def example(schema: object, *, depth: int = 0) -> object:
    """A value that fits a plain JSON Schema: const, default or the first of enum where given, else by type."""
    if not isinstance(schema, Mapping) or depth > _DEPTH_MAX:
        return {}
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    return _example_of_type(schema, depth=depth)


def _example_of_type(schema: Mapping[str, object], *, depth: int) -> object:
    kind = schema.get("type")
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        return {name: example(part, depth=depth + 1) for name, part in properties.items()}
    if kind == "array":
        return [example(schema["items"], depth=depth + 1)] if "items" in schema else []
    if kind in {"integer", "number"}:
        return schema.get("minimum", 1)
    return _PLAIN.get(str(kind), {})
