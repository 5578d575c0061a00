"""The results of batches: as JSON lines, as a table, as OpenAI's files; while they run, and after."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.gateway.gate import ANSWER, Caller, Gate, refusal
from tests.gateway.test_batches import line, lines, rows, taken_in
from tests.store import seeds
from tollgate.domain.settling import Bill
from tollgate.store import batch_course, batches, price_list
from tollgate.store.schema import task_results, tasks

BAD = b'{"custom_id": "broken'


class Running:
    """A batch of five good lines and a bad one, the third, whose lines end as the test says."""

    def __init__(self, gate: Gate, caller: Caller, batch_id: str, tasks: dict[int, str]) -> None:
        self.gate = gate
        self.caller = caller
        self.id = batch_id
        self.tasks = tasks
        """Number -> task's id."""

    async def succeed(self, *numbers: int, text: str | None = None, **changes: Any) -> None:
        for number in numbers:
            answer = json.loads(ANSWER)
            answer["choices"][0]["message"]["content"] = f"answer {number}" if text is None else text
            told = {"result": json.dumps(answer, ensure_ascii=False), **changes}
            await self.gate.succeed(self.tasks[number], **told)

    async def fail(self, *numbers: int, message: str = "refused") -> None:
        for number in numbers:
            await self.gate.fail(self.tasks[number], message=message)

    async def text(self, **asked: Any) -> str:
        response = await self.caller.send("GET", f"/batches/{self.id}/results", params=asked)
        assert response.status_code == 200, response.text
        return response.text

    async def read(self, **asked: Any) -> list[Any]:
        return [json.loads(one) for one in (await self.text(**asked)).split("\n")[:-1]]

    async def numbers(self, **asked: Any) -> list[int]:
        return [one["line"] for one in await self.read(**asked)]

    async def state(self, **asked: Any) -> str:
        response = await self.caller.send("GET", f"/batches/{self.id}/results", params=asked)
        return response.headers["x-batch-state"]

    async def retry(self) -> None:
        """What failed is queued again, as other tasks."""
        project_id = (await self.gate.stored_key()).project_id
        async with self.gate.database.write() as connection:
            batch = await batches.find(connection, UUID(self.id), project_id=project_id)
            await batches.retry(connection, batch, now=(now := datetime.now(UTC)))
            await batch_course.try_again(connection, batch.id, before=now, now=now)
        await told(self.gate)
        standing = [row for row in await rows(self.gate, self.id) if not row.superseded]
        self.tasks = {row.line: str(row.id) for row in standing}

    async def end(self) -> None:
        async with self.gate.database.write() as connection:
            assert await batch_course.end(connection, UUID(self.id), now=datetime.now(UTC)) is not None


async def told(gate: Gate) -> None:
    """A worker may claim whatever is queued."""
    async with gate.database.write() as connection:
        await connection.execute(tasks.update().values(announced_at=datetime.now(UTC)))


@pytest.fixture
async def running(gate: Gate, caller: Caller) -> Running:
    made = await taken_in(caller, b"\n".join([line(1), line(2), BAD, line(4), line(5), line(6)]))
    await told(gate)
    ids = {row.line: str(row.id) for row in await rows(gate, made["id"])}
    return Running(gate, caller, made["id"], ids)


async def test_a_line_tells_what_was_asked_answered_and_paid(running: Running) -> None:
    await running.succeed(1)
    await running.fail(2, message="unsafe")
    first, second, third = await running.read(include="input")
    assert json.loads(ANSWER)["usage"] == first["response"]["usage"]
    assert {**first, "response": None} == {
        "line": 1, "custom_id": "line-1", "task_id": running.tasks[1], "status": "SUCCESS", "state": "succeeded",
        "model": "glm-4.7", "upstream": "zhipu/glm-4.7", "text": "answer 1", "cost": "0.0006", "error": None,
        "usage": {"prompt_tokens": 100, "cached_tokens": 20, "completion_tokens": 50, "total_tokens": 150},
        "input": {"model": "glm-4.7", "messages": [{"role": "user", "content": "hello 1"}]}, "response": None,
    }  # fmt: skip
    assert (second["status"], second["state"], second["text"], second["response"], second["cost"]) == (
        "FAIL", "failed", None, None, None,
    )  # fmt: skip
    assert second["error"] == {"code": "1301", "message": "unsafe"}
    assert second["input"]["messages"][0]["content"] == "hello 2"
    assert (third["line"], third["state"], third["task_id"], third["input"]) == (3, "invalid", None, None)
    assert third["error"]["code"] == "invalid_json_line"


