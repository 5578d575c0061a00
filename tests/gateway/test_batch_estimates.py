"""POST /batches/estimate: what a batch would use, cost and take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import tokenizers

from gateway.batches import estimating
from gateway.batches.lines import LineDefaults
from gateway.batches.reader import RawLine
from gateway.turns import TURN_S
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import UNPRICED, Caller, Gate, one, refusal
from tests.gateway.test_files import NO_ID, upload
from tollgate.domain.batches import Via
from tollgate.domain.ids import new_id
from tollgate.domain.states import Role
from tollgate.store import leases
from tollgate.store.leases import RouteLoad

PROMPT = "x" * 350
"""104 tokens as estimated: 100 by its characters, and 4 for the message."""


def line(number: int = 1, **body: Any) -> dict[str, Any]:
    chat = {"model": "glm-4.7", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 160, **body}
    return {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": chat}


async def estimate(caller: Caller, *tasks: dict[str, Any], **fields: Any) -> Any:
    return await caller.post("/batches/estimate", {"tasks": list(tasks), **fields})


async def of_file(caller: Caller, *lines: Any, **fields: Any) -> Any:
    raw = b"\n".join(given if isinstance(given, bytes) else orjson.dumps(given) for given in lines)
    file = await upload(caller, raw)
    return await caller.post("/batches/estimate", {"input_file_id": file["id"], **fields})


async def works(gate: Gate, load: dict[str, RouteLoad]) -> None:
    """A worker of the cloud's lanes says so with its heartbeat."""
    worker_id, now = new_id(), datetime.now(UTC)
    async with gate.database.write() as connection:
        await leases.register(connection, worker_id, name="w", lanes=("cloud.bulk",), now=now)
        assert await leases.renew(connection, worker_id, load=load, now=now)


async def answer(gate: Gate, caller: Caller, *, count: int = 1) -> None:
    """As the model did before: 100 tokens in, 50 out. Its prompt was estimated at 104."""
    for _ in range(count):
        await gate.succeed(await caller.id_of(prompt=PROMPT))


def spread(low: object, likely: object, high: object) -> dict[str, Any]:
    return {"low": low, "likely": likely, "high": high}


