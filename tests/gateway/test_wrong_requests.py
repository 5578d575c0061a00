"""What is meant for nobody, or cannot be read: each dialect's own form, never FastAPI's `detail`, never a 422."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.querying import read_task
from tests.gateway.gate import V4, Gate, one, refusal


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 404, None),
        ("GET", "/nothing", 404, None),
        ("GET", "/tasks/", 404, None),
        ("POST", "/tasks/", 404, None),
        ("GET", "/tasks/a/b", 404, None),
        ("PUT", "/tasks", 405, {"GET", "POST"}),
        ("DELETE", "/usage", 405, {"GET"}),
        ("POST", "/healthz", 405, {"GET"}),
    ],
)
async def test_the_native_api_answers_what_is_no_route_in_its_own_form(
    sqlite_gate: Gate, method: str, path: str, status: int, allow: set[str] | None
) -> None:
    caller = await sqlite_gate.caller()
    response = await caller.send(method, path)
    assert refusal(response, status)["type"] == ("not_found" if status == 404 else "invalid_request")
    if allow:
        assert set(response.headers["Allow"].split(", ")) <= allow


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", V4, 404, "1222"),
        ("POST", V4 + "/videos/generations", 404, "1222"),
        ("POST", V4 + "/chat/completions/", 404, "1222"),
        ("GET", V4 + "/chat/completions", 405, "1200"),
        ("POST", V4 + "/async-result/x", 405, "1200"),
        ("GET", V4 + "/async-result/x?wait=soon", 400, "1214"),
        ("GET", V4 + "/async-result/x?wait=301", 400, "1214"),
    ],
)
async def test_v4_answers_what_is_no_route_in_its_own_form(
    sqlite_gate: Gate, method: str, path: str, status: int, code: str
) -> None:
    caller = await sqlite_gate.caller()
    refused = refusal(await caller.send(method, path), status)
    assert set(refused) == {"code", "message"}
    assert refused["code"] == code


@pytest.mark.parametrize(
    ("asked", "field", "allowed"),
    [
        ("/tasks/x?wait=soon", "wait", "a valid number"),
        ("/tasks/x?wait=301", "wait", "less than or equal to 300"),
        ("/tasks?after=nope", "after", "an id, as lists show it"),
        ("/webhooks/deliveries?webhook=nope", "webhook", "an id, as lists show it"),
    ],
)
async def test_a_wrong_query_parameter_says_what_is_allowed(
    sqlite_gate: Gate, asked: str, field: str, allowed: str
) -> None:
    caller = await sqlite_gate.caller()
    refused = refusal(await caller.send("GET", asked), 400)
    assert (refused["field"], refused["allowed"]) == (field, allowed)


async def test_the_content_type_is_not_asked_for(sqlite_gate: Gate) -> None:
    """The SDKs send one with every request, also without a body; scripts send none, or curl's default."""
    key = await sqlite_gate.key()
    for content_type in ("application/x-www-form-urlencoded", "application/json; charset=UTF-8", "text/plain"):
        headers = {"Authorization": key, "Content-Type": content_type}
        body = b'{"model":"glm-4.7","prompt":"hi"}'
        assert (await sqlite_gate.http.post("/tasks", content=body, headers=headers)).status_code == 202
        assert (await sqlite_gate.http.get("/tasks", headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/tasks", V4 + "/async/chat/completions"])
async def test_a_form_is_no_json(sqlite_gate: Gate, path: str) -> None:
    response = await sqlite_gate.http.post(
        path, data={"model": "x"}, headers={"Authorization": await sqlite_gate.key()}
    )
    refusal(response, 400)


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/tasks/{id}", {"type": "internal"}), (V4 + "/async-result/{id}", {"code": "500"})],
)
async def test_an_error_of_our_own_tells_nothing_of_the_inside(
    sqlite_gate: Gate, monkeypatch: pytest.MonkeyPatch, path: str, shown: dict[str, str]
) -> None:
    caller = await sqlite_gate.caller()
    task_id = await caller.id_of()

    async def broken(*_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError("a secret of the inside")

    # No input is known to break a route; what would is met by this.
    for module in ("native.tasks", "zhipu_v4.routes"):
        monkeypatch.setattr(f"gateway.dialects.{module}.{read_task.__name__}", broken)
    refused = refusal(await caller.send("GET", path.format(id=task_id)), 500)
    assert shown.items() <= refused.items()
    assert "secret" not in str(refused)


async def test_a_head_and_a_body_on_get_do_no_harm(sqlite_gate: Gate) -> None:
    caller = await sqlite_gate.caller()
    assert (await caller.send("GET", "/tasks", body=one())).status_code == 200
    assert (await caller.send("HEAD", "/tasks")).status_code == 405
