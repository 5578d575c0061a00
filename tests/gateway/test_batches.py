"""/batches in the three dialects: made of files, taken in, looked at, paused, cancelled, tried again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID

import pytest

from gateway.files.folder import Folder
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import LIMIT_S, V4, Caller, Gate, refusal
from tests.gateway.test_files import kept, upload
from tollgate.broker.celery_app import MEMORY_BROKER, create_celery
from tollgate.broker.publisher import Publisher
from tollgate.domain.errors import FilesUnavailableError
from tollgate.domain.lanes import LANES
from tollgate.store import price_list
from tollgate.store.schema import batches as batches_table
from tollgate.store.schema import tasks
from worker.announcer import Announcer
from worker.batches import Batches
from worker.billing import Rules

ENDED = ("completed", "failed", "expired", "cancelled")
NO_ID = "01970000-0000-7000-8000-000000000000"


def line(number: int, *, custom_id: str | None = None, url: str = "/v1/chat/completions", **body: Any) -> bytes:
    asked = {"model": "glm-4.7", "messages": [{"role": "user", "content": f"hello {number}"}], **body}
    given = {"custom_id": custom_id or f"line-{number}", "method": "POST", "url": url, "body": asked}
    return json.dumps(given).encode()


def lines(count: int, **changes: Any) -> bytes:
    return b"\n".join(line(number, **changes) for number in range(1, count + 1))


async def created(caller: Caller, content: bytes, *, status: int = 201, **fields: Any) -> Any:
    """A batch of a file with this content."""
    file = await upload(caller, content, prefix="")
    return await caller.post("/batches", {"input_file_id": file["id"], **fields}, status=status)


async def until_state(caller: Caller, batch_id: str, *states: str) -> Any:
    async with asyncio.timeout(LIMIT_S):
        while True:
            found = await caller.get(f"/batches/{batch_id}")
            if found["state"] in states:
                return found
            await asyncio.sleep(0.01)


async def taken_in(caller: Caller, content: bytes, **fields: Any) -> Any:
    made = await created(caller, content, **fields)
    return await until_state(caller, made["id"], "in_progress", "failed")


@contextlib.asynccontextmanager
async def beating(gate: Gate) -> AsyncIterator[None]:
    """What a beat does for batches, without its pauses."""
    beat, publisher = Batches(gate.database), Publisher(create_celery(MEMORY_BROKER, lanes=LANES, publishes_only=True))
    async with gate.database.read() as connection:
        announcer = Announcer(gate.database, publisher, rules=Rules(prices=await price_list.load(connection)))

    async def beat_on() -> None:
        while True:
            await announcer.announce()
            await beat.round()
            await asyncio.sleep(0.02)

    rounds = asyncio.create_task(beat_on())
    try:
        yield
    finally:
        rounds.cancel()
        await asyncio.wait([rounds])
        publisher.close()


async def ended(gate: Gate, caller: Caller, batch_id: str) -> Any:
    async with beating(gate):
        return await until_state(caller, batch_id, *ENDED)


async def rows(gate: Gate, batch_id: str) -> list[Any]:
    async with gate.database.read() as connection:
        statement = tasks.select().where(tasks.c.batch_id == UUID(batch_id)).order_by(tasks.c.line)
        return list((await connection.execute(statement)).all())


def counts(batch: Any, names: Iterable[str] = ("total", "invalid", "queued", "running", "succeeded", "failed")) -> Any:
    return {name: batch["counts"][name] for name in names if batch["counts"][name]}


async def test_a_batch_runs_to_its_end(working: Gate) -> None:
    caller = await working.caller()
    made = await created(caller, lines(30, max_tokens=5))
    assert (made["object"], made["state"], made["name"], made["via"]) == ("batch", "validating", "in.jsonl", "direct")
    found = await ended(working, caller, made["id"])
    assert (found["state"], counts(found)) == ("completed", {"total": 30, "succeeded": 30})
    assert working.simulator is not None
    assert found["usage"]["completion_tokens"] == 150
    usage = (await caller.get("/usage"))["data"]
    assert [one["cost"] for one in usage] == [found["cost"]], "its sum is the accounts'"
    assert found["output_file_id"] is not None
    assert found["error_file_id"] is None


async def test_lines_become_tasks_in_the_order_of_the_file(gate: Gate, caller: Caller) -> None:
    content = b"\xef\xbb\xbf" + line(1) + b"\r\n\r\n" + line(3, temperature=0.5) + b"\n  \n" + line(5)
    found = await taken_in(caller, content, priority="bulk")
    stored = await rows(gate, found["id"])
    assert [(row.line, row.custom_id, row.lane) for row in stored] == [
        (1, "line-1", "cloud.bulk"), (3, "line-3", "cloud.bulk"), (5, "line-5", "cloud.bulk"),
    ]  # fmt: skip
    assert {str(row.feed) for row in stored} == {found["id"]}
    assert counts(found) == {"total": 3, "queued": 3}


async def test_bad_lines_are_told_and_the_rest_runs(gate: Gate, caller: Caller) -> None:
    bad = [
        b'{"custom_id": "broken',
        line(2, custom_id="line-1"),
        line(3, model="none-such"),
        line(4, temperature=7),
        b'{"custom_id": "5", "method": "POST", "url": "/v1/images", "body": {}}',
        line(6).replace(b"hello", b"\xff\xfe"),
    ]
    found = await taken_in(caller, b"\n".join([line(1), *bad, line(8)]))
    assert counts(found) == {"total": 8, "invalid": 6, "queued": 2}
    told = {(error["line"], error["code"]): error["message"] for error in found["errors"]}
    assert set(told) == {
        (2, "invalid_json_line"), (3, "duplicate_custom_id"), (4, "model_not_found"), (5, "invalid_value"),
    }, "one of each kind"  # fmt: skip
    assert "line-1" in told[3, "duplicate_custom_id"]
    assert [row.custom_id for row in await rows(gate, found["id"])] == ["line-1", "line-8"]


async def test_a_strict_batch_is_refused_whole(gate: Gate, caller: Caller) -> None:
    found = await taken_in(caller, b"\n".join([line(1), line(1), line(3)]), strict=True)
    assert found["state"] == "failed"
    assert found["error"]["code"] == "invalid_lines"
    assert "line 2" in found["error"]["message"]
    assert counts(found) == {"total": 3, "invalid": 1}
    assert await rows(gate, found["id"]) == [], "nothing of it can run"


async def test_a_file_without_a_good_line_fails(caller: Caller) -> None:
    found = await taken_in(caller, b"not json\nnor this")
    assert (found["state"], found["error"]["code"]) == ("failed", "invalid_lines")
    empty = await taken_in(caller, b"\n \r\n")
    assert (empty["state"], empty["error"]["code"]) == ("failed", "empty_file")


async def test_a_line_over_the_limit_fails_alone(gate_with: OpenGate) -> None:
    async with gate_with(max_line_bytes=2_000) as gate:
        caller = await gate.caller()
        long = line(2).replace(b"hello", b"x" * 5_000)
        found = await taken_in(caller, b"\n".join([line(1), long, line(3)]))
        assert counts(found) == {"total": 3, "invalid": 1, "queued": 2}
        assert [(error["line"], error["code"]) for error in found["errors"]] == [(2, "line_too_long")]


async def test_the_batch_says_what_its_lines_do_not(gate: Gate, caller: Caller) -> None:
    content = b'{"prompt": "a"}\n{"prompt": "b", "model": "glm-4-flash", "label": "own", "max_tokens": 9}'
    found = await taken_in(
        caller, content, model="glm-4.7", label="night", system="Be brief.", parameters={"max_tokens": 5}
    )
    stored = await rows(gate, found["id"])
    assert [(row.model, row.label, row.max_tokens) for row in stored] == [
        ("glm-4.7", "night", 5), ("glm-4-flash", "own", 9),
    ]  # fmt: skip


async def test_the_same_request_id_is_the_same_batch(caller: Caller) -> None:
    file = await upload(caller, lines(2), prefix="")
    asked = {"input_file_id": file["id"], "request_id": "nightly-1"}
    first = await caller.post("/batches", asked, status=201)
    again = await caller.post("/batches", asked, status=200)
    assert first["id"] == again["id"]
    other = await caller.send("POST", "/batches", body={**asked, "strict": True})
    assert other.status_code == 409


async def test_a_list_is_a_batch_like_a_file_and_made_once(caller: Caller) -> None:
    tasks = [json.loads(line) for line in lines(3).splitlines()]
    asked = {"tasks": [*tasks, {"model": "none-such", "prompt": "x"}], "request_id": "inline-1"}
    first = await caller.post("/batches", asked, status=201)
    assert first["name"] == "tasks.jsonl"
    taken = await until_state(caller, first["id"], "in_progress")
    assert (taken["counts"]["queued"], taken["counts"]["invalid"]) == (3, 1)
    again = await caller.post("/batches", asked, status=200)
    assert again["id"] == first["id"]
    changed = await caller.send("POST", "/batches", body={**asked, "tasks": tasks})
    assert changed.status_code == 409
    listed = (await caller.get("/files"))["data"]
    assert [one["id"] for one in listed] == [first["input_file_id"]], "what made no batch is not kept"


@pytest.mark.parametrize("prefix", ["", "/v1", V4])
async def test_a_post_that_is_sent_again_is_not_run_twice(caller: Caller, prefix: str) -> None:
    file = await upload(caller, lines(2), prefix="")
    asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions"}
    made = [(await caller.send("POST", f"{prefix}/batches", body=asked)).json()["id"] for _ in range(2)]
    assert made[0] == made[1]


async def test_it_is_paused_resumed_and_cancelled(gate: Gate, caller: Caller) -> None:
    made = await taken_in(caller, lines(3))
    paused = await caller.post(f"/batches/{made['id']}/pause")
    assert (paused["state"], paused["paused"]["code"]) == ("in_progress", "owner")
    resumed = await caller.post(f"/batches/{made['id']}/resume", {"max_cost": "1.50"})
    assert (resumed["paused"], resumed["max_cost"]) == (None, "1.5")
    cancelling = await caller.post(f"/batches/{made['id']}/cancel")
    assert cancelling["state"] == "cancelling"
    found = await ended(gate, caller, made["id"])
    assert (found["state"], found["counts"]["cancelled"], found["cost"]) == ("cancelled", 3, "0")
    again = await caller.post(f"/batches/{made['id']}/cancel")
    assert again["state"] == "cancelled", "after the end nothing changes"
    assert refusal(await caller.send("POST", f"/batches/{made['id']}/pause"), 400)


async def test_failed_lines_are_tried_again_and_paid_for_once_more(gate: Gate, caller: Caller) -> None:
    made = await taken_in(caller, lines(2))
    first, second = [str(row.id) for row in await rows(gate, made["id"])]
    await gate.succeed(first)
    await gate.fail(second)
    found = await ended(gate, caller, made["id"])
    assert (found["state"], counts(found)) == ("completed", {"total": 2, "succeeded": 1, "failed": 1})
    again = await caller.post(f"/batches/{made['id']}/retry")
    assert again["state"] == "in_progress"
    await Batches(gate.database).round()
    anew = [row for row in await rows(gate, made["id"]) if not row.superseded and row.state == "queued"]
    assert [(row.line, row.custom_id) for row in anew] == [(2, "line-2")]
    await gate.succeed(str(anew[0].id))
    found = await ended(gate, caller, made["id"])
    assert counts(found) == {"total": 2, "succeeded": 2}
    assert refusal(await caller.send("POST", f"/batches/{made['id']}/retry"), 400), "nothing failed"


async def test_another_project_does_not_see_it(gate: Gate, caller: Caller) -> None:
    made = await taken_in(caller, lines(1))
    other = await gate.caller(project="other")
    for prefix in ("", "/v1", V4):
        assert (await other.send("GET", f"{prefix}/batches/{made['id']}")).status_code == 404
        assert (await other.send("POST", f"{prefix}/batches/{made['id']}/cancel")).status_code == 404
        assert (await other.get(f"{prefix}/batches"))["data"] == []
        theirs = {"input_file_id": made["input_file_id"], "endpoint": "/v1/chat/completions"}
        assert (await other.send("POST", f"{prefix}/batches", body=theirs)).status_code == 404


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "99d"}, "completion_window"),
        ({"max_cost": "-1"}, "max_cost"),
        ({"via": "local"}, "via"),
        ({"parameters": {"messages": []}}, "parameters.messages"),
        ({"callback_url": "http://10.0.0.1/"}, "callback_url"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_what_cannot_be_is_refused(caller: Caller, changes: dict[str, Any], field: str) -> None:
    file = await upload(caller, lines(1), prefix="")
    error = refusal(await caller.send("POST", "/batches", body={"input_file_id": file["id"], **changes}), 400)
    assert error["field"] == field


async def test_a_lost_file_fails_the_batch_and_says_why(gate: Gate, caller: Caller) -> None:
    file = await upload(caller, lines(2), prefix="")
    await gate.services.files.delete(UUID(file["id"]))
    made = await caller.post("/batches", {"input_file_id": file["id"]}, status=201)
    found = await until_state(caller, made["id"], "failed")
    assert found["error"]["code"] == "input_lost"
    assert "TOLLGATE_FILES" in found["error"]["message"]


async def test_a_disk_that_fails_for_a_moment_loses_no_line(
    gate: Gate, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failing, tried = Folder.open_at, True, asyncio.Event()

    async def open_at(folder: Folder, file_id: UUID, offset: int = 0) -> AsyncIterator[bytes]:
        """Patched: a disk that answers EIO cannot be had here."""
        if failing:
            tried.set()
            raise FilesUnavailableError("the folder of files: Input/output error")
        async for piece in read(folder, file_id, offset):
            yield piece

    monkeypatch.setattr(Folder, "open_at", open_at)
    made = await created(caller, lines(3))
    await asyncio.wait_for(tried.wait(), LIMIT_S)
    failing = False
    found = await until_state(caller, made["id"], "in_progress", "failed")
    assert found["state"] == "in_progress"
    assert counts(found) == {"total": 3, "queued": 3}


async def test_the_input_goes_where_it_was_asked_for(gate: Gate, caller: Caller) -> None:
    """zhipuai's SDK does unless told otherwise."""
    file = await upload(caller, lines(2), prefix="")
    asked = {"input_file_id": file["id"], "endpoint": "/v4/chat/completions", "auto_delete_input_file": True}
    made = await caller.post(f"{V4}/batches", {**asked, "completion_window": None})
    assert made["completion_window"] == "24h"
    async with asyncio.timeout(LIMIT_S):
        while kept(gate):  # noqa: ASYNC110 - no signal tells of it
            await asyncio.sleep(0.01)
    assert (await caller.send("GET", f"/files/{file['id']}")).status_code == 404
    assert (await caller.get(f"{V4}/batches/{made['id']}"))["status"] == "in_progress"


