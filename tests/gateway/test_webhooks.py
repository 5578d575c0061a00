"""/webhooks, and callback_urls in every dialect."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tests.gateway.conftest import OpenGate
from tests.gateway.gate import V4, Caller, Gate, chat, one, refusal
from tests.store import seeds
from tests.worker.receiver import receiving
from tollgate.domain.addresses import CallbackRules
from tollgate.domain.webhooks import MAX_ENDPOINTS, DeliveryState
from tollgate.store import sending, webhooks
from worker.webhooks.courier import Courier
from worker.webhooks.post import Post

URL = "https://hooks.example/tollgate"
WEBHOOK = {"id", "object", "url", "events", "description", "created_at", "disabled_at", "disabled_why"}
DELIVERY = {
    "id", "object", "message_id", "webhook_id", "url", "event", "task_id", "batch_id", "state", "tries", "next_try_at",
    "last_try_at", "http_status", "error", "response", "created_at", "ended_at",
}  # fmt: skip
NO_ID = "01970000-0000-7000-8000-000000000000"


async def create(caller: Caller, **fields: Any) -> Any:
    return await caller.post("/webhooks", {"url": URL, **fields}, status=201)


async def deliveries(caller: Caller, **filters: Any) -> list[Any]:
    listed = await caller.get("/webhooks/deliveries", **filters)
    assert listed["object"] == "list"
    data: list[Any] = listed["data"]
    return data


async def callback_of(caller: Caller, task_id: str) -> Any:
    return (await caller.get(f"/tasks/{task_id}"))["callback_url"]


class TestEndpoints:
    async def test_one_is_made_shown_listed_and_deleted(self, caller: Caller) -> None:
        made = await create(caller, events=["task.failed"], description="alarm")
        secret = made.pop("secret")
        assert set(made) == WEBHOOK
        assert (made["url"], made["events"], made["description"], made["disabled_at"]) == (
            URL, ["task.failed"], "alarm", None,
        )  # fmt: skip
        path = f"/webhooks/{made['id']}"
        assert await caller.get(path) == made
        assert (await caller.get("/webhooks"))["data"] == [made]
        told = await caller.get(f"{path}/secret")
        assert told == {"object": "webhook_secret", "webhook_id": made["id"], "secret": secret}
        deleted = await caller.send("DELETE", path)
        assert (deleted.status_code, deleted.json()) == (200, made)
        assert (await caller.get("/webhooks"))["data"] == []
        for method, gone in (("GET", path), ("DELETE", path), ("GET", f"{path}/secret"), ("POST", f"{path}/test")):
            refusal(await caller.send(method, gone), 404)

    async def test_without_a_choice_it_is_told_of_all(self, caller: Caller) -> None:
        assert (await create(caller))["events"] is None

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"url": None}, "url"),
            ({"url": "http://hooks.example/"}, "url"),
            ({"url": "https://10.0.0.1/"}, "url"),
            ({"url": "https://localhost:8443/"}, "url"),
            ({"events": []}, "events"),
            ({"events": ["task.started"]}, "events.0"),
            ({"events": ["webhook.test"]}, "events.0"),
            ({"events": [{}]}, "events.0"),
            ({"events": "task.failed"}, "events"),
            ({"description": ""}, "description"),
            ({"description": "a\0b"}, "description"),
            ({"uri": URL}, "uri"),
        ],
    )
    async def test_what_is_wrong_is_named(self, caller: Caller, changes: dict[str, Any], field: str) -> None:
        refused = refusal(await caller.send("POST", "/webhooks", body={"url": URL, **changes}), 400)
        assert (refused["type"], refused["field"]) == ("invalid_request", field)

    async def test_there_are_so_many_a_project(self, caller: Caller) -> None:
        for _ in range(MAX_ENDPOINTS):
            await create(caller)
        assert refusal(await caller.send("POST", "/webhooks", body={"url": URL}), 400)["field"] == "url"

    async def test_anothers_are_not_there(self, gate: Gate, caller: Caller) -> None:
        other = await gate.caller(project="other")
        theirs = await create(other)
        await other.post(f"/webhooks/{theirs['id']}/test", status=202)
        (delivery,) = await deliveries(other)
        for method, path in (
            ("GET", f"/webhooks/{theirs['id']}"),
            ("DELETE", f"/webhooks/{theirs['id']}"),
            ("GET", f"/webhooks/{theirs['id']}/secret"),
            ("POST", f"/webhooks/{theirs['id']}/test"),
            ("POST", f"/webhooks/{theirs['id']}/enable"),
            ("POST", f"/webhooks/deliveries/{delivery['id']}/redeliver"),
        ):
            assert refusal(await caller.send(method, path), 404)["type"] == "not_found"
        assert await deliveries(caller) == (await caller.get("/webhooks"))["data"] == []
        assert await deliveries(caller, webhook=theirs["id"]) == []

    @pytest.mark.parametrize("webhook_id", ["no-such", "%00", NO_ID])
    async def test_what_is_none_is_not_found(self, caller: Caller, webhook_id: str) -> None:
        refusal(await caller.send("GET", f"/webhooks/{webhook_id}"), 404)
        refusal(await caller.send("POST", f"/webhooks/deliveries/{webhook_id}/redeliver"), 404)

    async def test_nothing_is_sent_again_where_it_would_fail_at_once(self, gate: Gate, caller: Caller) -> None:
        made = await create(caller)
        sent = await caller.post(f"/webhooks/{made['id']}/test", status=202)
        again = f"/webhooks/deliveries/{sent['id']}/redeliver"
        async with gate.database.write() as connection:
            await webhooks.disable(connection, UUID(made["id"]), why="it said so", now=datetime.now(UTC))
        assert "enable it first" in refusal(await caller.send("POST", again), 400)["message"]
        await caller.send("DELETE", f"/webhooks/{made['id']}")
        assert made["id"] in refusal(await caller.send("POST", again), 404)["message"]

    async def test_a_disabled_one_says_why_and_can_be_enabled(self, gate: Gate, caller: Caller) -> None:
        made = await create(caller)
        async with gate.database.write() as connection:
            await webhooks.disable(connection, UUID(made["id"]), why="it said so", now=datetime.now(UTC))
        (shown,) = (await caller.get("/webhooks"))["data"]
        assert shown["disabled_at"]
        assert shown["disabled_why"] == "it said so"
        refused = refusal(await caller.send("POST", f"/webhooks/{made['id']}/test"), 400)
        assert "it said so" in refused["message"]
        enabled = await caller.post(f"/webhooks/{made['id']}/enable")
        assert (enabled["disabled_at"], enabled["disabled_why"]) == (None, None)
        await caller.post(f"/webhooks/{made['id']}/test", status=202)


class TestSecrets:
    async def test_the_projects_is_its_own_and_can_be_made_anew(self, gate: Gate, caller: Caller) -> None:
        first = await caller.get("/webhooks/secret")
        assert first["webhook_id"] is None
        assert first["secret"].startswith("whsec_")
        assert await caller.get("/webhooks/secret") == first
        other = await gate.caller(project="other")
        assert (await other.get("/webhooks/secret"))["secret"] != first["secret"]
        second = await caller.post("/webhooks/secret")
        assert second["secret"] != first["secret"]
        assert await caller.get("/webhooks/secret") == second

    async def test_a_rotated_master_key_keeps_them_until_the_old_one_is_dropped(
        self, gate_with: OpenGate, database_url: str
    ) -> None:
        old, new = "o" * 32, "n" * 32
        async with gate_with(master_key=old) as gate:
            caller = await gate.caller()
            made, told = await create(caller), await caller.get("/webhooks/secret")
        async with gate_with(master_key=f"{new},{old}") as gate:
            caller = Caller(http=gate.http, key=caller.key)
            assert (await caller.get(f"/webhooks/{made['id']}/secret"))["secret"] == made["secret"]
            assert await caller.get("/webhooks/secret") == told
            newer = await gate.caller()
            revoked = caller.key.partition(".")[0]
            admin = await gate.caller(project="admins", role="admin")
            assert (await admin.send("DELETE", f"/keys/{revoked}")).status_code == 200
        async with gate_with(master_key=new) as gate:
            caller = Caller(http=gate.http, key=newer.key)
            for path in (f"/webhooks/{made['id']}/secret", "/webhooks/secret"):
                assert "the master key" in refusal(await caller.send("GET", path), 400)["message"]
            assert (await caller.post("/webhooks/secret"))["secret"] != told["secret"]


class TestDeliveries:
    async def test_a_delivery_is_listed_sent_and_sent_again(self, gate_with: OpenGate) -> None:
        async with (
            gate_with(webhooks_allow_http=True, webhooks_allow_private=True) as gate,
            receiving() as receiver,
        ):
            caller = await gate.caller()
            made = await create(caller, url=f"{receiver.url}/hook")
            task_id = await caller.id_of(custom_id="row-1")
            assert await deliveries(caller) == []
            await gate.succeed(task_id)
            (waiting,) = await deliveries(caller, task=task_id)
            assert set(waiting) == DELIVERY
            assert (waiting["state"], waiting["tries"], waiting["webhook_id"]) == ("pending", 0, made["id"])
            assert (waiting["event"], waiting["next_try_at"]) == ("task.succeeded", waiting["created_at"])
            courier = Courier(
                gate.database,
                masters=(gate.services.keyring.first_master,),
                post=Post(CallbackRules(allow_http=True, allow_private=True)),
                currency="CNY",
            )
            for count in (1, 2):
                await courier.round()
                await courier.drain()
                (sent,) = await deliveries(caller, state="delivered")
                assert (sent["tries"], sent["http_status"], sent["response"]) == (count, 200, "thanks")
                assert sent["next_try_at"] is None
                again = await caller.post(f"/webhooks/deliveries/{sent['id']}/redeliver", status=202)
                assert (again["id"], again["state"]) == (waiting["id"], "pending")
            await courier.stop()
            first, second = receiver.received
            assert first.id == second.id == waiting["message_id"]
            shown = await caller.get(f"/tasks/{task_id}")
            told = first.verified(made["secret"])["data"]
            assert {name: shown[name] for name in told} == told, "told as GET /tasks/{id} shows it"

    async def test_a_test_is_one(self, caller: Caller) -> None:
        made = await create(caller, events=["task.failed"])
        asked = await caller.post(f"/webhooks/{made['id']}/test", status=202)
        assert (asked["event"], asked["task_id"], asked["url"]) == ("webhook.test", None, URL)
        assert await deliveries(caller, webhook=made["id"]) == [asked]

    async def test_pages_follow_each_other(self, gate: Gate, caller: Caller) -> None:
        made = await create(caller)
        ids = [(await caller.post(f"/webhooks/{made['id']}/test", status=202))["id"] for _ in range(5)]
        first = await caller.get("/webhooks/deliveries", limit=3)
        assert ([d["id"] for d in first["data"]], first["has_more"]) == (ids[:1:-1], True)
        rest = await caller.get("/webhooks/deliveries", limit=3, after=first["last_id"])
        assert ([d["id"] for d in rest["data"]], rest["has_more"]) == (ids[1::-1], False)

    @pytest.mark.parametrize("query", ["state=sent", "webhook=x", "limit=0", "limit=1001", "project=other", "after=1"])
    async def test_a_wrong_filter_is_named(self, sqlite_gate: Gate, query: str) -> None:
        caller = await sqlite_gate.caller()
        refused = refusal(await caller.send("GET", f"/webhooks/deliveries?{query}"), 400)
        assert refused["field"] == query.partition("=")[0]


class TestCallbackUrls:
    async def test_one_is_kept_shown_and_told(self, gate: Gate, caller: Caller) -> None:
        task_id = await caller.id_of(callback_url=URL)
        assert await callback_of(caller, task_id) == URL
        await gate.fail(task_id)
        (told,) = await deliveries(caller)
        assert (told["url"], told["webhook_id"], told["event"]) == (URL, None, "task.failed")

    async def test_it_is_no_part_of_what_is_asked(self, caller: Caller) -> None:
        body = one(request_id="call-me-1")
        first = await caller.submit({**body, "callback_url": URL})
        again = await caller.submit({**body, "callback_url": f"{URL}/other"}, status=200)
        assert (again["id"], again["duplicate"]) == (first["id"], True)
        assert await callback_of(caller, first["id"]) == URL, "that of the first submit stays"

    async def test_a_wrong_one_refuses_the_list_and_names_its_task(self, caller: Caller) -> None:
        body = [one(), one(callback_url="http://hooks.example/")]
        refused = refusal(await caller.send("POST", "/tasks", body=body), 400)
        assert refused["field"] == "tasks.1.callback_url"
        assert "TOLLGATE_WEBHOOKS_ALLOW_HTTP" in refused["message"]
        assert (await caller.get("/tasks"))["data"] == []

    @pytest.mark.parametrize("url", ["https://169.254.169.254/x", "https://[::1]/", "https://2130706433/", "", "x"])
    async def test_an_inner_or_odd_one_is_refused(self, sqlite_gate: Gate, url: str) -> None:
        caller = await sqlite_gate.caller()
        refused = refusal(await caller.send("POST", "/tasks", body=one(callback_url=url)), 400)
        assert refused["field"] == "callback_url"

    async def test_a_list_takes_it_by_task_and_not_as_a_header(self, sqlite_gate: Gate) -> None:
        caller = await sqlite_gate.caller()
        headers = {"Authorization": f"Bearer {caller.key}", "X-Callback-Url": URL}
        refused = await sqlite_gate.http.post("/tasks", json=[one(), one()], headers=headers)
        assert refusal(refused, 400)["field"] == "x-callback-url"

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (f"{V4}/async/chat/completions", chat()),
            ("/api/paas/v3/model-api/glm-4.7/async-invoke", {"prompt": "hello"}),
            ("/v1/responses", {"model": "glm-4.7", "input": "hello", "background": True}),
        ],
    )
    async def test_the_sdks_wires_take_it_as_a_header(self, sqlite_gate: Gate, path: str, body: dict[str, Any]) -> None:
        caller = await sqlite_gate.caller()
        headers = {"Authorization": f"Bearer {caller.key}", "X-Callback-Url": URL}
        answered = await sqlite_gate.http.post(path, json=body, headers=headers)
        assert answered.status_code == 200, answered.text
        (task,) = (await caller.get("/tasks"))["data"]
        assert task["callback_url"] == URL
        refused = await sqlite_gate.http.post(path, json=body, headers={**headers, "X-Callback-Url": "ftp://x"})
        assert "callback_url" in refused.text
        assert len((await caller.get("/tasks"))["data"]) == 1

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (f"{V4}/chat/completions", chat()),
            (f"{V4}/chat/completions", chat(stream=True)),
            (f"{V4}/embeddings", {"model": "embedding-3", "input": "hello"}),
            ("/v1/chat/completions", chat()),
            ("/v1/embeddings", {"model": "embedding-3", "input": "hello"}),
            ("/v1/responses", {"model": "glm-4.7", "input": "hello"}),
            ("/api/paas/v3/model-api/glm-4.7/invoke", {"prompt": "hello"}),
            ("/api/paas/v3/model-api/glm-4.7/sse-invoke", {"prompt": "hello"}),
        ],
    )
    async def test_calls_that_wait_look_at_it_too(self, sqlite_gate: Gate, path: str, body: dict[str, Any]) -> None:
        key = await sqlite_gate.key()
        headers = {"Authorization": f"Bearer {key}", "X-Callback-Url": "https://127.0.0.1/"}
        refused = await sqlite_gate.http.post(path, json=body, headers=headers)
        assert "TOLLGATE_WEBHOOKS_ALLOW_PRIVATE" in refused.text


async def test_readyz_tells_how_many_wait(gate: Gate, caller: Caller) -> None:
    assert (await gate.http.get("/readyz")).json()["webhooks"] == {"due": 0, "due_since": None}
    await gate.succeed(await caller.id_of(callback_url=URL))
    (waiting,) = await deliveries(caller)
    assert (await gate.http.get("/readyz")).json()["webhooks"] == {"due": 1, "due_since": waiting["created_at"]}
    async with gate.database.write() as connection:
        now = datetime.now(UTC)
        hosts = dict.fromkeys(await sending.hosts_due(connection, now=now), 1)
        (claimed,) = await sending.claim(connection, hosts, limit=1, now=now, master=seeds.MASTER)
        tried = sending.Tried(id=claimed.id, tries=1, state=DeliveryState.DELIVERED, not_before=now, ended_at=now)
        await sending.settle(connection, [tried])
    assert (await gate.http.get("/readyz")).json()["webhooks"]["due"] == 0