async def test_what_was_bought_twice_costs_both(running: Running) -> None:
    claimed = await running.gate.claim(running.tasks[1])
    async with running.gate.database.read() as connection:
        price = (await price_list.load(connection)).find("zhipu", "glm-4.7", at=datetime.now(UTC))
    assert price is not None
    paid = Bill(prompt_tokens=7, completion_tokens=3, price_id=price.id, price_tier="all", cost_nano=400_000)
    await seeds.settle(running.gate.database, seeds.doubt(claimed, bill=paid), now=datetime.now(UTC))
    await told(running.gate)
    await running.succeed(1)
    (first,) = await running.read()
    assert first["cost"] == "0.001"
    assert first["usage"]["prompt_tokens"] == 107


class TestInTheOrderOfTheInput:
    async def test_a_running_batch_is_told_up_to_the_first_line_that_has_not_ended(self, running: Running) -> None:
        assert await running.numbers() == []
        await running.succeed(2, 5)
        assert await running.numbers() == []
        await running.succeed(1)
        assert await running.numbers() == [1, 2, 3], "line 3 is invalid, 4 has not ended"
        assert await running.state() == "in_progress"
        await running.fail(4)
        await running.succeed(6)
        assert await running.numbers(after=3) == [4, 5, 6]
        await running.end()
        assert await running.state() == "completed"
        assert await running.numbers() == [1, 2, 3, 4, 5, 6]
        assert await running.numbers(after=6) == []

    @pytest.mark.parametrize(("which", "chosen"), [("all", [1, 2, 3, 4]), ("succeeded", [1, 4]), ("failed", [2, 3])])
    async def test_those_that_are_asked_for_come_and_no_more(
        self, running: Running, which: str, chosen: list[int]
    ) -> None:
        await running.succeed(1, 4, 6)
        await running.fail(2)
        assert await running.numbers(which=which) == chosen, "5 has not ended"
        await running.fail(5)
        await running.end()
        rest = {"all": [5, 6], "succeeded": [6], "failed": [5]}[which]
        assert await running.numbers(which=which) == [*chosen, *rest]
        assert await running.numbers(which=which, after=4) == rest
        assert await running.numbers(which=which, limit=1) == chosen[:1]

    async def test_a_line_that_was_tried_again_is_told_as_it_ended_last(self, running: Running) -> None:
        await running.succeed(1, 2, 5, 6)
        await running.fail(4)
        await running.end()
        await running.retry()
        assert await running.numbers() == [1, 2, 3], "line 4 runs again"
        assert await running.state() == "in_progress"
        await running.succeed(4, text="at last")
        told = await running.read()
        assert [(one["line"], one["status"]) for one in told][3] == (4, "SUCCESS")
        assert [one["line"] for one in told] == [1, 2, 3, 4, 5, 6]