class TestFigures:
    async def test_of_a_model_that_has_answered_nothing_yet(self, caller: Caller) -> None:
        told = await estimate(caller, line(1), line(2, max_tokens=16))
        assert (told["object"], told["currency"], told["lines"], told["invalid"]) == ("batch.estimate", "CNY", 2, 0)
        (model,) = told["models"]
        assert (model["model"], model["route"], model["lines"]) == ("glm-4.7", "zhipu/glm-4.7", 2)
        assert model["prompt_tokens"] == spread(146, 177, 208)
        assert model["completion_tokens"] == spread(11, 44, 176)
        direct = model["via"]["direct"]
        assert direct["cost"] == spread("0.0007584", "0.0014112", "0.003648")
        assert direct["most_of_a_line"] == "0.002976"
        half = model["via"]["upstream_batch"]
        assert half["cost"] == spread("0.0003792", "0.0007056", "0.001824")
        assert told["total"]["via"]["direct"]["cost"] == direct["cost"]
        assert told["total"]["prompt_tokens"] == model["prompt_tokens"]
        assert any("has answered nothing yet in this project" in said for said in model["assumptions"])

    async def test_by_the_past_answers_of_the_project(self, gate: Gate, caller: Caller) -> None:
        await answer(gate, caller, count=3)
        await answer(gate, await gate.caller(project="other"), count=2)
        (model,) = (await estimate(caller, line(1), line(2, max_tokens=20)))["models"]
        assert model["prompt_tokens"] == spread(200, 200, 200)
        assert model["completion_tokens"] == spread(70, 70, 70), "50, and 20 where no more are allowed"
        assert model["via"]["direct"]["cost"]["likely"] == "0.00192"
        said = " ".join(model["assumptions"])
        assert "times 0.96 (0.96 to 0.96), as the last 3 answers of glm-4.7 in this project were counted" in said
        assert "as the last 3 answers of glm-4.7 in this project, of which a tenth had 50 or fewer" in said

    async def test_an_alias_is_the_same_model(self, gate: Gate, caller: Caller) -> None:
        flash = one(PROMPT, model="flash")
        await gate.succeed((await caller.submit(flash))["id"])
        (model,) = (await estimate(caller, flash, {**flash, "model": "glm-4-flash"}))["models"]
        assert (model["model"], model["lines"]) == ("glm-4-flash", 2)
        assert "the last 1 answers" in model["assumptions"][0]
        assert model["via"]["direct"]["cost"] == spread("0", "0", "0")

    async def test_each_model_for_itself_and_all_together(self, caller: Caller) -> None:
        vectors = {"custom_id": "e", "url": "/v1/embeddings", "body": {"model": "embedding-3", "input": [PROMPT]}}
        told = await estimate(caller, line(), vectors, {**one(PROMPT, model=UNPRICED)})
        assert [model["model"] for model in told["models"]] == ["glm-4.7", "embedding-3", UNPRICED]
        assert told["models"][1]["completion_tokens"] == spread(0, 0, 0)
        total = told["total"]
        assert total["lines"] == 3
        assert total["via"]["direct"]["cost"] is None
        assert total["via"]["direct"]["why_no_cost"] == "zhipu/embedding-3 has no price"
        assert total["via"]["local"]["why_no_cost"] == "no route of glm-4.7 is on a GPU of this installation"

    async def test_defaults_are_those_of_the_batch(self, caller: Caller) -> None:
        said = {"model": "glm-4.7", "parameters": {"max_tokens": 16}, "system": "y" * 35, "label": "night"}
        (model,) = (await estimate(caller, {"prompt": PROMPT}, **said))["models"]
        assert model["prompt_tokens"]["high"] == 104 + 14
        assert model["completion_tokens"] == spread(1, 4, 16)

    async def test_both_names_of_the_bound_are_one(self, gate_with: OpenGate) -> None:
        async with gate_with() as gate:
            caller = await gate.caller()
            (model,) = (await estimate(caller, line(max_tokens=None, max_completion_tokens=16)))["models"]
        assert model["completion_tokens"] == spread(1, 4, 16)


class TestTime:
    async def test_no_worker_no_time(self, caller: Caller) -> None:
        direct = (await estimate(caller, line()))["total"]["via"]["direct"]
        assert (direct["seconds"], direct["why_no_seconds"]) == (None, "no worker calls zhipu/glm-4.7 now")

    async def test_at_the_present_speed(self, gate: Gate, caller: Caller) -> None:
        await works(gate, {"zhipu/glm-4.7": RouteLoad(40, 0)})
        told = await estimate(caller, *(line(n) for n in range(8)))
        assert told["total"]["via"]["direct"]["seconds"] == 2.0
        assert told["total"]["via"]["upstream_batch"]["seconds"] is None
        assert told["total"]["via"]["upstream_batch"]["why_no_seconds"].startswith("as long as")
        assert "4 calls a second" in told["models"][0]["assumptions"][-1]

    async def test_a_route_that_no_worker_has_met_has_the_slots_it_is_allowed(self, gate: Gate, caller: Caller) -> None:
        await works(gate, {})
        await answer(gate, caller)
        told = await estimate(caller, line())
        assert told["total"]["via"]["direct"]["seconds"] is not None
        assert "500 slots that are allowed" in told["models"][0]["assumptions"][-1]


