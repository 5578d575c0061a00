"""/openapi.json: whole, true, and of every route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.gate import V4, Gate
from tests.gateway.test_authentication import OPEN, routes


@pytest.fixture
async def document(sqlite_gate: Gate) -> Any:
    return (await sqlite_gate.http.get("/openapi.json")).json()


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def operations(document: Any) -> dict[tuple[str, str], Any]:
    return {(method.upper(), path): told for path, item in document["paths"].items() for method, told in item.items()}


async def test_every_route_is_in_it(sqlite_gate: Gate, document: Any) -> None:
    docs = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
    assert set(operations(document)) == {route for route in routes(sqlite_gate.app) if route[1] not in docs}


async def test_every_reference_leads_somewhere(document: Any) -> None:
    references = {node["$ref"] for node in walk(document) if isinstance(node.get("$ref"), str)}
    assert len(references) >= 6
    for reference in references:
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert target, reference
    assert not [node for node in walk(document) if "$defs" in node], "a schema's own definitions are out of reach"


async def test_operations_have_what_openapi_asks_of_them(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    told = operations(document).values()
    assert len({operation["operationId"] for operation in told}) == len(told)
    for (_, path), operation in operations(document).items():
        assert operation["responses"]
        named = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}


async def test_a_key_is_asked_for_as_http_bearer_but_for_health(document: Any) -> None:
    (scheme,) = document["components"]["securitySchemes"].items()
    assert (scheme[1]["type"], scheme[1]["scheme"]) == ("http", "bearer")
    for (_, path), operation in operations(document).items():
        assert operation.get("security") == (None if path in OPEN else [{scheme[0]: []}]), path


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/tasks", "TaskBody"),
        ("/keys", "KeyBody"),
        ("/projects", "ProjectBody"),
        ("/budgets", "BudgetBody"),
        (V4 + "/chat/completions", "ChatBody"),
        (V4 + "/async/chat/completions", "ChatBody"),
    ],
)
async def test_bodies_are_described(document: Any, path: str, schema: str) -> None:
    method = "PUT" if path == "/budgets" else "POST"
    body = operations(document)[method, path]["requestBody"]
    assert body["required"]
    references = {node["$ref"] for node in walk(body) if "$ref" in node}
    assert references == {f"#/components/schemas/{schema}"}


async def test_a_task_shows_its_fields_with_their_ranges(document: Any) -> None:
    task = document["components"]["schemas"]["TaskBody"]
    assert {"model", "messages", "prompt", "temperature", "request_id", "run_after", "on_uncertain"} <= set(
        task["properties"]
    )
    assert task["properties"]["temperature"]["description"] == "a number from 0 to 1"
    assert task["required"] == ["model"]
    assert task["oneOf"] == [{"required": ["messages"]}, {"required": ["prompt"]}]


async def test_errors_are_promised_as_they_come(document: Any) -> None:
    for (_, path), operation in operations(document).items():
        assert "422" not in operation["responses"]
        if path not in OPEN:
            error = operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"]
            assert error.removeprefix("#/components/schemas/") == error_of(path)
    assert not [name for name in document["components"]["schemas"] if "Validation" in name]


def error_of(path: str) -> str:
    dialects = {"/api/paas/v3": "V3Error", V4: "ZhipuError", "/v1/": "OpenAIError"}
    return next((error for prefix, error in dialects.items() if path.startswith(prefix)), "Error")


async def test_the_docs_pages_are_served(sqlite_gate: Gate) -> None:
    for path in ("/docs", "/redoc"):
        assert (await sqlite_gate.http.get(path)).headers["content-type"].startswith("text/html")