class TestAsTheyFinished:
    async def test_they_come_in_that_order_and_refused_ones_first(self, running: Running) -> None:
        for number in (5, 2, 6):
            await running.succeed(number)
        assert await running.numbers(order="finished") == [3, 5, 2, 6]
        assert await running.numbers(order="finished", which="succeeded") == [5, 2, 6]

    async def test_of_an_ended_batch_a_cursor_goes_on_exactly_there(self, running: Running) -> None:
        for number in (5, 2, 6, 1, 4):
            await running.succeed(number)
        await running.end()
        told = await running.read(order="finished")
        assert [one["line"] for one in told] == [3, 5, 2, 6, 1, 4]
        for place, one in enumerate(told, start=1):
            rest = await running.numbers(order="finished", after=one["cursor"])
            assert rest == [other["line"] for other in told[place:]]

    async def test_openais_lines_have_cursors_too_and_in_the_inputs_order_none(self, running: Running) -> None:
        for number in (5, 2, 6, 1, 4):
            await running.succeed(number)
        await running.end()
        told = await running.read(order="finished", format="openai")
        rest = await running.read(order="finished", format="openai", after=told[2]["cursor"])
        assert [one["id"] for one in rest] == [one["id"] for one in told[3:]]
        assert not any("cursor" in one for one in await running.read(format="openai"))

    async def test_what_was_committed_late_comes_with_the_next_answer(self, running: Running) -> None:
        slow = await running.gate.claim(running.tasks[1])
        ended_at = datetime.now(UTC)
        await running.succeed(5, 2)
        told = await running.read(order="finished")
        assert [one["line"] for one in told] == [3, 5, 2]
        await seeds.settle(running.gate.database, seeds.success(slow, bill=Bill(), result=ANSWER), now=ended_at)
        again = await running.numbers(order="finished", after=told[-1]["cursor"])
        assert again == [1, 5, 2], "the last minute's may come again, the refused ones not"

    async def test_what_ended_long_ago_does_not_come_again(self, running: Running) -> None:
        await running.succeed(5)
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        claimed = await running.gate.claim(running.tasks[2])
        await seeds.settle(running.gate.database, seeds.success(claimed, bill=Bill(), result=ANSWER), now=long_ago)
        told = await running.read(order="finished")
        assert [one["line"] for one in told] == [3, 2, 5]
        assert await running.numbers(order="finished", after=told[1]["cursor"]) == [5]

    async def test_lines_that_ended_in_the_same_moment_are_told_once(self, running: Running) -> None:
        moment = datetime.now(UTC) - timedelta(hours=1)
        claimed = [await running.gate.claim(running.tasks[number]) for number in (6, 4, 1, 2, 5)]
        settled = [seeds.success(one, bill=Bill(), result=ANSWER) for one in claimed]
        await seeds.settle(running.gate.database, *settled, now=moment)
        told = await running.read(order="finished", which="succeeded")
        assert [one["line"] for one in told] == [1, 2, 4, 5, 6]
        rest = await running.numbers(order="finished", which="succeeded", after=told[2]["cursor"])
        assert rest == [5, 6]


class TestTable:
    async def read(self, running: Running, **asked: Any) -> list[list[str]]:
        return list(csv.reader(io.StringIO(await running.text(format="csv", **asked), newline="")))

    async def test_a_row_for_each_line(self, running: Running) -> None:
        await running.succeed(1, text='two\nlines, a "quote" and 逗号')
        await running.fail(2)
        head, first, second, third = await self.read(running, include="input")
        assert head == [
            "line", "custom_id", "status", "answer", "error_code", "error", "model", "prompt_tokens",
            "completion_tokens", "cost", "input",
        ]  # fmt: skip
        assert first[:-1] == [
            "1", "line-1", "SUCCESS", 'two\nlines, a "quote" and 逗号', "", "", "glm-4.7", "100", "50", "0.0006",
        ]  # fmt: skip
        assert json.loads(first[-1])["messages"][0]["content"] == "hello 1"
        assert second[:-1] == ["2", "line-2", "FAIL", "", "1301", "refused", "glm-4.7", "", "", ""]
        assert third[:5] == ["3", "", "FAIL", "", "invalid_json_line"]

    @pytest.mark.parametrize(
        ("answer", "cell"),
        [
            ("=1+1", "'=1+1"),
            ("+49 30", "'+49 30"),
            ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("＝1+1", "'＝1+1"),
            ("\t=1", "'\t=1"),
            ("-1.5", "-1.5"),
            ("+7", "+7"),
            ("a = b", "a = b"),
            ("", ""),
        ],
    )
    async def test_no_cell_is_a_formula(self, running: Running, answer: str, cell: str) -> None:
        await running.succeed(1, text=answer)
        assert (await self.read(running))[1][3] == cell
        assert (await running.read())[0]["text"] == answer, "in JSON it is what it is"

    async def test_what_goes_on_has_no_head(self, running: Running) -> None:
        await running.succeed(1, 2, 4)
        whole, begun = await running.text(format="csv"), await running.text(format="csv", limit=2)
        assert begun + await running.text(format="csv", after=2) == whole
        told = await self.read(running, order="finished")
        assert told[0][-1] == "cursor"
        rest = await self.read(running, order="finished", after=told[1][-1])
        assert [row[:-1] for row in rest] == [row[:-1] for row in told[2:]]