class TestLimits:
    async def test_which_of_the_figures_fits_max_cost(self, caller: Caller) -> None:
        told = await estimate(caller, line(), max_cost="0.001")
        assert told["max_cost"] == "0.001"
        assert told["fits_max_cost"] == spread(True, True, False)
        half = await estimate(caller, line(), max_cost="0.0015", via="upstream_batch")
        assert half["fits_max_cost"] == spread(True, True, True)
        assert (await estimate(caller, line()))["fits_max_cost"] is None
        assert (await estimate(caller, one(model=UNPRICED), max_cost="1"))["fits_max_cost"] is None

    async def test_what_is_left_of_the_budgets_that_cover_it(self, gate: Gate, caller: Caller) -> None:
        admin = await gate.caller(project="admins", role=Role.ADMIN)
        of_project = {"project": "acme", "period": "total", "limit_cost": "0.001"}
        of_another = {"project": "admins", "period": "total", "limit_cost": "1"}
        in_flight = {"project": "acme", "period": "in_flight", "limit_tasks": 5}
        of_month = {"project": "acme", "period": "month", "limit_tokens": 150}
        for budget in (of_project, of_another, in_flight, of_month):
            assert (await admin.send("PUT", "/budgets", body=budget)).status_code == 200
        first, second = (await estimate(caller, line()))["budget_left"]
        assert (first["told"], first["left"]) == ("this project's budget", {"cost": "0.001"})
        assert (first["fits_cost"], first["fits_tokens"]) == (spread(True, True, False), None)
        assert (second["left"], second["fits_tokens"]) == ({"tokens": 150}, spread(True, True, False))


class TestInvalidLines:
    async def test_they_are_counted_told_and_cost_nothing(self, caller: Caller) -> None:
        told = await of_file(
            caller,
            line(1),
            b"",
            b"{",
            line(3, temperature=3),
            line(4, model="gpt-9"),
            line(5, max_tokens=1_000_000),
            line(6),
        )
        assert (told["lines"], told["invalid"], told["total"]["lines"]) == (6, 4, 2)
        assert [(bad["line"], bad["custom_id"], bad["code"], bad["field"]) for bad in told["invalid_lines"]] == [
            (3, None, "invalid_json_line", None),
            (4, "r-3", "invalid_value", "body.temperature"),
            (5, "r-4", "model_not_found", "model"),
            (6, "r-5", "invalid_value", "max_tokens"),
        ]

    async def test_of_lines_with_one_custom_id_the_first_valid_one_counts(self, caller: Caller) -> None:
        told = await estimate(caller, line(1, temperature=3), line(1), line(2), line(1), one("x" * 9), one("x" * 9))
        assert (told["lines"], told["invalid"], told["total"]["lines"]) == (6, 2, 4)
        first, second = told["invalid_lines"]
        assert (first["line"], first["code"]) == (1, "invalid_value")
        assert (second["line"], second["custom_id"], second["code"]) == (4, "r-1", "duplicate_custom_id")
        assert (second["field"], second["message"]) == (
            "custom_id", "custom_id 'r-1' stands in a line before; each line needs its own",
        )  # fmt: skip

    async def test_so_many_custom_ids_are_kept_and_it_says_so(
        self, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(estimating, "KEPT_IDS", 2)  # half a million would take half a minute
        told = await estimate(caller, line(1), line(2), line(3), line(3), line(1))
        assert [bad["line"] for bad in told["invalid_lines"]] == [5]
        assert "the first 2 custom_ids" in told["assumptions"][-1]
        assert "custom_ids" not in str((await estimate(caller, line(1)))["assumptions"])

    async def test_models_that_the_key_may_not_use(self, gate: Gate) -> None:
        caller = await gate.caller(models=frozenset({"glm-4-flash"}))
        told = await estimate(caller, line())
        assert [bad["code"] for bad in told["invalid_lines"]] == ["permission_denied"]
        assert told["models"] == []
        assert told["total"]["via"]["direct"]["cost"] == spread("0", "0", "0")

    async def test_the_first_of_many_are_told(self, caller: Caller) -> None:
        told = await of_file(caller, *([b"{"] * (estimating.SHOWN + 5)))
        assert told["invalid"] == estimating.SHOWN + 5
        assert [bad["line"] for bad in told["invalid_lines"]] == list(range(1, estimating.SHOWN + 1))

    async def test_a_line_over_the_limit(self, gate_with: OpenGate) -> None:
        async with gate_with(max_line_bytes=1_000) as gate:
            caller = await gate.caller()
            long = one("x" * 1_000)
            for told in (await of_file(caller, one(), long), await estimate(caller, one(), long)):
                assert [(bad["line"], bad["code"]) for bad in told["invalid_lines"]] == [(2, "line_too_long")]


class TestRequests:
    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "input_file_id"),
            ({"input_file_id": NO_ID, "tasks": [one()]}, "tasks"),
            ({"tasks": []}, "tasks"),
            ({"tasks": ["a prompt"]}, "tasks.0"),
            ({"input_file_id": "mine"}, "input_file_id"),
            ({"tasks": [one()], "endpoint": "/v1/responses"}, "endpoint"),
            ({"tasks": [one()], "via": "local"}, "via"),
            ({"tasks": [one()], "max_cost": "much"}, "max_cost"),
            ({"tasks": [one()], "parameters": {"temperature": 9}}, "parameters.temperature"),
            ({"tasks": [one()], "modle": "glm-4.7"}, "modle"),
        ],
    )
    async def test_what_cannot_be_estimated(self, sqlite_gate: Gate, body: Any, field: str) -> None:
        caller = await sqlite_gate.caller()
        refused = refusal(await caller.send("POST", "/batches/estimate", body=body), 400)
        assert refused["field"] == field

    async def test_the_body_of_a_batch_is_taken_as_it_is(self, caller: Caller) -> None:
        file = await upload(caller, orjson.dumps(line()))
        body = {"input_file_id": file["id"], "completion_window": "7d", "strict": True, "metadata": {"a": 1}}
        assert (await caller.post("/batches/estimate", body))["lines"] == 1

    async def test_another_projects_file_is_not_there(self, gate: Gate, caller: Caller) -> None:
        file = await upload(await gate.caller(project="other"), orjson.dumps(line()))
        response = await caller.send("POST", "/batches/estimate", body={"input_file_id": file["id"]})
        assert refusal(response, 404)["type"] == "not_found"

    async def test_nothing_is_kept(self, caller: Caller) -> None:
        await of_file(caller, line())
        assert (await caller.get("/tasks"))["data"] == []
        assert (await caller.get("/batches"))["data"] == []