async def test_another_gateway_goes_on_where_one_stopped(gate_with: OpenGate) -> None:
    async with gate_with() as gate:
        caller = await gate.caller()
        await gate.services.batch_intake.stop()
        made = await created(caller, lines(2_500))
        async with gate.database.write() as connection:
            # As after a first step of 1,000 lines: its tasks are counted, and the rest is to be read.
            place = sum(len(line(number)) + 1 for number in range(1, 1_001))
            await connection.execute(
                batches_table.update().values(taken_bytes=place, taken_lines=1_000, accepted=1_000)
            )
    async with gate_with() as another:
        caller = await another.caller(project="acme")
        found = await until_state(caller, made["id"], "in_progress")
        assert found["counts"]["total"] == 2_500
        stored = await rows(another, made["id"])
        assert [row.line for row in stored] == list(range(1_001, 2_501))


async def test_its_progress_is_told_as_events(working: Gate) -> None:
    caller = await working.caller()
    made = await created(caller, lines(3, max_tokens=5))
    await ended(working, caller, made["id"])
    told = (await caller.send("GET", f"/batches/{made['id']}/events")).text.split("\n\n")
    names = [event.split("\n")[0] for event in told if event]
    assert names == ["event: progress", "event: end"]
    assert json.loads(told[1].partition("data: ")[2])["counts"]["succeeded"] == 3


async def test_a_page_lists_the_newest_first(caller: Caller) -> None:
    made = [(await created(caller, lines(n)))["id"] for n in (1, 2, 3)]
    page = await caller.get("/batches", limit=2)
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (made[:0:-1], True)
    rest = await caller.get("/batches", limit=2, after=made[1])
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (made[:1], False)
    past = await caller.get(f"{V4}/batches", after=made[0])
    assert past["data"] == [], "ZhipuAI's SDKs read on until a page is empty"


async def test_a_deleted_file_cannot_be_run(caller: Caller) -> None:
    file = await upload(caller, lines(1), prefix="")
    assert (await caller.send("DELETE", f"/files/{file['id']}")).status_code == 200
    error = refusal(await caller.send("POST", "/batches", body={"input_file_id": file["id"]}), 404)
    assert file["id"] in error["message"]