class TestOpenAIsLines:
    async def test_an_answer_is_told_as_the_endpoint_would(self, running: Running) -> None:
        await running.succeed(1)
        (told,) = await running.read(format="openai", limit=1)
        task_id = UUID(running.tasks[1])
        assert (told["id"], told["custom_id"], told["error"]) == (f"batch_req_{task_id.hex}", "line-1", None)
        assert (told["response"]["status_code"], told["response"]["request_id"]) == (200, task_id.hex)
        body = told["response"]["body"]
        assert (body["object"], body["model"], body["id"]) == ("chat.completion", "glm-4.7", str(task_id))
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "answer 1", "refusal": None}

    async def test_what_failed_has_a_status_and_an_error(self, running: Running) -> None:
        await running.fail(1, message="unsafe")
        await running.caller.post(f"/tasks/{running.tasks[2]}/cancel")
        failed, cancelled, invalid = await running.read(format="openai")
        assert failed["response"]["status_code"] == 400
        assert failed["response"]["body"]["error"] == {
            "message": "unsafe", "type": "invalid_request_error", "param": None, "code": "1301",
        }  # fmt: skip
        assert failed["error"] == {"code": "1301", "message": "unsafe"}
        assert (cancelled["response"]["status_code"], cancelled["error"]["code"]) == (400, "batch_cancelled")
        assert (invalid["error"]["code"], invalid["error"]["line"]) == ("invalid_json_line", 3)
        assert (invalid["response"]["status_code"], invalid["custom_id"]) == (400, None)
        assert invalid["id"] == f"batch_req_{UUID(running.id).hex}_3"

    async def test_zhipuais_are_in_its_words(self, gate: Gate, caller: Caller) -> None:
        content = lines(2, url="/v4/chat/completions")
        made = await taken_in(caller, content, endpoint="/v4/chat/completions")
        await told(gate)
        ids = {row.line: str(row.id) for row in await rows(gate, made["id"])}
        running = Running(gate, caller, made["id"], ids)
        await running.succeed(1)
        await running.fail(2, message="unsafe")
        first, second = await running.read(format="openai")
        body = first["response"]["body"]
        assert (body["request_id"], body["usage"]["total_tokens"]) == (ids[1], 150)
        assert "object" not in body
        assert second["response"]["body"] == {"error": {"code": "1301", "message": "unsafe"}}

    async def test_the_files_of_a_batch_hold_them(self, running: Running) -> None:
        await running.succeed(1, 2, 5, 6)
        await running.fail(4)
        await running.end()
        shown = await running.caller.get(f"/batches/{running.id}")
        for prefix in ("", "/v1", "/api/paas/v4"):
            for name, which in (("output_file_id", "succeeded"), ("error_file_id", "failed")):
                path = f"{prefix}/files/{shown[name]}/content"
                assert (await running.caller.send("GET", path)).text == await running.text(format="openai", which=which)
        await running.retry()
        gone = await running.caller.send("GET", f"/files/{shown['error_file_id']}/content")
        assert refusal(gone, 404)["type"] == "not_found"
        stranger = await running.gate.caller(project="others")
        assert (await stranger.send("GET", f"/files/{shown['output_file_id']}/content")).status_code == 404

    async def test_they_do_not_hold_the_input(self, running: Running) -> None:
        asked = {"format": "openai", "include": "input"}
        refused = await running.caller.send("GET", f"/batches/{running.id}/results", params=asked)
        assert refusal(refused, 400)["field"] == "include"