class TestTokenizer:
    async def estimated(self, gate_with: OpenGate, folder: Path, *, breaks: bool) -> Any:
        """Of one prompt, for a model whose tokenizer takes each word for a token."""
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        made.save(str(folder / "words.json"))
        models = folder / "own.toml"
        models.write_text(
            '[[upstream]]\nname = "vllm"\nkind = "openai"\nbase_url = "http://127.0.0.1:9"\n'
            '[[model]]\nname = "words"\nroutes = ["vllm/words"]\ntokenizer = "words.json"\n'
        )
        async with gate_with(models_file=models) as gate:
            if breaks:
                (folder / "words.json").write_text("{")
            caller = await gate.caller()
            return (await estimate(caller, one("one two three", model="words")))["models"][0]

    async def test_prompts_are_counted_by_it(self, gate_with: OpenGate, tmp_path: Path) -> None:
        model = await self.estimated(gate_with, tmp_path, breaks=False)
        assert model["prompt_tokens"] == spread(7, 7, 7)
        assert "1 of 1 lines were counted by words.json" in model["assumptions"][0]

    async def test_one_that_broke_meanwhile_is_told_and_done_without(self, gate_with: OpenGate, tmp_path: Path) -> None:
        model = await self.estimated(gate_with, tmp_path, breaks=True)
        assert model["prompt_tokens"]["high"] == 8
        assert "words.json cannot be read" in model["assumptions"][1]


async def test_a_long_file_is_read_in_turns(sqlite_gate: Gate) -> None:
    """The loop's other work waits many times for a few milliseconds, not once for the whole file."""
    stored, waits = await sqlite_gate.stored_key(), list[float]()

    async def given() -> AsyncGenerator[RawLine]:
        for number in range(1, 10_001):
            yield RawLine(number, orjson.dumps(line(number)), 0, 0)

    async def other_work() -> None:
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(0)
            waits.append(time.monotonic() - began_s)

    working = asyncio.create_task(other_work())
    found = await estimating.estimate(sqlite_gate.services, stored, given(), defaults=LineDefaults(), via=Via.DIRECT)
    working.cancel()
    assert found.models[0].lines == 10_000
    assert sum(wait_s >= TURN_S for wait_s in waits) >= 10
