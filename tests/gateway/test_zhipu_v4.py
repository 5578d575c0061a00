"""ZhipuAI's v4 wire: the synchronous call is the asynchronous one, waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from gateway import querying, synchronous
from gateway.services import Services
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import ANSWER, LIMIT_S, V4, Caller, Gate, chat, refusal, until
from tests.gateway.upstream import Upstream
from tollgate.domain.ids import new_id
from tollgate.domain.tasks import Key
from tollgate.simulator import SimulatorSettings
from tollgate.store import leases, pauses
from tollgate.store.claims import Claimed
from tollgate.store.tasks import Task

SYNC, ASYNC = V4 + "/chat/completions", V4 + "/async/chat/completions"
RESULT = V4 + "/async-result/{id}"


async def newest(caller: Caller) -> Any:
    """The one task there is, in full."""
    (task,) = (await caller.get("/tasks"))["data"]
    return await caller.get(f"/tasks/{task['id']}")


class TestAsync:
    async def test_it_is_submitted_polled_and_read(self, gate: Gate) -> None:
        caller = await gate.caller()
        made = await caller.post(ASYNC, chat(request_id="request-1"))
        processing = {"request_id": "request-1", "model": "glm-4.7", "task_status": "PROCESSING"}
        assert made == {"id": made["id"], **processing}
        assert await caller.get(RESULT.format(id=made["id"])) == made
        await gate.succeed(made["id"])
        result = await caller.get(RESULT.format(id=made["id"]))
        told = json.loads(ANSWER)
        assert result == {**told, "id": made["id"], "request_id": "request-1", "task_status": "SUCCESS"}
        assert await caller.get(RESULT.format(id=made["id"])) == result, "the same every time"

    async def test_without_a_request_id_it_is_the_tasks_own(self, gate: Gate) -> None:
        caller = await gate.caller()
        made = await caller.post(ASYNC, chat())
        assert made["request_id"] == made["id"]

    async def test_a_failed_task_is_a_state_and_no_http_error(self, gate: Gate) -> None:
        caller = await gate.caller()
        made = await caller.post(ASYNC, chat())
        await gate.fail(made["id"], code="1301", message="unsafe")
        result = await caller.get(RESULT.format(id=made["id"]))
        assert result == {**made, "task_status": "FAIL", "error": {"code": "1301", "message": "unsafe"}}

    @pytest.mark.parametrize("task_id", ["no-id", "00000000-0000-7000-8000-000000000000"])
    async def test_an_unknown_id_is_not_found(self, gate: Gate, task_id: str) -> None:
        caller = await gate.caller()
        assert refusal(await caller.send("GET", RESULT.format(id=task_id)), 404)["code"] == "1200"

    @pytest.mark.parametrize(
        "answer",
        [
            {"choices": [{"index": 0, "finish_reason": None, "message": {"role": "assistant", "content": "x"}}]},
            {"choices": [{"message": {"content": "x"}}], "usage": None},
            {"choices": [{"message": {}, "finish_reason": 1}], "usage": {"prompt_tokens": 1}, "id": 7, "request_id": 8},
        ],
    )
    async def test_what_the_sdks_need_is_there_whatever_the_upstream_left_out(self, gate: Gate, answer: Any) -> None:
        caller = await gate.caller()
        made = await caller.post(ASYNC, chat())
        await gate.succeed(made["id"], result=json.dumps(answer))
        result = await caller.get(RESULT.format(id=made["id"]))
        assert isinstance(result["id"], str)
        assert isinstance(result["request_id"], str)
        assert isinstance(result["created"], int)
        assert result["choices"][0]["finish_reason"] == "stop"
        assert result["usage"] == {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}


class TestSync:
    async def test_its_answer_is_the_async_results(self, working: Gate) -> None:
        caller = await working.caller()
        response = await caller.send("POST", SYNC, body=chat("[[echo]]hello"))
        answer = response.json()
        assert answer["choices"][0]["message"]["content"] == "hello"
        result = await caller.get(RESULT.format(id=response.headers["x-task-id"]))
        assert result == {**answer, "task_status": "SUCCESS"}
        task = await caller.get(f"/tasks/{answer['id']}")
        assert task["usage"]["total_tokens"] == answer["usage"]["total_tokens"]
        assert task["priority"] == "interactive"

    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [
            ("sensitive", 400, "1301"),
            ("1261", 400, "1261"),
            ("1210", 400, "1210"),
            ("1211", 400, "1211"),
            ("1220", 403, "1220"),
            ("1302", 429, "1302"),
            ("1305", 429, "1305"),
            ("1304", 429, "1304"),
            ("500", 500, "1234"),
        ],
    )
    async def test_a_failed_task_is_an_error_that_is_final(
        self, gate_with: OpenGate, fault: str, status: int, code: str
    ) -> None:
        async with gate_with(simulator=SimulatorSettings(), sync_retry_s=0.001) as gate:
            caller = await gate.caller()
            response = await caller.send("POST", SYNC, body=chat(f"[[fault:{fault}]]"))
            assert refusal(response, status)["code"] == code
            assert response.headers["x-should-retry"] == "false"
            assert ("Retry-After" in response.headers) is (status == 429)
            task = await newest(caller)
            assert response.headers["x-task-id"] == task["id"]
            assert task["state"] == "failed", "not left running"
            result = await caller.get(RESULT.format(id=task["id"]))
            assert (result["task_status"], result["error"]["code"]) == ("FAIL", code)

    @pytest.mark.parametrize(
        ("code", "status", "shown"),
        [
            ("1113", 429, "1113"),
            ("1000", 500, "1000"),
            ("rate_limited", 429, "1302"),
            ("overloaded", 429, "1305"),
            ("no_answer", 500, "1234"),
            ("context_length_exceeded", 400, "1261"),
            ("cancelled", 400, "1200"),
            ("expired", 503, "1230"),
            ("what nobody knows", 500, "1234"),
        ],
    )
    async def test_every_reason_has_a_status_and_a_code(
        self, sqlite_gate: Gate, code: str, status: int, shown: str
    ) -> None:
        caller = await sqlite_gate.caller()
        made = await caller.post(ASYNC, chat(request_id="request-1"))
        await sqlite_gate.fail(made["id"], code=code)
        assert refusal(await caller.send("POST", SYNC, body=chat(request_id="request-1")), status)["code"] == shown

    async def test_a_refusal_that_passes_is_never_seen(self, working: Gate) -> None:
        caller = await working.caller()
        answer = await caller.post(SYNC, chat("[[fault:once:1302]][[echo]]after all"))
        assert answer["choices"][0]["message"]["content"] == "after all"

    async def test_an_upstream_that_answers_nonsense_is_a_500(self, gate_with: OpenGate, upstream: Upstream) -> None:
        upstream.answer = "<html>"
        async with gate_with(upstream=upstream.base_url, sync_retry_s=0.001) as gate:
            caller = await gate.caller()
            assert refusal(await caller.send("POST", SYNC, body=chat()), 500)["code"] == "1234"


class TestTimeout:
    @pytest.fixture
    async def hasty(self, gate_with: OpenGate) -> AsyncIterator[Gate]:
        async with gate_with(sync_timeout_s=0.3) as opened:
            yield opened

    async def test_a_task_that_still_waits_is_cancelled(self, hasty: Gate) -> None:
        caller = await hasty.caller()
        response = await caller.send("POST", SYNC, body=chat())
        assert refusal(response, 503)["code"] == "1234"
        assert response.headers["x-should-retry"] == "false"
        task = await newest(caller)
        assert (task["id"], task["state"]) == (response.headers["x-task-id"], "cancelled")

    async def test_a_call_that_still_runs_is_stopped(self, gate_with: OpenGate) -> None:
        async with gate_with(simulator=SimulatorSettings(latency_s=60), sync_timeout_s=3) as gate:
            caller = await gate.caller()
            response = await caller.send("POST", SYNC, body=chat())
            assert response.status_code in (500, 503), "whether its worker or its gateway is the first to give it up"
            task = await caller.get(f"/tasks/{response.headers['x-task-id']}", wait=LIMIT_S)
            assert task["state"] in ("cancelled", "failed")
            assert task["attempts"][0]["outcome"] == "uncertain"

    async def test_a_task_that_was_there_before_goes_on(self, hasty: Gate) -> None:
        caller = await hasty.caller()
        made = await caller.post(ASYNC, chat(request_id="request-1"))
        response = await caller.send("POST", SYNC, body=chat(request_id="request-1"))
        assert "goes on" in refusal(response, 503)["message"]
        assert (await caller.get(f"/tasks/{made['id']}"))["state"] == "queued"

    async def test_an_answer_that_comes_while_it_is_given_up_is_given(
        self, hasty: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caller = await hasty.caller()

        async def claim_then_read(services: Services, key: Key, task_id: UUID, **options: Any) -> Task:
            claimed.append(await hasty.claim(str(task_id)))
            return await read_new(services, key, task_id, **options)

        async def read_then_end(services: Services, key: Key, task_id: UUID, **options: Any) -> Task:
            task = await read(services, key, task_id, **options)
            if claimed:
                await hasty.end(claimed.pop())
            return task

        # A moment between two statements, that no timing would meet.
        claimed: list[Claimed] = []
        read_new, read = querying.read_new_task, querying.read_task
        monkeypatch.setattr(synchronous, "read_new_task", claim_then_read)
        monkeypatch.setattr(synchronous, "read_task", read_then_end)
        assert (await caller.post(SYNC, chat()))["choices"][0]["message"]["content"] == "hi"


async def pause(gate: Gate, *, blocked: tuple[bool, ...]) -> None:
    """One credential of zhipu is paused; for each of `blocked` there is a worker that says so of the route."""
    now = datetime.now(UTC)
    async with gate.services.database.write() as connection:
        await pauses.pause(
            connection, "zhipu", credential="KEY", reason="no_balance (1113): arrears", now=now, until=now
        )
        for one in blocked:
            worker_id, load = new_id(), {"zhipu/glm-4.7": leases.RouteLoad(0, 0, one)}
            await leases.register(connection, worker_id, name="w", lanes=("cloud.interactive",), now=now)
            await leases.renew(connection, worker_id, load=load, now=now)


async def test_a_call_that_another_worker_can_make_is_not_given_up(gate_with: OpenGate) -> None:
    async with gate_with(sync_retry_s=0.01, sync_timeout_s=0.02) as gate:
        await pause(gate, blocked=(True, False))
        caller = await gate.caller()
        response = await caller.send("POST", SYNC, body=chat())
        assert refusal(response, 503)["code"] == "1234"
        assert (await newest(caller))["state"] == "cancelled"


async def test_a_stopping_gateway_lets_go_of_who_waits_and_the_task_goes_on(gate: Gate) -> None:
    caller = await gate.caller()
    calling = asyncio.create_task(caller.send("POST", SYNC, body=chat()))
    await until(lambda: gate.services.waiters.waiting)
    gate.services.waiters.release()
    response = await asyncio.wait_for(calling, LIMIT_S)
    assert "stopping" in refusal(response, 503)["message"]
    assert response.headers["x-should-retry"] == "false", "the SDKs would buy it again"
    task = await newest(caller)
    assert (task["state"], response.headers["x-task-id"]) == ("queued", task["id"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_to_a_paused_upstream_is_given_up_and_says_why(gate_with: OpenGate, stream: bool) -> None:
    """A stream too, before its headers leave."""
    async with gate_with(sync_retry_s=0.05) as gate:
        await pause(gate, blocked=(True,))
        caller = await gate.caller()
        response = await caller.send("POST", SYNC, body=chat(stream=stream))
        assert refusal(response, 429)["code"] == "1113"
        assert "arrears" in refusal(response, 429)["message"]
        assert response.headers["x-should-retry"] == "false"
        assert (await newest(caller))["state"] == "failed", "not left queued"


class TestLeaving:
    """The client closes the connection while its answer is waited for."""

    async def leave(
        self, gate: Gate, caller: Caller, body: Any, *, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> list[MutableMapping[str, Any]]:
        """Call, leave when the gateway waits, and return what it sent all the same."""
        left = asyncio.Event()
        sent: list[MutableMapping[str, Any]] = []
        parts: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": json.dumps(body).encode()}]

        async def receive() -> MutableMapping[str, Any]:
            if parts:
                return parts.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": SYNC,
            "raw_path": SYNC.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {caller.key}".encode()), *headers],
        }
        calling = asyncio.create_task(gate.app(scope, receive, send))
        await until(lambda: gate.services.waiters.waiting)
        left.set()
        await asyncio.wait_for(calling, LIMIT_S)
        return sent

    async def test_a_task_is_cancelled_where_the_client_asked_for_that(
        self, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        caller = await gate.caller()
        sent = await self.leave(gate, caller, chat(), headers=((b"x-on-disconnect", b"cancel"),))
        assert sent[0]["status"] == 499
        assert (await newest(caller))["state"] == "cancelled"
        assert not gate.services.waiters.waiting
        assert not [record for record in caplog.records if record.name.startswith("tollgate")], "nothing to tell"

    async def test_otherwise_it_goes_on_for_who_asks_again(self, gate: Gate) -> None:
        caller = await gate.caller()
        await self.leave(gate, caller, chat(request_id="request-1"))
        task = await newest(caller)
        assert task["state"] == "queued"
        await gate.succeed(task["id"])
        assert (await caller.post(SYNC, chat(request_id="request-1")))["id"] == task["id"]