@pytest.mark.parametrize("form", ["jsonl", "openai"])
async def test_whatever_a_model_writes_a_line_is_one_line(running: Running, form: str) -> None:
    text = "a\u2028b\u2029c\u0085d\ne\r"
    await running.succeed(1, text=text)
    pretty = json.dumps(json.loads(ANSWER), indent=2).replace("\n", "\r\n")
    await running.gate.succeed(running.tasks[2], result=pretty)
    told = (await running.text(format=form)).splitlines()
    assert len(told) == 3
    body = [json.loads(one)["response"] for one in told[:2]]
    answers = [one["body"] if form == "openai" else one for one in body]
    assert [one["choices"][0]["message"]["content"] for one in answers] == [text, "hi"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "openai"])
async def test_an_answer_that_was_erased_is_told_to_be(running: Running, form: str) -> None:
    await running.succeed(1)
    async with running.gate.database.write() as connection:
        await connection.execute(sa.delete(task_results).where(task_results.c.task_id == UUID(running.tasks[1])))
    told = await running.text(format=form, which="succeeded")
    assert "erased" in told
    assert form != "jsonl" or json.loads(told)["cost"] == "0.0006", "what it cost stays"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"after": "x"}, "after"),
        ({"after": "-1"}, "after"),
        ({"after": str(2**63)}, "after"),
        ({"after": "7", "order": "finished"}, "after"),
        ({"after": "9" * 18 + "-1-1", "order": "finished"}, "after"),
        ({"format": "xml"}, "format"),
        ({"order": "random"}, "order"),
        ({"which": "some"}, "which"),
        ({"limit": "0"}, "limit"),
        ({"include": "all"}, "include"),
        ({"foo": "1"}, "foo"),
    ],
)
async def test_a_wrong_question_is_refused(running: Running, query: dict[str, str], field: str) -> None:
    response = await running.caller.send("GET", f"/batches/{running.id}/results", params=query)
    assert refusal(response, 400)["field"] == field


async def test_another_projects_batch_is_not_there(running: Running) -> None:
    stranger = await running.gate.caller(project="others")
    assert refusal(await stranger.send("GET", f"/batches/{running.id}/results"), 404)["type"] == "not_found"


async def test_a_batch_over_many_pages_comes_whole(gate: Gate, caller: Caller) -> None:
    """Some lines in a hundred are bad, and a stretch of more than a page is."""
    count = 3_000
    given = [BAD if n % 50 == 0 or 900 < n <= 2_100 else line(n) for n in range(1, count + 1)]
    made = await taken_in(caller, b"\n".join(given))
    await told(gate)
    now, stored = datetime.now(UTC), await rows(gate, made["id"])
    for start in range(0, len(stored), 500):
        claimed = await seeds.claim(gate.database, *(row.id for row in stored[start : start + 500]), now=now)
        ends = [seeds.success(one, bill=Bill(), result=ANSWER) for one in claimed]
        await seeds.settle(gate.database, *ends, now=now)
    whole = Running(gate, caller, made["id"], {})
    everything = list(range(1, count + 1))
    assert await whole.numbers() == everything
    assert sorted(await whole.numbers(order="finished")) == everything
    good, bad = await whole.numbers(which="succeeded"), await whole.numbers(which="failed")
    assert (len(good), sorted(good + bad)) == (len(stored), everything)
    place, found = 0, list[int]()
    while part := await whole.numbers(after=place, limit=700):
        found += part
        place = part[-1]
    assert found == everything


async def test_a_client_that_leaves_stops_the_reading(running: Running) -> None:
    await running.succeed(1, 2)
    sent = asyncio.Event()
    stopped = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not asked:
            asked.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message.get("body"):
            sent.set()
            try:
                await asyncio.Event().wait()  # it takes no more
            finally:
                stopped.set()

    asked: list[bool] = []
    path = f"/batches/{running.id}/results"
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http", "query_string": b"",
        "headers": [(b"authorization", f"Bearer {running.caller.key}".encode())], "client": None, "server": None,
    }  # fmt: skip
    async with asyncio.timeout(10):
        await running.gate.app(scope, receive, send)
        await stopped.wait()
