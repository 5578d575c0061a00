"""Limits of keys: what is refused in each dialect, what every answer tells, and how they are set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker.private_redis import PrivateRedis
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import V4, Caller, Gate, chat, one, open_gate, refusal
from tests.store import seeds
from tollgate.broker.rates import MemoryRates, RedisRates
from tollgate.domain.rates import KeyLimits
from tollgate.domain.states import Role
from tollgate.simulator import SimulatorSettings
from tollgate.store.schema import tasks

V3 = "/api/paas/v3/model-api/glm-4.7"
V3_BODY = {"prompt": [{"role": "user", "content": "hello"}]}
SUBMITS = [
    ("/tasks", one()),
    ("/tasks", [one(), one()]),
    (f"{V4}/async/chat/completions", chat()),
    ("/v1/responses", {"model": "glm-4.7", "input": "hello", "background": True}),
    (f"{V3}/async-invoke", V3_BODY),
]
"""That answer at once, without a worker."""
CALLS = [
    (f"{V4}/chat/completions", chat()),
    (f"{V4}/chat/completions", chat(stream=True)),
    ("/v1/chat/completions", chat()),
    ("/v1/chat/completions", chat(stream=True)),
    ("/v1/responses", {"model": "glm-4.7", "input": "hello"}),
    (f"{V3}/invoke", V3_BODY),
    (f"{V3}/sse-invoke", V3_BODY),
]
MINUTE = KeyLimits(requests_per_minute=2)


@pytest.fixture
async def gate(gate_with: OpenGate) -> AsyncIterator[Gate]:
    """Whose time stands still for its rates."""
    async with gate_with(rates=MemoryRates(clock=lambda: 1000.5)) as opened:
        yield opened


async def send(caller: Caller, path: str, body: Any) -> Any:
    return await caller.send("POST", path, body=body)


def told(response: Any) -> dict[str, str]:
    """Its headers of limits."""
    prefix = "x-ratelimit-"
    return {name.removeprefix(prefix): value for name, value in response.headers.items() if name.startswith(prefix)}


class TestRates:
    @pytest.mark.parametrize(("path", "body"), SUBMITS)
    async def test_every_submit_is_one_request_and_says_what_is_left(self, gate: Gate, path: str, body: Any) -> None:
        caller = await gate.caller(limits=MINUTE)
        for left in ("1", "0"):
            response = await send(caller, path, body)
            assert response.status_code in (200, 202), response.text
            assert told(response) == {"limit-requests": "2", "remaining-requests": left, "reset-requests": "1m1s"}
            assert ("x-task-id" in response.headers) is not isinstance(body, list)
        stored = await seeds.size(gate.database, tasks)
        refused = await send(caller, path, body)
        assert refused.headers["retry-after"] == "60"
        assert told(refused)["remaining-requests"] == "0"
        assert refused.status_code == (200 if path.startswith(V3) else 429)
        assert await seeds.size(gate.database, tasks) == stored, "nothing of it was stored"

    async def test_a_call_that_waits_and_a_stream_tell_it_too(self, gate_with: OpenGate) -> None:
        async with gate_with(simulator=SimulatorSettings(), rates=MemoryRates(clock=lambda: 1000.5)) as working:
            caller = await working.caller(limits=KeyLimits(requests_per_minute=len(CALLS), max_in_flight=50))
            for left, (path, body) in zip(reversed(range(len(CALLS))), CALLS, strict=True):
                response = await send(caller, path, body)
                assert response.status_code == 200, response.text
                assert told(response)["remaining-requests"] == str(left)
                assert told(response)["limit-in-flight"] == "50"
                assert response.headers["x-task-id"], path
            for path, body in CALLS:
                refused = await send(caller, path, body)
                assert int(refused.headers["retry-after"]) > 0
                assert "x-task-id" not in refused.headers

    async def test_the_native_error_names_the_limit(self, gate: Gate) -> None:
        caller = await gate.caller(limits=KeyLimits(requests_per_minute=1))
        await caller.submit(one())
        problem = refusal(await send(caller, "/tasks", one()), 429)
        assert problem == {
            "type": "rate_limited",
            "message": "this key's limit of 1 requests per minute is reached. Send it again in 61 s",
            "limit": "requests_per_minute",
            "limit_value": 1,
            "limit_left": 0,
        }

    async def test_tokens_are_those_of_prompt_and_answer_at_their_most(self, gate: Gate) -> None:
        caller = await gate.caller(limits=KeyLimits(tokens_per_minute=1_000))
        accepted = await send(caller, "/tasks", one(max_tokens=600))
        left = int(told(accepted)["remaining-tokens"])
        assert 350 < left < 400, "less the prompt, estimated"
        refused = await send(caller, "/tasks", one(max_tokens=600))
        assert refusal(refused, 429)["limit"] == "tokens_per_minute"
        assert (told(refused)["remaining-tokens"], refused.headers["retry-after"]) == (str(left), "60")
        assert "x-should-retry" not in refused.headers
        await caller.submit(one(max_tokens=300))

    async def test_a_request_that_never_fits_is_final(self, gate: Gate) -> None:
        caller = await gate.caller(limits=KeyLimits(tokens_per_minute=1_000))
        for body in (one(max_tokens=1_001), one(), [one(max_tokens=600)] * 2):
            refused = await send(caller, "/tasks", body)
            assert "too large for this key's limit of 1000 tokens per minute" in refusal(refused, 429)["message"]
            assert refused.headers["x-should-retry"] == "false"
            assert "retry-after" not in refused.headers

    async def test_bulk_tasks_take_no_tokens(self, gate: Gate) -> None:
        caller = await gate.caller(limits=KeyLimits(tokens_per_minute=1_000))
        response = await send(caller, "/tasks", [one(priority="bulk")] * 5)
        assert response.status_code == 202
        assert told(response) == {"limit-tokens": "1000", "remaining-tokens": "1000", "reset-tokens": "0s"}

    async def test_what_is_wrong_is_not_counted_and_a_repeat_is(self, gate: Gate) -> None:
        caller = await gate.caller(limits=MINUTE)
        for body in (one(model="gpt"), one(temperature=7), [one(), one(model="gpt")], "text"):
            refusal(await send(caller, "/tasks", body), 400)
        await caller.submit(one(request_id="request-1"))
        again = await send(caller, "/tasks", one(request_id="request-1"))
        assert (again.status_code, told(again)["remaining-requests"]) == (200, "0")

    async def test_queries_are_free(self, gate: Gate) -> None:
        caller = await gate.caller(limits=KeyLimits(requests_per_minute=1))
        task_id = await caller.id_of()
        for _ in range(3):
            assert told(await caller.send("GET", f"/tasks/{task_id}")) == {}

    async def test_a_key_without_limits_is_told_of_none_whatever_others_have(self, gate: Gate) -> None:
        await gate.caller(limits=KeyLimits(requests_per_minute=1, max_in_flight=1))
        free = await gate.caller()
        for _ in range(3):
            response = await send(free, "/tasks", one())
            assert (response.status_code, told(response)) == (202, {})


class TestInFlight:
    async def test_at_most_so_many_are_accepted_at_once(self, gate: Gate) -> None:
        caller = await gate.caller(limits=KeyLimits(max_in_flight=10))
        answers = await asyncio.gather(*(send(caller, "/tasks", one()) for _ in range(64)))
        accepted = [answer for answer in answers if answer.status_code == 202]
        assert sorted(int(told(answer)["remaining-in-flight"]) for answer in accepted) == list(range(10))
        refused = [answer for answer in answers if answer.status_code != 202]
        assert {refusal(answer, 429)["limit"] for answer in refused} == {"max_in_flight"}
        assert {answer.headers["retry-after"] for answer in refused} == {"2"}
        assert {tuple(told(answer).items()) for answer in refused} == {
            (("limit-in-flight", "10"), ("remaining-in-flight", "0"))
        }
        assert await seeds.size(gate.database, tasks) == 10

    async def test_one_that_ends_makes_room(self, gate: Gate) -> None:
        caller = await gate.caller(limits=KeyLimits(max_in_flight=1))
        task_id = await caller.id_of()
        refusal(await send(caller, "/tasks", one()), 429)
        await gate.succeed(task_id)
        second = await caller.id_of()
        refusal(await send(caller, "/tasks", one()), 429)
        await caller.post(f"/tasks/{second}/cancel")
        await caller.submit(one())

    async def test_a_project_can_have_a_limit_too(self, gate: Gate) -> None:
        admin, caller = await gate.caller(project="admins", role=Role.ADMIN), await gate.caller()
        given = {"project": "acme", "period": "in_flight", "limit_tasks": 1}
        made = await admin.send("PUT", "/budgets", body=given)
        assert (made.json()["left"], made.json()["starts_on"]) == ({"tasks": 1}, None)
        await caller.submit(one())
        refused = await send(caller, "/tasks", one())
        assert "this project's limit of 1 tasks in flight" in refusal(refused, 429)["message"]
        assert (refused.headers["retry-after"], told(refused)) == ("2", {})
        (stands,) = (await caller.get("/budgets"))["data"]
        assert (stands["reserved_tasks"], stands["limit_tasks"], stands["left"]) == (1, 1, {"tasks": 0})

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"period": "in_flight"}, "limit_tasks"),
            ({"period": "in_flight", "limit_tasks": 1, "limit_cost": "1"}, "limit_cost"),
            ({"period": "in_flight", "limit_tasks": 1, "limit_tokens": 1}, "limit_tokens"),
            ({"period": "total", "limit_tasks": 1}, "limit_tasks"),
            ({"period": "in_flight", "limit_tasks": -1}, "limit_tasks"),
        ],
    )
    async def test_tasks_are_limited_in_flight_and_nothing_else_is(
        self, sqlite_gate: Gate, changes: dict[str, Any], field: str
    ) -> None:
        admin = await sqlite_gate.caller(role=Role.ADMIN)
        refused = await admin.send("PUT", "/budgets", body={"project": "acme", **changes})
        assert refusal(refused, 400)["field"] == field


class TestKeys:
    async def test_limits_are_made_shown_changed_and_lifted(self, gate: Gate) -> None:
        admin = await gate.caller(project="admins", role=Role.ADMIN)
        given = {"requests_per_minute": 1, "tokens_per_minute": 100_000, "max_in_flight": 3}
        made = await admin.post("/keys", {"project": "acme", **given}, status=201)
        assert given.items() <= made.items()
        caller = Caller(http=gate.http, key=made["key"])
        await caller.submit(one())
        refusal(await send(caller, "/tasks", one()), 429)
        changed = await admin.send("PATCH", f"/keys/{made['id']}", body={"requests_per_minute": 2})
        assert (changed.status_code, changed.json()) == (
            200,
            {**{name: made[name] for name in made if name != "key"}, "requests_per_minute": 2},
        )
        await caller.submit(one())
        await admin.send("PATCH", f"/keys/{made['id']}", body={"requests_per_minute": None})
        await caller.submit(one())
        refused = refusal(await send(caller, "/tasks", one()), 429)
        assert refused["limit"] == "max_in_flight"
        lifted = await admin.send("PATCH", f"/keys/{made['id']}", body=dict.fromkeys(given))
        assert dict.fromkeys(given).items() <= lifted.json().items()
        assert told(await send(caller, "/tasks", one())) == {}
        (shown,) = (await admin.get("/keys", project="acme"))["data"]
        assert shown == lifted.json()

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"requests_per_minute": 0}, "requests_per_minute"),
            ({"tokens_per_minute": -1}, "tokens_per_minute"),
            ({"max_in_flight": 1.5}, "max_in_flight"),
            ({"max_in_flight": 10**10}, "max_in_flight"),
            ({"max_in_flight": "none"}, "max_in_flight"),
            ({"name": "other"}, "name"),
        ],
    )
    async def test_what_is_wrong_is_named_and_changes_nothing(
        self, sqlite_gate: Gate, body: dict[str, Any], field: str
    ) -> None:
        admin = await sqlite_gate.caller(role=Role.ADMIN)
        key_id = admin.key.partition(".")[0]
        before = await admin.get("/keys")
        assert refusal(await admin.send("PATCH", f"/keys/{key_id}", body=body), 400)["field"] == field
        assert await admin.get("/keys") == before

    async def test_only_an_admin_may_and_only_a_key_that_is_there(self, sqlite_gate: Gate) -> None:
        user, admin = await sqlite_gate.caller(), await sqlite_gate.caller(role=Role.ADMIN)
        path = f"/keys/{user.key.partition('.')[0]}"
        assert refusal(await user.send("PATCH", path, body={"max_in_flight": None}), 403)["type"] == "forbidden"
        for nobody in ("nobody", "%00"):
            refusal(await admin.send("PATCH", f"/keys/{nobody}", body={"max_in_flight": 1}), 404)


class TestWires:
    @pytest.mark.parametrize(
        ("limits", "code", "kind"),
        [
            (KeyLimits(requests_per_minute=1), "1303", "requests"),
            (KeyLimits(tokens_per_minute=5_000), "1303", "tokens"),
            (KeyLimits(max_in_flight=1), "1302", "requests"),
        ],
        ids=lambda given: "" if isinstance(given, str) else None,
    )
    async def test_each_tells_it_in_its_own_form(self, gate: Gate, limits: KeyLimits, code: str, kind: str) -> None:
        caller = await gate.caller(limits=limits)
        await caller.submit(one())
        zhipu = await send(caller, f"{V4}/chat/completions", chat())
        assert refusal(zhipu, 429)["code"] == code
        openai = await send(caller, "/v1/chat/completions", chat())
        assert {"type": kind, "code": "rate_limit_exceeded"}.items() <= refusal(openai, 429).items()
        for refused in (zhipu, openai):
            assert int(refused.headers["retry-after"]) >= 1
            assert "x-should-retry" not in refused.headers
        old = await send(caller, f"{V3}/invoke", V3_BODY)
        assert (old.status_code, old.json()["code"], old.json()["success"]) == (200, int(code), False)
        streamed = await send(caller, f"{V3}/sse-invoke", V3_BODY)
        assert f"data:[{code}][" in streamed.text
        assert await seeds.size(gate.database, tasks) == 1


class TestRedis:
    async def test_two_gateways_share_one_count(self, postgres_url: str, redis_url: str, tmp_path: Path) -> None:
        shared = [RedisRates(redis_url, timeout_s=30.0, clock=lambda: 1000.5) for _ in range(2)]
        async with (
            open_gate(postgres_url, tmp_path, rates=shared[0]) as here,
            open_gate(postgres_url, tmp_path, rates=shared[1]) as there,
        ):
            caller = await here.caller(limits=KeyLimits(requests_per_minute=10))
            beside = Caller(http=there.http, key=caller.key)
            answers = await asyncio.gather(*(send(one_of, "/tasks", one()) for one_of in (caller, beside) * 12))
            assert sorted(answer.status_code for answer in answers) == [202] * 10 + [429] * 14
        for rates in shared:
            await rates.close()

    @pytest.mark.parametrize("how", ["stop", "freeze"])
    async def test_without_redis_submits_are_accepted_and_still_limited(
        self, sqlite_url: str, private_redis: PrivateRedis, tmp_path: Path, how: str
    ) -> None:
        rates = RedisRates(private_redis.url, again_s=3600)
        async with open_gate(sqlite_url, tmp_path, rates=rates) as gate:
            caller = await gate.caller(limits=KeyLimits(requests_per_minute=3))
            getattr(private_redis, how)()
            answers = [await send(caller, "/tasks", one()) for _ in range(4)]
            assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
        private_redis.thaw()
        await rates.close()
